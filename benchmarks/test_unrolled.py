"""Unrolled inference and training step of a SPEN at Bibtex's size: `energynets bench --select unrolled`.

Each time comes with what shows that the right thing was timed (agreement with the general path, loss before and after)
and with where it was measured.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest
import torch

from energynets import SPEN, Energy, MirrorDescent

NUM_FEATURES, NUM_LABELS, NUM_MEASUREMENTS, BATCH, STEPS = 150, 159, 16, 128, 10


@pytest.fixture
def problem() -> tuple[SPEN, MirrorDescent, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    energy = SPEN(NUM_FEATURES, NUM_LABELS, num_measurements=NUM_MEASUREMENTS)
    features = torch.randn(BATCH, NUM_FEATURES)
    labels = (torch.rand(BATCH, NUM_LABELS) < 0.015).float()
    return energy, MirrorDescent(STEPS), features, labels


def note(benchmark: Any, **quality: float) -> None:
    benchmark.extra_info.update(
        quality,
        shape=f"L={NUM_LABELS} K={NUM_MEASUREMENTS} T={STEPS} B={BATCH}",
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        machine=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
    )


def test_unrolled_inference(benchmark: Any, problem: Any) -> None:
    energy, solver, features, _ = problem

    @torch.no_grad()
    def infer() -> torch.Tensor:
        return solver.solve(energy, energy.condition(features))

    logits = benchmark(infer)
    # The oracle: the same descent with the gradient of the potential by autograd.
    closed_form, energy.gradient = energy.gradient, lambda y, context: Energy.gradient(energy, y, context)
    with torch.no_grad():
        expected = solver.solve(energy, energy.condition(features))
    energy.gradient = closed_form
    difference = float((logits - expected).abs().max())
    note(benchmark, largest_difference_from_general_path=difference)
    assert difference < 1e-4


def test_unrolled_training_step(benchmark: Any, problem: Any) -> None:
    energy, solver, features, labels = problem
    optimizer = torch.optim.Adam(energy.parameters(), 1e-3)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = solver.solve(energy, energy.condition(features))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    first = step()
    last = benchmark(step)
    note(benchmark, first_loss=first, last_loss=last)
    assert last < first
