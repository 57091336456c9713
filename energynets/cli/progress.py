"""What training looks like while it runs: bars on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from energynets.cli.bars import Bars
from energynets.cli.options import describe
from energynets.training import Progress


class Display(Bars, Progress):
    """The events of training on stderr.

    Args:
        monitor: the validation metric to show.
        quiet: show nothing but notes.
        stream: default stderr.
    """

    def __init__(self, monitor: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        super().__init__(quiet=quiet, stream=stream)
        self.monitor = monitor
        self._stage = ""
        self._epochs = 0

    def reading(self, done: int, total: int) -> None:
        self.show("reading data", done, total)

    def stage(self, name: str, number: int, stages: int, epochs: int, steps: int) -> None:
        self._stage, self._epochs = name, epochs
        how = f"up to {epochs} epochs of {steps} steps" if steps else "the output layer is solved for"
        self.say(f"stage {number} of {stages}, {name}: {how}")

    def step(self, epoch: int, done: int, total: int, loss: float) -> None:
        self.show(f"{self._stage} {epoch}/{self._epochs}", done, total, f"loss {loss:.4f}")

    def fitting(self, done: int, total: int) -> None:
        self.show("fitting", done, total)

    def scoring(self, split: str, done: int, total: int) -> None:
        self.show(f"scoring {split}", done, total)

    def evaluation(self, line: Mapping[str, Any]) -> None:
        self.say(f"  {describe(line, self.monitor)}")

    def note(self, text: str) -> None:
        """Said even when quiet."""
        self.console.print(f"note: {text}", markup=False)
