"""What is timed, by name: an energy, a shape, a number of steps and a task."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from benchmarks.rivals import TASKS, Problem, build_energy
from energynets.errors import ConfigError, nearest

FEATURES = 150
LABELS_PER_DOCUMENT = 5


@dataclass(frozen=True)
class Case:
    """L labels, K measurements, B documents, T steps of one energy's training step or inference."""

    energy: str
    labels: int
    measurements: int
    batch: int
    steps: int
    task: str

    @property
    def name(self) -> str:
        """E.g. `spen 159x16 B128 T10 training`."""
        return f"{self.energy} {self.labels}x{self.measurements} B{self.batch} T{self.steps} {self.task}"

    def problem(self) -> Problem:
        """Its numbers, the same in every process: the weights an energy starts with, features of a normal law."""
        return replace(_numbers(self.energy, self.labels, self.measurements, self.batch), steps=self.steps)


@lru_cache(maxsize=1)
def _numbers(energy: str, labels: int, measurements: int, batch: int) -> Problem:
    generator = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = build_energy(energy, FEATURES, labels, measurements)
    parameters = {name: parameter.detach().numpy() for name, parameter in start.named_parameters()}
    features = generator.standard_normal((batch, FEATURES), dtype=np.float32)
    targets = generator.random((batch, labels), dtype=np.float32) < min(LABELS_PER_DOCUMENT / labels, 0.5)
    return Problem(energy, parameters, features, targets.astype(np.float32), steps=0)


SHAPES = ((159, 16, 128), (159, 64, 128), (159, 512, 128), (4_000, 512, 128), (30_000, 256, 32))
STEPS = (5, 10, 40)
# For the plot of time against L, besides what the table has of it.
SWEEP = tuple(Case("spen", labels, 256, 32, 10, "training") for labels in (1_000, 3_000, 10_000))


def full() -> tuple[Case, ...]:
    """The table: about half an hour on two cores, most of it compilation by jax."""
    found = [
        Case(energy, *shape, steps, task)
        for energy, shape, steps, task in itertools.product(("spen", "icnn"), SHAPES, STEPS, TASKS)
        if (energy, shape[1]) != ("spen", 64)
    ]
    return (*found, *SWEEP)


def quick() -> tuple[Case, ...]:
    """A look at it in less than two minutes."""
    shapes = (("spen", 159, 16, 128), ("spen", 1_000, 128, 64), ("icnn", 159, 64, 128))
    return tuple(
        Case(*shape, steps, task)
        for shape, steps, task in itertools.product(shapes, (5, 10), TASKS)
        if task == "training" or steps == 10
    )


def select(cases: Iterable[Case], *choices: str) -> tuple[Case, ...]:
    """Those whose name holds every word of a choice, e.g. `spen T10 training`; of any choice where there are several.

    Raises:
        ConfigError: a choice that no case fits.
    """
    cases, found = tuple(cases), set()
    for words in choices:
        fitting = {case for case in cases if set(words.split()) <= set(case.name.split())}
        if not fitting:
            parts = {part for case in cases for part in case.name.split()}
            unknown = [word for word in words.split() if word not in parts]
            hint = nearest(unknown[0], parts) if unknown else ""
            raise ConfigError(f"bench: no case has all of {words!r} in its name{hint}")
        found |= fitting
    return tuple(case for case in cases if case in found)
