"""Cells one after another, or several side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from energynets.compare.cells import Cell, CompareProgress

Outcome = tuple[Mapping[str, Any] | None, str | None]


def run_cells(
    cells: Sequence[Cell],
    kept: Mapping[str, Mapping[str, Any] | None],
    config: Callable[[Cell], Path],
    *,
    processes: int,
    progress: CompareProgress,
) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its result, or why it has none, as they end.

    Args:
        cells: with different folders.
        kept: name -> the result of a cell that has one already.
        config: writes the file of a cell's experiment.
        processes: cells at a time; one is in order.
        progress: listener; of several at a time its methods are called by several threads.

    Raises:
        KeyboardInterrupt: asked to stop; what ran has saved itself.
    """
    stop = threading.Event()

    def work(number: int, cell: Cell, path: Path | None) -> Outcome:
        progress.cell(cell, number, len(cells))
        result, failure = kept.get(cell.name), None
        if path is not None:
            result, failure = cell.run(path, progress, stop) if processes > 1 else cell.run(path, progress)
        progress.finished(cell, result, failure, path is None)
        return result, failure

    # Files before threads: two cells of one experiment share theirs.
    jobs = [(n, cell, None if kept.get(cell.name) else config(cell)) for n, cell in enumerate(cells, start=1)]
    if processes == 1:
        for job in jobs:
            yield job[1], work(*job)
        return
    with ThreadPoolExecutor(processes) as pool:
        futures: dict[Future[Outcome], Cell] = {pool.submit(work, *job): job[1] for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
