"""pytest-benchmark over one shape of every energy and contestant: `python -m pytest benchmarks`, off by default.

Each time comes with what shows that the right thing was timed, its error, and with where it was measured.
`energynets bench` is the whole comparison, its contestants taking turns.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.cases import Case
from benchmarks.rivals import CONTESTANTS, TASKS, Array, Contestant, PlainLoop

SHAPES = {"spen": (159, 16), "icnn": (159, 64)}


@lru_cache
def exact(case: Case) -> dict[str, Array]:
    return PlainLoop(case.problem().astype(np.float64), case.task).numbers()


@pytest.mark.parametrize("kind", CONTESTANTS, ids=[kind.name.replace(" ", "-") for kind in CONTESTANTS])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("energy", SHAPES)
def test_unrolled(benchmark: Any, energy: str, task: str, kind: type[Contestant]) -> None:
    reason = kind.missing()
    if reason:
        pytest.skip(reason)
    case = Case(energy, *SHAPES[energy], 128, 10, task)
    contestant = kind(case.problem(), task)
    error = harness.difference(contestant.numbers(), exact(case))
    benchmark(contestant.run)
    benchmark.extra_info.update(harness.describe_machine("cpu", [kind]), case=case.name, error=error)
    assert error < kind.tolerance
