"""A study's numbers as plain data: scores by cell, curves, ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from orchestrator.job import StudyJob
from orchestrator.job.config.former_names import former_dump
from orchestrator.job.config.study import StudyCell
from orchestrator.study.curves import data_efficiency_ratio
from orchestrator.study.state_probe import SCORE_COLUMNS


def study_summary(
    job: StudyJob, cells: Sequence[tuple[StudyCell, dict[str, Any]]]
) -> dict[str, Any]:
    """Everything that the report shows: `panels`, one for each background and score."""
    panels = [
        _panel(job, cells, background, score)
        for background in job.backgrounds
        for score in SCORE_COLUMNS
    ]
    return {
        "name": job.name,
        "clips": list(job.num_videos),
        "seeds": list(job.seeds),
        "steps": job.optim.steps,
        "global_batch": job.scale.global_batch,
        "reference": job.reference,
        "confidence": job.confidence,
        "source": job.data.source,
        "probe": former_dump(job.probe),
        "cells": [found for _, found in cells],
        "panels": panels,
    }


def _panel(
    job: StudyJob,
    cells: Sequence[tuple[StudyCell, dict[str, Any]]],
    background: str,
    score: str,
) -> dict[str, Any]:
    by_place = {
        (cell.arm, cell.clips, cell.seed): found["scores"][score]
        for cell, found in cells
        if cell.background == background
    }
    arms: dict[str, list[list[float]]] = {}
    for arm, objective in job.arms.items():
        counts = job.num_videos if objective is not None else (None,)
        arms[arm] = [[by_place[arm, clips, seed] for clips in counts] for seed in job.seeds]
    reference, clips = np.array(arms[job.reference]), np.array(job.num_videos)
    ratios = {
        arm: asdict(data_efficiency_ratio(clips, reference, np.array(arms[arm]), job.confidence))
        for arm, objective in job.arms.items()
        if objective is not None and arm != job.reference
    }
    return {"background": background, "score": score, "arms": arms, "ratios": ratios}
