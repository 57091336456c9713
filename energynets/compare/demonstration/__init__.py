"""The shipped demonstration: planted data, every kind of model, and the exact optimum under them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from energynets.config import Experiment

NAMES = ("label-frequency", "linear", "kim-cnn", "xml-cnn", "spen", "icnn", "bayes-optimal")


def demonstration(overrides: Sequence[str] = ()) -> list[Experiment]:
    """The experiments that `energynets compare` runs when it is given none."""
    from energynets.config import Experiment

    return [Experiment.load(Path(__file__).parent / f"{name}.yaml", overrides) for name in NAMES]
