"""Fair clocks: contestants take turns in one process, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], object]
# A block of calls shorter than this says more about the clock than about the calls, and about what was called before:
# libraries have threads of their own, and those that others put to sleep, or that still spin, cost the next one's first
# calls up to twice their time. So calls of this many seconds come first, untimed.
_SHORTEST_BLOCK = 10e-3
_UNTIMED = 3e-3
# Calls that this is nothing to.
_LONG = 50e-3


@dataclass(frozen=True)
class Budget:
    """How long a case is timed.

    Args:
        seconds: after which no further round starts, once there are enough.
        min_rounds, max_rounds: of one block for each contestant.
    """

    seconds: float = 4.0
    min_rounds: int = 5
    max_rounds: int = 40


QUICK = Budget(seconds=0.6, min_rounds=3, max_rounds=15)


def interleave(runs: Mapping[str, Run], budget: Budget, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of one call, one number a round, for each contestant: rounds in an order shuffled anew.

    A block is a few calls untimed, where calls are short, then as many as make the clock exact.

    Args:
        runs: each has been called before, so that nothing is compiled or loaded here.
        budget: how many rounds.
        device: whose queue is drained before the clock is read.
    """
    wait: Run = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    calls = {}
    for name, run in runs.items():
        _block(run, 1, wait)
        once = _block(run, 1, wait)
        untimed = min(50, math.ceil(_UNTIMED / once)) if once < _LONG else 0
        calls[name] = untimed, max(1, min(50, round(_SHORTEST_BLOCK / once)))
    order, samples = list(runs), {name: [] for name in runs}  # type: ignore[var-annotated]
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.freeze()  # what there is need not be looked through again after every round
    gc.disable()
    try:
        began = time.perf_counter()
        for done in range(budget.max_rounds):
            if done >= budget.min_rounds and time.perf_counter() - began > budget.seconds:
                break
            shuffle(order)
            for name in order:
                untimed, timed = calls[name]
                for _ in range(untimed):
                    runs[name]()
                samples[name].append(1e3 * _block(runs[name], timed, wait))
            gc.collect()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return samples


def _block(run: Run, calls: int, wait: Run) -> float:
    """Seconds of one call of a row of them."""
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    return (time.perf_counter() - start) / calls


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and least, in milliseconds."""
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    return {
        "median_ms": statistics.median(samples),
        "quartiles_ms": [low, high],
        "min_ms": min(samples),
        "rounds": len(samples),
    }


def ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Median over rounds of other / ours: both clocks of one round met the same machine."""
    return statistics.median(b / a for a, b in zip(ours, other, strict=True))


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """The same number of threads for all: torch is told, jax counts the cores that the process may use, or $NPROC."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    before, nproc = torch.get_num_threads(), os.environ.get("NPROC")
    torch.set_num_threads(threads)
    os.environ["NPROC"] = str(threads)
    if allowed is not None and threads < len(allowed):
        os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)
        if nproc is None:
            os.environ.pop("NPROC")
        else:
            os.environ["NPROC"] = nproc


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
