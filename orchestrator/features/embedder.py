"""From a unit of coded segments to its rows: decoded beside the model, encoded, pooled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from orchestrator.data.loader.clip import DecodedClip, EncodedClip
from orchestrator.data.loader.clip_decoder import ClipDecoder
from orchestrator.data.loader.subprocess_decoder import SubprocessDecoder
from orchestrator.errors import DataError, JobFailed, RequestError
from orchestrator.features.clip_annotations import ClipAnnotations, read_annotations
from orchestrator.features.spec import EmbeddingSpec
from orchestrator.jepa.model_files import WorldModel

PREFETCH_BATCHES = 2
"""Batches that are being decoded while one is encoded."""


@dataclass(frozen=True)
class FailedClip:
    """A clip that has no features. `short`: its segment is shorter than a clip."""

    key: str
    clip: int
    shard: str
    video: str
    reason: str
    short: bool = False


@dataclass(frozen=True)
class _PendingClip:
    """One clip on its way to the model."""

    segment: dict[str, Any]
    clip: int
    start_s: float
    encoded: EncodedClip
    annotations: ClipAnnotations


class Embedder:
    """A model and what decodes for it; one per process.

    Args:
        threads: clips decoded at a time.
        in_subprocesses: each in a process of its own, or all in this one.
    """

    def __init__(
        self,
        model: WorldModel,
        spec: EmbeddingSpec,
        *,
        batch: int,
        threads: int,
        in_subprocesses: bool,
        device: str = "cpu",
    ) -> None:
        self._model, self._spec, self._batch = model.to(device), spec, batch
        self._maker: ClipDecoder
        chunk = 1
        if in_subprocesses:
            self._maker = maker = SubprocessDecoder(spec.decode_config, batch)
            chunk = maker.clips_per_request
        else:
            self._maker = spec.decode_config.build_decoder(batch)
        self._chunk = max(1, min(chunk, batch // threads))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def embed(self, segments: pa.Table) -> tuple[pa.Table, list[FailedClip]]:
        """The unit's rows (columns as `feature_schema`), and the clips that have none.

        Raises:
            JobFailed: the model's features are no numbers, or too large for the dtype.
        """
        wanted: list[_PendingClip] = []
        bad: list[FailedClip] = []
        for facts in _rows(segments):
            self._choose(facts, wanted, bad)
        rows: list[_PendingClip] = []
        features: list[np.ndarray] = []
        for part, pixels, clips in self._decode_batches(wanted):
            good = [i for i, clip in enumerate(clips) if clip.reason is None]
            bad += [
                _failed_clip(one.segment, one.clip, clip.reason)
                for one, clip in zip(part, clips, strict=True)
                if clip.reason is not None
            ]
            # The whole batch, black clips too: what a clip's numbers are rounded to must not
            # depend on its neighbours.
            encoded = self._pool_features(self._model.encode(pixels))
            features.append(encoded[good])
            rows += [part[i] for i in good]
        empty = np.empty((0, *self._spec.shape), self._spec.dtype)
        return features_table(rows, np.concatenate([empty, *features]), self._spec), bad

    def close(self) -> None:
        """End threads and processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._maker.close()

    def _choose(
        self, facts: dict[str, Any], wanted: list[_PendingClip], bad: list[FailedClip]
    ) -> None:
        """The clips of one segment."""
        recipe = self._spec.decode_config
        if facts["reason"] is not None:
            bad += [
                _failed_clip(facts, clip, facts["reason"])
                for clip in range(recipe.clips_per_segment)
            ]
            return
        try:
            starts = recipe.start_times(facts["duration_s"])
        except DataError as error:
            bad += [
                _failed_clip(facts, clip, error.what, short=True)
                for clip in range(recipe.clips_per_segment)
            ]
            return
        for clip, start in enumerate(starts.tolist()):
            try:
                beside = facts["json"], facts["states.npy"], facts["frames"], facts["fps"]
                notes = read_annotations(*beside, recipe.frame_times(start))
            except DataError as error:
                bad.append(_failed_clip(facts, clip, error.what))
                continue
            coded = EncodedClip(clip, facts["payload"], facts["duration_s"], facts["sha256"])
            wanted.append(_PendingClip(facts, clip, start, coded, notes))

    def _decode_batches(
        self, wanted: list[_PendingClip]
    ) -> Iterator[tuple[list[_PendingClip], np.ndarray, list[DecodedClip]]]:
        """Batches with their pixels uint8 [B, T, size, size, 3], some decoded ahead."""
        parts = [wanted[at : at + self._batch] for at in range(0, len(wanted), self._batch)]
        begun: list[tuple[list[_PendingClip], np.ndarray, list[Future[list[DecodedClip]]]]] = []
        for part in parts:
            begun.append(self._begin(part))
            if len(begun) > PREFETCH_BATCHES:
                yield _finished(*begun.pop(0))
        for one in begun:
            yield _finished(*one)

    def _begin(
        self, part: list[_PendingClip]
    ) -> tuple[list[_PendingClip], np.ndarray, list[Future[list[DecodedClip]]]]:
        canvas = self._maker.new_buffer()
        coded = [one.encoded for one in part]
        asked = [
            self._pool.submit(self._maker.decode, coded[at : at + self._chunk], canvas, at)
            for at in range(0, len(coded), self._chunk)
        ]
        return part, canvas.array[: len(part)], asked

    def _pool_features(self, features: Tensor) -> np.ndarray:
        """float32 [B, tokens, dim] to the stored numbers [B, *shape]."""
        t, h, w = self._spec.grid
        if features.shape[1:] != (t * h * w, self._spec.dim):
            raise RequestError(
                f"the encoder gives {list(features.shape[1:])} a clip, its patches and tubelets"
                f" make {[t * h * w, self._spec.dim]}",
                where="model",
                hint="an encoder gives one token for each space-time patch",
            )
        if self._spec.pooling == "mean":
            features = features.mean(1)
        elif self._spec.pooling == "frames":
            features = features.view(len(features), t, h * w, -1).mean(2)
        stored = features.to(getattr(torch, self._spec.dtype))
        if not bool(torch.isfinite(stored).all()):
            whole = bool(torch.isfinite(features).all())
            raise JobFailed(
                f"features are too large for {self._spec.dtype}"
                if whole
                else "the model's features are not finite",
                where="dtype" if whole else "model",
                hint="write dtype: float32" if whole else "train it again; it has diverged",
            )
        return stored.cpu().numpy()


