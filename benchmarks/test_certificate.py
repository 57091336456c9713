"""Time to a certificate: how long until E(y) - min E is proven small for every document of a batch.

`OMP_NUM_THREADS=1 python -m pytest benchmarks/test_certificate.py --benchmark-json=certificate.json`. An ICNN at
Bibtex's size and at 4,000 labels, its labels tied weakly (the mean-field update converges) or strongly (it does not).
MirrorDescent and Anderson get the fewest steps that suffice for the whole batch, found beforehand, MirrorDescent the
best of several step sizes too; BundleEntropy stops by itself. Times are of the CPU, summed over threads, so that other
work on the machine counts for little; each comes with the certificate reached and with where it was measured.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from energynets import ICNN, Anderson, BundleEntropy, MirrorDescent, NoGradient
from energynets.energies.measured import MeasuredContext
from energynets.inference import Solver, certificate

FEATURES, BATCH = 150, 128
STEP_SIZES = (0.25, 0.5, 1.0, 0.1, 0.05)
MOST_STEPS = 256


class Problem(NamedTuple):
    energy: ICNN
    context: MeasuredContext


@functools.cache
def problem(labels: int, hidden: int, strength: float) -> Problem:
    """About one label in eight likely; `strength` scales h, hence how much labels tie together."""
    torch.manual_seed(0)
    energy = ICNN(FEATURES, labels, hidden=(hidden, hidden))
    with torch.no_grad():
        energy.head.output.uniform_(0, strength)
        energy.unary.bias.fill_(-2)  # type: ignore[union-attr]
        return Problem(energy, energy.condition(torch.randn(BATCH, FEATURES)))


SHAPES = {"159x32": (159, 16), "4000x512": (4000, 256)}
STRENGTHS = {"159x32-weak": 1.0, "159x32-strong": 40.0, "4000x512-weak": 0.05, "4000x512-strong": 0.5}


def solve(solver: Solver, found: Problem) -> Tensor:
    return solver.solve(*found, gradient=NoGradient())


def reached(solver: Solver, found: Problem) -> float:
    """The largest certificate of the batch."""
    return float(certificate(found.energy, solve(solver, found), found.context).max())


def fewest(make: Any, found: Problem, target: float, most: int) -> int | None:
    """The fewest steps that suffice: doubled until they do, then bisected; None where `most` do not."""
    high = 1
    while reached(make(high), found) > target:
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(make(middle), found) <= target else (middle, high)
    return high


@functools.cache
def mirror_descent(found: Problem, target: float) -> MirrorDescent | None:
    best = None
    for size in STEP_SIZES:
        most = MOST_STEPS if best is None else best.steps
        steps = fewest(lambda steps, size=size: MirrorDescent(steps, step_size=size), found, target, most)
        if steps is not None and (best is None or steps < best.steps):
            best = MirrorDescent(steps, step_size=size)
    return best


def anderson(found: Problem, target: float) -> Anderson | None:
    steps = fewest(lambda steps: Anderson(steps, tolerance=0), found, target, MOST_STEPS)
    return None if steps is None else Anderson(steps, tolerance=0)


def bundle_entropy(found: Problem, target: float) -> BundleEntropy:
    return BundleEntropy(200, tolerance=target)


def coupling(found: Problem, logits: Tensor) -> float:
    """The largest eigenvalue of J H / tau at the answers, median over documents: above 1 mean field may diverge."""
    energy, context = found
    y = torch.sigmoid(logits).requires_grad_()
    gradient = energy.gradient(y, context)
    vector = torch.randn_like(y)
    size = torch.ones(len(y), 1)
    for _ in range(20):
        vector = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        (image,) = torch.autograd.grad(gradient, y, vector, retain_graph=True)
        vector = energy.domain.pullback(y.detach(), image) / energy.tau
        size = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return float(size.median())


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("kind", [mirror_descent, anderson, bundle_entropy], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("target", [1e-2, 1e-4])
@pytest.mark.parametrize("name", STRENGTHS)
def test_certificate(benchmark: Any, name: str, target: float, kind: Any) -> None:
    labels, hidden = SHAPES[name.split("-")[0]]
    found = problem(labels, hidden, STRENGTHS[name])
    solver = kind(found, target)
    if solver is None:
        pytest.skip(f"{kind.__name__}: {MOST_STEPS} steps do not prove {target}")
    benchmark.pedantic(solve, (solver, found), rounds=9 if labels < 1000 else 3)
    run = solver.run(*found, gradient=NoGradient())
    # What the result of `infer` says: the solver's own bound where it has a smaller one.
    bound = certificate(found.energy, run.logits, found.context)
    bound = bound if run.gap is None else torch.minimum(bound, run.gap)
    assert bound.max() <= target
    benchmark.extra_info.update(
        certificate=float(bound.max()),
        target=target,
        steps_mean=float(run.steps.float().mean()),
        steps_max=int(run.steps.max()),
        step_size=getattr(solver, "_fixed_sizes", [None])[0],
        coupling=coupling(found, run.logits),
        shape=f"L={labels} K={2 * hidden} B={BATCH}",
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        machine=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
    )
