"""A pass over the labels as one kernel: against the same pass a chunk of labels at a time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from energynets import ICNN, SPEN, EndToEnd, EnergyNetwork, MirrorDescent
from energynets.data.batches import Batch
from energynets.inference.engine import label_kernels, products
from energynets.inference.streaming import energy_stream

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_equal_passes_in_chunks_in_the_interpreter() -> None:
    """A fresh process: Triton reads TRITON_INTERPRET when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "kernels agree" in run.stdout


def test_what_the_kernels_take() -> None:
    assert not label_kernels.take(torch.zeros(2, 3), torch.zeros(4, 5)) or torch.cuda.is_available()


def _interpreted() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "inference"))
    from test_streamed import ENERGIES, SOLVERS, F, Itself, make_batch

    launched = []
    for name in ("_sum_kernel", "_gradient_kernel"):
        kernel = getattr(label_kernels, name)

        class Counted:
            def __init__(self, kernel, name):
                self.kernel, self.name = kernel, name

            def __getitem__(self, grid):
                launched.append(self.name)
                return self.kernel[grid]

        setattr(label_kernels, name, Counted(kernel, name))

    def check(energy, solver, size, labels):
        batch = make_batch(size, labels)
        inputs = batch.inputs.detach().float().requires_grad_()
        batch = Batch(inputs, batch.labels, batch.rows)
        model = EnergyNetwork(Itself(), energy, solver, label_chunk=3, keep_unary=True)
        wanted = [*model.parameters(), inputs]

        def found():
            torch.manual_seed(7)
            loss = EndToEnd()(model, batch)
            bars = torch.autograd.grad(1.7 * loss, wanted, allow_unused=True)
            return [loss, *(torch.zeros_like(x) if bar is None else bar for x, bar in zip(wanted, bars, strict=True))]

        expected = found()
        assert not launched
        solver.precision = "bf16"  # of which the interpreter has none: its A stays in float32
        for mine, theirs in zip(found(), expected, strict=True):
            assert (mine - theirs).norm() <= 2e-5 * theirs.norm() + 1e-6, (mine, theirs)
        steps = solver.steps
        assert launched == ["_sum_kernel"] * (2 * steps) + ["_gradient_kernel"], launched
        launched.clear()
        model.eval()
        top = model.top_k(inputs, 3)
        launched.clear()
        solver.precision = "float32"
        torch.testing.assert_close(top.logits, model.top_k(inputs, 3).logits, rtol=1e-2, atol=1e-2)

    for energy in ENERGIES:
        for solver in SOLVERS:
            torch.manual_seed(0)
            check(ENERGIES[energy](7).float(), SOLVERS[solver](3), 5, 7)
    for size, labels, steps in ((1, 1, 1), (4, 1, 2), (3, 300, 2), (70, 140, 1), (130, 70, 2)):
        check(SPEN(F, labels, num_measurements=5), MirrorDescent(steps), size, labels)
    check(ICNN(F, 150, hidden=(20, 3)), MirrorDescent(2, step_size=0.7), 33, 150)
    with products.plain_operations():
        assert not label_kernels.take(torch.zeros(2, 3), torch.zeros(4, 5))
    too_many = torch.zeros(label_kernels.MOST_MEASUREMENTS + 1, 5)
    assert not label_kernels.take(torch.zeros(2, 3), too_many)
    assert not label_kernels.take(torch.zeros(0, 3), torch.zeros(4, 5))
    energy = SPEN(F, 7)
    for keep_unary, steps in ((True, 2), (False, 2), (True, 0)):
        stream = energy_stream(
            MirrorDescent(steps, precision="bf16"), SPEN(F, 7), torch.zeros(2, F), 3, keep_unary=keep_unary
        )
        assert stream.plan.kernels is (keep_unary and steps > 0)
    print("kernels agree")


if __name__ == "__main__":
    _interpreted()
