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
from orchestrator.features.embedder import Bad
from orchestrator.job import differences
from orchestrator.storage import Storage

LAYOUT = 1
CLAIM, COMPLETE = "job.json", "features.json"
PARTS, UNITS, BAD = "parts", "units", "bad.parquet"
METADATA = b"orchestrator"
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
class Report:
    """What became of a unit. `failure`: why it could not be committed; `details`: the traceback of
    an error that nobody foresaw."""

    unit: int
    rows: int = 0
    size: int = 0
    sha256: str = ""
    bad: tuple[Bad, ...] = ()
    failure: str = ""
    details: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str | bytes) -> Report:
        raw: dict[str, Any] = json.loads(text)
        return cls(**{**raw, "bad": tuple(Bad(**row) for row in raw["bad"])})


def claim(folder: Storage, name: str, identity: dict[str, Any]) -> None:
    """Say whose features these are, before the first of them is made.

    Raises:
        RequestError: others already stand under this name.
    """
    mine = json.loads(json.dumps(identity))
    if folder.exists(CLAIM):
        changes = differences(folder.read_json(CLAIM)["identity"], mine)
        if changes:
            raise RequestError(
                f"other features already stand under the name '{name}'; they differ in:\n    "
                + "\n    ".join(changes),
                where=folder.root,
                mend="choose another name, or delete that folder",
            )
        return
    folder.write_json(CLAIM, {"layout": LAYOUT, "name": name, "identity": mine})


def part_name(unit: int) -> str:
    """Path of a unit's file in the folder."""
    return f"{PARTS}/part-{unit:08d}.parquet"


def manifest_name(unit: int) -> str:
    """Path of a unit's manifest in the folder; gone once the whole is committed."""
    return f"{UNITS}/{unit:08d}.json"


def commit_unit(
    folder: Storage, unit: int, rows: pa.Table, bad: list[Bad], about: dict[str, Any]
) -> Report:
    """Write a unit's file, then its manifest."""
    text = json.dumps({"layout": LAYOUT, **about}, sort_keys=True)
    rows = rows.replace_schema_metadata({METADATA: text.encode()})
    sink = pa.BufferOutputStream()
    # Features do not compress, and no two are alike.
    pq.write_table(rows, sink, compression="none", use_dictionary=False, write_statistics=False)
    data = memoryview(sink.getvalue())
    folder.write_bytes(part_name(unit), data)
    report = Report(unit, rows.num_rows, len(data), hashlib.sha256(data).hexdigest(), tuple(bad))
    folder.write_bytes(manifest_name(unit), report.encode().encode())
    return report


def committed(folder: Storage, units: int) -> Iterable[Report]:
    """The reports of units that are done."""
    for entry in list(folder.files(UNITS)):
        if entry.path.endswith(".json"):
            report = Report.decode(folder.read_bytes(entry.path))
            if report.unit < units:
                yield report


def write_bad(folder: Storage, bad: list[Bad]) -> None:
    """`bad.parquet`: every clip that has no features, and why."""
    sink = pa.BufferOutputStream()
    rows = [asdict(one) for one in bad]
    pq.write_table(pa.Table.from_pylist(rows, schema=_BAD_SCHEMA), sink)
    folder.write_bytes(BAD, memoryview(sink.getvalue()))


def complete(folder: Storage, reports: list[Report], facts: dict[str, Any]) -> dict[str, Any]:
    """Write what is bad, then `features.json`; then the manifests go. Returns what it holds."""
    reports = sorted(reports, key=lambda report: report.unit)
    bad = [one for report in reports for one in report.bad]
    write_bad(folder, bad)
    digest = hashlib.sha256()
    for report in reports:
        digest.update(f"{report.rows}:{report.sha256}\n".encode())
    whole = {
        **facts,
        "layout": LAYOUT,
        "digest": digest.hexdigest()[:16],
        "rows": sum(report.rows for report in reports),
        "bytes": sum(report.size for report in reports),
        "failed": sum(not one.short for one in bad),
        "short": sum(one.short for one in bad),
        "parts": [
            {
                "file": part_name(report.unit),
                "rows": report.rows,
                "bytes": report.size,
                "sha256": report.sha256,
            }
            for report in reports
        ],
    }
    folder.write_json(COMPLETE, whole)
    folder.delete_tree(UNITS)
    return whole
