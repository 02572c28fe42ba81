"""What git says of a folder: its files, its commit, and what is not committed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RequestError

# What git calls the tree without files: the base of changes before the first commit.
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

# A person's own settings must not change the bytes of a diff.
_PLAIN = ("-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false")


@dataclass(frozen=True)
class GitCheckout:
    """A folder of a git checkout; paths are relative to it."""

    folder: Path
    commit: str | None
    """None before the first commit."""

    branch: str
    tracked: tuple[str, ...]
    untracked: tuple[str, ...]
    """Files that git neither tracks nor ignores."""

    changed: tuple[str, ...]
    """Tracked files that differ from the commit."""

    def diff(self, tracked: list[str], untracked: list[str]) -> bytes:
        """These files' changes since the commit, as `git apply` takes them."""
        text = b""
        if tracked:
            text = _git(
                self.folder,
                *("diff", "--relative", "--binary", "--full-index", "--no-color"),
                *("--no-ext-diff", "--no-textconv", self.commit or _EMPTY_TREE, "--"),
                *(f":(literal){name}" for name in tracked),
            )
        return text + b"".join(_new_file_diff(name, self.folder / name) for name in untracked)


def read_checkout(folder: Path) -> GitCheckout | None:
    """What git says of `folder`; None where it tracks nothing there.

    Raises:
        RequestError: it is a checkout, and git fails on it.
    """
    try:
        inside = _run(folder, "rev-parse", "--is-inside-work-tree")
    except FileNotFoundError:
        return None  # no git on this machine
    if inside.returncode or inside.stdout.strip() != b"true":
        return None
    tracked = _names(_git(folder, "ls-files", "-z", "--cached", "--recurse-submodules"))
    if not tracked:
        return None
    head = _run(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    commit = os.fsdecode(head.stdout.strip()) if head.returncode == 0 else None
    branch = _run(folder, "symbolic-ref", "--short", "--quiet", "HEAD")
    changes = ("diff", "--relative", "--name-only", "-z", commit or _EMPTY_TREE)
    return GitCheckout(
        folder,
        commit,
        os.fsdecode(branch.stdout.strip()),
        tracked,
        _names(_git(folder, "ls-files", "-z", "--others", "--exclude-standard")),
        _names(_git(folder, *changes)),
    )


def _new_file_diff(name: str, file: Path) -> bytes:
    """The diff that makes a text file that git does not know yet."""
    lines = file.read_bytes().splitlines(keepends=True)
    path = os.fsencode(name)
    head = b"diff --git a/%s b/%s\nnew file mode 100644\n" % (path, path)
    if not lines:
        return head
    body = b"".join(b"+" + line for line in lines)
    if not body.endswith(b"\n"):
        body += b"\n\\ No newline at end of file\n"
    return head + b"--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n%s" % (path, len(lines), body)


def _names(output: bytes) -> tuple[str, ...]:
    return tuple(sorted({os.fsdecode(name) for name in output.split(b"\0") if name}))


def _git(folder: Path, *arguments: str) -> bytes:
    done = _run(folder, *arguments)
    if done.returncode:
        reason = os.fsdecode(done.stderr.strip()).splitlines()
        raise RequestError(
            f"git {arguments[0]} fails: {reason[0] if reason else f'exit code {done.returncode}'}",
            where=str(folder),
            hint="hint the checkout, or submit from a copy of it",
        )
    return done.stdout


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(folder), *_PLAIN, *arguments], capture_output=True)
