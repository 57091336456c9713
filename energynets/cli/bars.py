"""Progress bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Bars(AbstractContextManager["Bars"]):
    """Named bars on stderr; a bar that is full goes away.

    Args:
        quiet: show nothing.
        stream: default stderr.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._tasks: dict[str, TaskID] = {}
        self._said = time.monotonic()
        self._bars: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
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

    def show(self, name: str, done: float, total: float, note: str = "") -> None:
        """`done` of `total` of what is called `name`."""
        total = max(total, 1)
        if self._bars:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, note=note)
            self._bars.update(self._tasks[name], completed=done, total=total, note=note)
            if done >= total:
                self._bars.remove_task(self._tasks.pop(name))
        elif not self.quiet and time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            # Without bars, a long wait would look like nothing at all.
            self._said = time.monotonic()
            self.say(f"{name}: {100 * done / total:.0f} %{'  ' if note else ''}{note}")

    def say(self, text: str) -> None:
        """A line, above the bars where there are any."""
        if not self.quiet:
            self.console.print(text, markup=False)
