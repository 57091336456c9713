"""Cells one after another, or several side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from energynets.compare.cells import Cell, CompareProgress, run_together

Outcome = tuple[Mapping[str, Any] | None, str | None]
Job = tuple[int, Cell, Path | None]  # number, cell, the file to train it by; None: it has a result


def run_cells(
    cells: Sequence[Cell],
    kept: Mapping[str, Mapping[str, Any] | None],
    config: Callable[[Cell], Path],
    *,
    processes: int,
    progress: CompareProgress,
    together: bool = False,
) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its result, or why it has none, as they end.

    Args:
        cells: with different folders.
        kept: name -> the result of a cell that has one already.
        config: writes the file of a cell's experiment.
        processes: cells at a time; one is in order.
        progress: listener; of several at a time its methods are called by several threads.
        together: the seeds of an experiment share a process, and are one at a time.

    Raises:
        KeyboardInterrupt: asked to stop; what ran has saved itself.
    """
    stop = threading.Event()
    # Of one at a time the main thread waits itself, and Ctrl-C is its own.
    halt = {"stop": stop} if processes > 1 else {}

    def work(jobs: Sequence[Job]) -> list[tuple[Cell, Outcome]]:
        for number, cell, _ in jobs:
            progress.cell(cell, number, len(cells))
        new = [(cell, path) for _, cell, path in jobs if path is not None and cell.trained is None]
        if len(new) > 1:
            run_together([cell for cell, _ in new], new[0][1], progress, **halt)
        outcomes = []
        for _, cell, path in jobs:
            result, failure = kept.get(cell.name), None
            if path is not None:
                result = cell.finished_result() if len(new) > 1 else None
                if result is None:
                    result, failure = cell.run(path, progress, **halt)
            progress.finished(cell, result, failure, path is None)
            outcomes.append((cell, (result, failure)))
        return outcomes

    # Files before threads: two cells of one experiment share theirs.
    jobs = [(n, cell, None if kept.get(cell.name) else config(cell)) for n, cell in enumerate(cells, start=1)]
    groups = _by_experiment(jobs) if together else [[job] for job in jobs]
    if processes == 1:
        for group in groups:
            yield from work(group)
        return
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(work, group) for group in groups]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _by_experiment(jobs: Sequence[Job]) -> list[list[Job]]:
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job[1].experiment.name, []).append(job)
    return list(groups.values())
