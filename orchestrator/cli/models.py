"""`orchestrator models`: what was registered."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.ui import STORAGE, TRACKING
from orchestrator.paths import local_path

if TYPE_CHECKING:
    from orchestrator.tracking.registry import RegisteredVersion

app = typer.Typer(help="Registered models.", no_args_is_help=True, rich_markup_mode=None)

# The list shows these metrics of a version where they are there.
_HEADLINES = {
    "train_loss": "loss",
    "health_rankme": "RankMe",
    "health_feature_std": "feature std",
}


EXPORTED = typer.Argument(
    metavar="MODEL", help="models:/NAME/VERSION, models:/NAME@ALIAS, or a model's folder."
)
MODEL = typer.Argument(metavar="MODEL", help="models:/NAME/VERSION or models:/NAME@ALIAS.")


@app.command("list")
def list_(
    storage: Annotated[str, STORAGE] = ".orchestrator",
    tracking: Annotated[str | None, TRACKING] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every version of every registered model."""
    from orchestrator.cli.output import print_json, print_table
    from orchestrator.tracking.registry import list_models

    versions = list_models(_server(tracking, storage))
    if json:
        print_json([_plain(version) for version in versions])
    elif not versions:
        print("no models are registered yet; a train job with track.register makes one")
    else:
        head = ["model", "alias", "made", "run", "result"]
        print_table(head, [_row(version) for version in versions])


@app.command()
def show(
    model: Annotated[str, MODEL],
    storage: Annotated[str, STORAGE] = ".orchestrator",
    tracking: Annotated[str | None, TRACKING] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """One version: where it is, what made it, and its metrics."""
    from orchestrator.cli.output import print_json
    from orchestrator.tracking.registry import show_model

    version = show_model(model, _server(tracking, storage))
    if json:
        print_json(_plain(version))
        return
    rows = [
        ("model", version.uri),
        ("alias", ", ".join(version.aliases) or "none"),
        ("made", _date(version)),
        ("run", f"{version.run_id} {version.tags.get('run', '')}".rstrip()),
        ("files", version.location),
        *((key, value) for key, value in sorted(version.tags.items()) if key != "run"),
        *((key, f"{value:.5g}") for key, value in sorted(version.metrics.items())),
    ]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        print(f"{name:<{width}}{value}")


@app.command()
def promote(
    model: Annotated[str, MODEL],
    alias: Annotated[str, typer.Option("--alias", help="The alias to move.")] = "champion",
    ungated: Annotated[
        bool, typer.Option("--ungated", help="Whatever the evaluations say, or without any.")
    ] = False,
    storage: Annotated[str, STORAGE] = ".orchestrator",
    tracking: Annotated[str | None, TRACKING] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Make a version the champion, if it beats the present one.

    Both must have been evaluated by the same protocol, and the new one must have more quadruplets
    right by more than chance explains; else nothing changes, and the exit code is 1.
    """
    from orchestrator.cli.output import print_json
    from orchestrator.evaluation.promotion_gate import promote as promote_model

    server = _server(tracking, storage)
    gated = alias == "champion" and not ungated
    promotion, why = promote_model(model, alias, server, gated=gated)
    if why:
        print(why, file=sys.stderr)
    if json:
        print_json(asdict(promotion))
        return
    before = f", before: version {promotion.before}" if promotion.before else ""
    print(f"models:/{promotion.name}@{promotion.alias} is version {promotion.version}{before}")


@app.command()
def export(
    model: Annotated[str, EXPORTED],
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=local_path, help="A new folder.")],
    format: Annotated[
        Literal["huggingface"], typer.Option("--format", help="Whose layout.")
    ] = "huggingface",
    licence: Annotated[
        str, typer.Option("--license", help="For the model card, as the Hub spells it.")
    ] = "unknown",
    storage: Annotated[str, STORAGE] = ".orchestrator",
    tracking: Annotated[str | None, TRACKING] = None,
) -> None:
    """Write a model as others load it: config, safetensors, how video is prepared, a model card.

    `transformers.VJEPA2Model.from_pretrained(DIR)` gives the same features.
    """
    from orchestrator.tracking.huggingface import export_to_huggingface

    server = _server(tracking, storage) if model.startswith(("models:/", "runs:/")) else tracking
    export_to_huggingface(model, folder, license=licence, tracking_uri=server)
    print(f"{folder}: {format}, for transformers.VJEPA2Model.from_pretrained")


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            parser=local_path,
            help="A VJEPA2Model's folder, or vjepa2's .pt file.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=local_path, help="A new folder.")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Pixels of its clips.")] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames of its clips.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", min=0.01, help="Frames per second of its clips.")
    ] = None,
    rope: Annotated[
        Literal["tiled", "paired"] | None,
        typer.Option("--rope", help="Rotary variant of a .pt; default: tiled."),
    ] = None,
) -> None:
    """Bring in weights of V-JEPA 2 that were made elsewhere, for `model.from` and evaluations.

    Nothing in the files is run. What they do not say of the clips is as published: 64 frames of
    256 pixels, four a second.
    """
    import yaml

    from orchestrator.jepa.interop.import_model import import_model
    from orchestrator.jepa.interop.imported_model import ImportOverrides

    wishes = ImportOverrides(size, frames, fps, rope)
    config = import_model(source, folder, wishes)
    shape = config.model.model_dump(mode="json", by_alias=True, exclude={"start"})
    print(f"{folder}: clips of {config.frames} frames, {config.size} pixels; as a job names it:")
    print(yaml.safe_dump({"model": {**shape, "from": str(folder)}}, sort_keys=False), end="")


def _server(tracking: str | None, storage: str) -> str:
    from orchestrator.storage import Storage
    from orchestrator.tracking.server import tracking_uri

    return tracking_uri(tracking, Storage(storage))


def _plain(version: RegisteredVersion) -> dict[str, Any]:
    return {**asdict(version), "uri": version.uri}


def _row(version: RegisteredVersion) -> list[str]:
    result = "  ".join(
        f"{label} {version.metrics[key]:.4g}"
        for key, label in _HEADLINES.items()
        if key in version.metrics
    )
    aliases = ", ".join(version.aliases)
    return [version.uri, aliases, _date(version), version.run_id[:8], result]


def _date(version: RegisteredVersion) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(version.created_ms / 1000).strftime("%Y-%m-%d %H:%M")
