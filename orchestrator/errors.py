"""One shape for every error a user can cause: what is wrong, where, and how to mend it."""

from __future__ import annotations


class OrchestratorError(Exception):
    """An error that is shown to a person as one clear message, never as a traceback.

    `what` says what is wrong, `where` names the file, line, key or clip, and `mend`
    says what to do about it. `details` is the traceback of an unforeseen error behind it, as
    text, which is kept in a file.
    """

    exit_code = 1
    prefix = "error: "

    def __init__(self, what: str, *, where: str = "", hint: str = "", details: str = "") -> None:
        self.what, self.where, self.hint, self.details = what, where, hint, details
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in Ray; keyword arguments do not survive by default.
        return (_rebuild, (type(self), self.what, self.where, self.hint, self.details))


class RequestError(OrchestratorError):
    """The request itself is wrong (a key, a value, a path): nothing was started. Exit code 2."""

    exit_code = 2


class JobFailed(OrchestratorError):
    """The job started and could not finish. What it had done is kept. Exit code 1."""


class DataError(OrchestratorError):
    """One input cannot be used. The caller decides: quarantine it, or stop."""


def _rebuild(
    kind: type[OrchestratorError], what: str, where: str, mend: str, details: str = ""
) -> OrchestratorError:
    return kind(what, where=where, hint=mend, details=details)


def suggest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """A "did you mean" sentence for `word`, or the list of what is known."""
    import difflib

    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(sorted(valid))