def feature_schema(spec: EmbeddingSpec) -> pa.Schema:
    """A row is a clip."""
    value = pa.float16() if spec.dtype == "float16" else pa.float32()
    contact = pa.struct(
        [("time", pa.float32()), ("a", pa.string()), ("b", pa.string()), ("speed", pa.float32())]
    )
    return pa.schema(
        [
            ("key", pa.string()),  # of the segment
            ("clip", pa.int32()),  # its number in the segment
            ("start_s", pa.float64()),  # from the segment's first frame
            ("video", pa.string()),  # what the segment was cut from
            ("label", pa.string()),
            ("states", pa.list_(pa.float32())),
            ("states_shape", pa.list_(pa.int32())),
            ("subject", pa.int32()),
            ("contacts", pa.list_(contact)),
            ("features", pa.fixed_shape_tensor(value, spec.shape)),
        ]
    )


def features_table(rows: list[_PendingClip], features: np.ndarray, spec: EmbeddingSpec) -> pa.Table:
    """Rows as they are stored."""
    schema = feature_schema(spec)
    plain = [
        {
            "key": one.segment["key"],
            "clip": one.clip,
            "start_s": one.start_s,
            "video": one.segment["video"],
            "label": one.annotations.label,
            "states": None if one.annotations.states is None else one.annotations.states.ravel(),
            "states_shape": None
            if one.annotations.states is None
            else one.annotations.states.shape,
            "subject": one.annotations.subject,
            "contacts": one.annotations.contacts,
        }
        for one in rows
    ]
    field = schema.field("features")
    table = pa.Table.from_pylist(plain, schema=schema.remove(schema.get_field_index("features")))
    flat = pa.FixedSizeListArray.from_arrays(
        pa.array(features.ravel(), field.type.value_type), int(np.prod(spec.shape))
    )
    return table.append_column(field, pa.ExtensionArray.from_storage(field.type, flat))


def _rows(segments: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as mappings; payloads stay where Ray put them until they are decoded."""
    payloads = [value.as_buffer() for value in segments["payload"]]
    for facts, payload in zip(segments.drop(["payload"]).to_pylist(), payloads, strict=True):
        yield {**facts, "payload": payload}


def _finished(
    part: list[_PendingClip], pixels: np.ndarray, asked: list[Future[list[DecodedClip]]]
) -> tuple[list[_PendingClip], np.ndarray, list[DecodedClip]]:
    return part, pixels, [clip for future in asked for clip in future.result()]


def _failed_clip(
    facts: dict[str, Any], clip: int, reason: str | None, *, short: bool = False
) -> FailedClip:
    return FailedClip(facts["key"], clip, facts["shard"], facts["video"], reason or "", short)
