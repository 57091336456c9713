"""What training tells whoever watches: a listener with a method for each event, all doing nothing by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Progress:
    """Base of listeners: override what you want to show. Training never prints.

    Events come in this order: `reading`*, then for each stage `stage`, (`step`*, `scoring`*, `evaluation`)*,
    then `scoring`* for the final evaluation; `note` at any time.
    """

    def reading(self, done: int, total: int) -> None:
        """`done` of `total` bytes (or documents) of the data have been read."""

    def stage(self, name: str, number: int, stages: int, epochs: int, steps: int) -> None:
        """Stage `number` of `stages` (from 1) begins or is resumed: at most `epochs` epochs of `steps` steps.

        No steps: its output layer is solved for.
        """

    def step(self, epoch: int, done: int, total: int, loss: float) -> None:
        """`done` of `total` optimiser steps of epoch `epoch` (from 1) are done; `loss` is the epoch's mean so far."""

    def fitting(self, done: int, total: int) -> None:
        """A baseline has fitted `done` of `total` parts (labels, say)."""

    def scoring(self, split: str, done: int, total: int) -> None:
        """`done` of `total` documents of a split have been scored."""

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """An epoch has ended: the line written to metrics.jsonl."""

    def note(self, text: str) -> None:
        """Something a user should know, in a sentence."""
