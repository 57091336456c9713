"""Dropout: its law, its gradient, its generator."""

from __future__ import annotations

import pytest
import torch

from energynets.features.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.85])
def test_each_number_is_kept_with_its_probability_and_independently_of_its_neighbours(p):
    torch.manual_seed(0)
    found = dropout(torch.ones(400_000), p, training=True)
    kept = (found > 0).double()
    assert found.unique().tolist() == [0.0, pytest.approx(1 / (1 - p), rel=1e-4)]
    spread = (p * (1 - p) / len(kept)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * spread
    for lag in (1, 2, 3, 4, 8):  # four numbers share 64 bits
        both = (kept[lag:] * kept[:-lag]).mean()
        assert abs(both - (1 - p) ** 2) < 5 * (1 / len(kept)) ** 0.5
    assert found.mean() == pytest.approx(1, abs=0.02)


def test_gradient_is_the_mask():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.4, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x * gradient)
    assert y.dtype == torch.float64


def test_the_generator_of_torch_decides():
    x = torch.ones(101)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 3), (0, 4)])
def test_every_shape(shape):
    assert dropout(torch.ones(shape), 0.3, True).shape == shape


def test_nothing_is_dropped_outside_of_training_or_at_0_and_everything_at_1():
    x = torch.randn(50)
    assert dropout(x, 0.5, training=False) is x
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert not dropout(x, 1.0, training=True).any()
    assert dropout(torch.ones(10_000), 1 - 1e-9, training=True).count_nonzero() <= 5
    assert dropout(torch.ones(10_000), 1e-9, training=True).all()
