"""Models without gradient training, by the kind a configuration names: the lines every comparison carries."""

from __future__ import annotations

from pathlib import Path

from energynets.baselines.base import Baseline, saved_kind
from energynets.baselines.bayes import BayesOptimal
from energynets.baselines.frequency import LabelFrequency
from energynets.baselines.label_tree import LabelTree
from energynets.baselines.linear import LinearOneVsRest
from energynets.baselines.neighbours import NearestNeighbours
from energynets.baselines.target_embedding import TargetEmbedding
from energynets.errors import CheckpointError, nearest

__all__ = [
    "BASELINES",
    "Baseline",
    "BayesOptimal",
    "LabelFrequency",
    "LabelTree",
    "LinearOneVsRest",
    "NearestNeighbours",
    "TargetEmbedding",
    "load_baseline",
]

BASELINES: dict[str, type[Baseline]] = {
    baseline.kind: baseline
    for baseline in (LinearOneVsRest, NearestNeighbours, TargetEmbedding, LabelTree, LabelFrequency, BayesOptimal)
}


def load_baseline(folder: str | Path) -> Baseline:
    """The baseline saved in a folder, whatever its kind.

    Raises:
        CheckpointError: no baseline there, or of a kind this version does not know.
    """
    kind = saved_kind(folder)
    if kind not in BASELINES:
        raise CheckpointError(f"{folder}: a baseline of unknown kind {kind!r}{nearest(kind, BASELINES)}")
    return BASELINES[kind].load(folder)
