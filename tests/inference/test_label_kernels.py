"""A pass over the labels as one kernel: against the same pass a chunk of labels at a time."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from interpreted import AGREED, count_launches, run_interpreted

from energynets import ICNN, SPEN, EndToEnd, EnergyNetwork, MirrorDescent, products
from energynets.data.batches import Batch
from energynets.inference.engine import label_kernels
from energynets.inference.streaming import energy_stream


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_equal_passes_in_chunks_in_the_interpreter() -> None:
    run_interpreted(__file__)


def test_what_the_kernels_take() -> None:
    assert not label_kernels.take(torch.zeros(2, 3), torch.zeros(4, 5)) or torch.cuda.is_available()


def _interpreted() -> None:
    from test_streamed import ENERGIES, SOLVERS, F, Itself, make_batch

    launched = count_launches(label_kernels, "_sum_kernel", "_gradient_kernel")

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
    for keep_unary, steps in ((True, 2), (False, 2), (True, 0)):
        stream = energy_stream(
            MirrorDescent(steps, precision="bf16"), SPEN(F, 7), torch.zeros(2, F), 3, keep_unary=keep_unary
        )
        assert stream.plan.passes is (label_kernels if keep_unary and steps > 0 else None)
    print(AGREED)


if __name__ == "__main__":
    _interpreted()
