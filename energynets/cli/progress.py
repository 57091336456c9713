"""What training looks like while it runs: bars on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def describe(line: Mapping[str, Any], monitor: str) -> str:
    """One evaluation of a run in words, from its line in metrics.jsonl."""
    words = [f"{line['stage']} epoch {line['epoch']}"]
    if line.get("train_loss") is not None:
        words.append(f"loss {line['train_loss']:.4f}")
    validation = line.get("validation") or {}
    if monitor in validation and validation[monitor] is not None:
        value = validation[monitor]
        words.append(f"{monitor} {value:.4f}" if monitor == "loss" else f"{monitor} {100 * value:.2f}")
    if line.get("seconds") is not None:
        words.append(f"{line['seconds']:.0f} s")
    return "  ".join(words)


class Display(AbstractContextManager["Display"]):
    """The events of training (`energynets.training.progress.Progress`) on stderr.

    Args:
        monitor: the validation metric to show.
        quiet: show nothing but notes.
        stream: default stderr.
    """

    def __init__(self, monitor: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.monitor = monitor
        self.quiet = quiet
        self.console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stage = ""
        self._epochs = 0
        self._said = time.monotonic()
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console, transient=True)

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def _bar(self, name: str, done: float, total: float, note: str = "") -> None:
        if not self._bars:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(name))

    def say(self, text: str) -> None:
        """A line, above the bars where there are any."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def reading(self, done: int, total: int) -> None:
        """Bytes or documents of the data read so far."""
        self._bar("reading data", done, max(total, 1))
        # Without bars a long read would look like nothing at all.
        if not self._bars and time.monotonic() - self._said > 10 and total:
            self._said = time.monotonic()
            self.say(f"reading data: {100 * done // total} %")

    def stage(self, name: str, number: int, stages: int, epochs: int, steps: int) -> None:
        """A stage begins."""
        self._stage, self._epochs = name, epochs
        self.say(f"stage {number} of {stages}, {name}: up to {epochs} epochs of {steps} steps")

    def step(self, epoch: int, done: int, total: int, loss: float) -> None:
        """Optimiser steps of an epoch done so far."""
        self._bar(f"{self._stage} {epoch}/{self._epochs}", done, total, f"loss {loss:.4f}")

    def scoring(self, split: str, done: int, total: int) -> None:
        """Documents of a split scored so far."""
        self._bar(f"scoring {split}", done, max(total, 1))

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """An epoch ended."""
        self.say(f"  {describe(line, self.monitor)}")

    def note(self, text: str) -> None:
        """Something a user should know, said even when quiet."""
        self.console.print(f"note: {text}", markup=False)
