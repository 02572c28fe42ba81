"""A job and its code as one zip: the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from orchestrator.clusters.packaging.custom_modules import find_custom_modules
from orchestrator.clusters.packaging.select_files import SelectedFiles, select_files
from orchestrator.errors import RequestError
from orchestrator.job import Job, explicit_job_dict, job_dict
from orchestrator.storage import is_remote
from orchestrator.tracking.code_version import COMMIT_FILE, DIFF_FILE

PACKAGED_JOB_FILE = ".orchestrator-job.yaml"
"""Where the job lies in a package."""

MAX_CODE_MIB = 50
"""Code of a project is small; what is larger is data that was not meant."""

# Zip knows no time before this one.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LARGEST_SHOWN = 3


@dataclass(frozen=True)
class Package:
    """A zip that was made."""

    path: Path
    digest: str
    """sha256 of the zip."""

    files: int
    bytes: int
    """Of the files, unpacked."""

    notes: tuple[str, ...]
    """What a person should know: what goes along uncommitted, what was left out."""


def make_package(job: Job, folder: Path, out: Path, *, limit_mib: float = MAX_CODE_MIB) -> Package:
    """Write the code in `folder`, the user's own parts from elsewhere, and the job to a zip.

    Raises:
        RequestError: the code is larger than `limit_mib`, there are far too many files, or git
            fails.
    """
    folder = folder.absolute()
    storage = None if is_remote(job.storage) else folder / job.storage
    chosen = select_files(folder, storage)
    parts = find_custom_modules(job_dict(job), folder)
    files = {**parts, **chosen.files}
    _check_size(files, folder, limit_mib)
    members: dict[str, Path | bytes] = {**files, **_generated_files(job, chosen)}
    _write_zip(members, out)
    notes = chosen.notes()
    packages = sorted({PurePosixPath(name).parts[0] for name in parts.keys() - chosen.files.keys()})
    if packages:
        notes.append(f"goes along from elsewhere: {', '.join(packages)}")
    return Package(
        out,
        hashlib.sha256(out.read_bytes()).hexdigest(),
        len(members),
        sum(_size(member) for member in members.values()),
        tuple(notes),
    )


def _generated_files(job: Job, chosen: SelectedFiles) -> dict[str, Path | bytes]:
    """What a package holds beside code: the job, the commit, and what was not committed."""
    members: dict[str, Path | bytes] = {
        PACKAGED_JOB_FILE: yaml.safe_dump(
            explicit_job_dict(job), sort_keys=False, allow_unicode=True
        ).encode()
    }
    checkout = chosen.checkout
    if checkout is None:
        return members
    dirty = bool(chosen.changed or chosen.untracked)
    if dirty:
        members[DIFF_FILE] = checkout.diff(chosen.changed, chosen.untracked)
    if checkout.commit is not None:
        facts = {"commit": checkout.commit, "branch": checkout.branch, "dirty": dirty}
        members[COMMIT_FILE] = json.dumps(facts).encode()
    return members


def _check_size(files: dict[str, Path], folder: Path, limit_mib: float) -> None:
    sizes = {name: _size(file) for name, file in files.items()}
    total = sum(sizes.values()) / 2**20
    if total <= limit_mib:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_LARGEST_SHOWN]
    shown = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in largest)
    raise RequestError(
        f"the code comes to {total:,.1f} MiB in {len(files):,} files, more than {limit_mib:g};"
        f" the largest: {shown}",
        where=str(folder),
        hint="name them in .gitignore (git rm --cached what is tracked), or raise --code-limit",
    )


def _write_zip(members: dict[str, Path | bytes], out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(members):
            member = members[name]
            assert not PurePosixPath(name).is_absolute()
            assert ".." not in PurePosixPath(name).parts
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            executable = isinstance(member, Path) and member.stat().st_mode & 0o100
            info.external_attr = (0o100755 if executable else 0o100644) << 16
            info.create_system = 3  # Unix, wherever it is made
            content = member.read_bytes() if isinstance(member, Path) else member
            archive.writestr(info, content, compresslevel=6)


def _size(member: Path | bytes) -> int:
    return member.stat().st_size if isinstance(member, Path) else len(member)
