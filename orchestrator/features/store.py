"""A folder of features: `job.json` first, a file and a manifest per unit, `features.json` last.

A unit's file has the unit's name and, from the same model and video, the same bytes: it may be
written any number of times. Its manifest commits it. `features.json` commits the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import RequestError
from orchestrator.features.embedder import FailedClip
from orchestrator.job import differences
from orchestrator.storage import Storage

FORMAT_VERSION = 1
IDENTITY_FILE, FEATURES_FILE = "job.json", "features.json"
PARTS, MANIFESTS_FOLDER, FAILED_CLIPS_FILE = "parts", "units", "bad.parquet"
METADATA_KEY = b"orchestrator"
"""Key of each file's schema metadata: layout, name and identity as JSON."""

_BAD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("clip", pa.int32()),
        ("shard", pa.string()),
        ("video", pa.string()),
        ("reason", pa.string()),
        ("short", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class EmbedUnitReport:
    """What became of a unit. `failure`: why it could not be committed; `details`: the traceback of
    an error that nobody foresaw."""

    unit: int
    rows: int = 0
    size: int = 0
    sha256: str = ""
    bad: tuple[FailedClip, ...] = ()
    failure: str = ""
    details: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str | bytes) -> EmbedUnitReport:
        raw: dict[str, Any] = json.loads(text)
        return cls(**{**raw, "bad": tuple(FailedClip(**row) for row in raw["bad"])})


def claim_identity(folder: Storage, name: str, identity: dict[str, Any]) -> None:
    """Say whose features these are, before the first of them is made.

    Raises:
        RequestError: others already stand under this name.
    """
    mine = json.loads(json.dumps(identity))
    if folder.exists(IDENTITY_FILE):
        changes = differences(folder.read_json(IDENTITY_FILE)["identity"], mine)
        if changes:
            raise RequestError(
                f"other features already stand under the name '{name}'; they differ in:\n    "
                + "\n    ".join(changes),
                where=folder.root,
                hint="choose another name, or delete that folder",
            )
        return
    folder.write_json(IDENTITY_FILE, {"layout": FORMAT_VERSION, "name": name, "identity": mine})


def part_path(unit: int) -> str:
    """Path of a unit's file in the folder."""
    return f"{PARTS}/part-{unit:08d}.parquet"


def manifest_path(unit: int) -> str:
    """Path of a unit's manifest in the folder; gone once the whole is committed."""
    return f"{MANIFESTS_FOLDER}/{unit:08d}.json"


def commit_unit(
    folder: Storage, unit: int, rows: pa.Table, bad: list[FailedClip], metadata: dict[str, Any]
) -> EmbedUnitReport:
    """Write a unit's file, then its manifest."""
    text = json.dumps({"layout": FORMAT_VERSION, **metadata}, sort_keys=True)
    rows = rows.replace_schema_metadata({METADATA_KEY: text.encode()})
    sink = pa.BufferOutputStream()
    # Features do not compress, and no two are alike.
    pq.write_table(rows, sink, compression="none", use_dictionary=False, write_statistics=False)
    data = memoryview(sink.getvalue())
    folder.write_bytes(part_path(unit), data)
    report = EmbedUnitReport(
        unit, rows.num_rows, len(data), hashlib.sha256(data).hexdigest(), tuple(bad)
    )
    folder.write_bytes(manifest_path(unit), report.encode().encode())
    return report


def read_committed_reports(folder: Storage, num_units: int) -> Iterable[EmbedUnitReport]:
    """The reports of units that are done."""
    for entry in list(folder.files(MANIFESTS_FOLDER)):
        if entry.path.endswith(".json"):
            report = EmbedUnitReport.decode(folder.read_bytes(entry.path))
            if report.unit < num_units:
                yield report


def write_failed_clips(folder: Storage, bad: list[FailedClip]) -> None:
    """`bad.parquet`: every clip that has no features, and why."""
    sink = pa.BufferOutputStream()
    rows = [asdict(one) for one in bad]
    pq.write_table(pa.Table.from_pylist(rows, schema=_BAD_SCHEMA), sink)
    folder.write_bytes(FAILED_CLIPS_FILE, memoryview(sink.getvalue()))


def finalize_features(
    folder: Storage, reports: list[EmbedUnitReport], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write what is bad, then `features.json`; then the manifests go. Returns what it holds."""
    reports = sorted(reports, key=lambda report: report.unit)
    bad = [one for report in reports for one in report.bad]
    write_failed_clips(folder, bad)
    digest = hashlib.sha256()
    for report in reports:
        digest.update(f"{report.rows}:{report.sha256}\n".encode())
    whole = {
        **facts,
        "layout": FORMAT_VERSION,
        "digest": digest.hexdigest()[:16],
        "rows": sum(report.rows for report in reports),
        "bytes": sum(report.size for report in reports),
        "failed": sum(not one.short for one in bad),
        "short": sum(one.short for one in bad),
        "parts": [
            {
                "file": part_path(report.unit),
                "rows": report.rows,
                "bytes": report.size,
                "sha256": report.sha256,
            }
            for report in reports
        ],
    }
    folder.write_json(FEATURES_FILE, whole)
    folder.delete_tree(MANIFESTS_FOLDER)
    return whole
