"""Binary cross-entropy in one pass: torch's own is the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from energynets.inference.engine.native import library
from energynets.objectives import cross_entropy as module
from energynets.objectives.cross_entropy import cross_entropy

pytestmark = pytest.mark.skipif(isinstance(library(torch.float32), str), reason="no native code here")


def numbers(*shape: int, dtype: torch.dtype = torch.float64, spread: float = 8.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=dtype) * spread
    return logits.requires_grad_(), (torch.rand(shape, generator=generator) < 0.3).to(dtype)


def oracle(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 3


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 7), (5, 16), (128, 159), (33, 1031), (2, 3, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_loss_and_gradient(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    logits, targets = numbers(*shape, dtype=dtype)
    loss = cross_entropy(logits, targets, 1 / 3)
    assert type(loss.grad_fn).__name__ == "_OnePassBackward"
    expected = oracle(*(x.detach().double() for x in (logits, targets)))
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    (found,) = torch.autograd.grad(2 * loss, logits)
    (slope,) = torch.autograd.grad(2 * oracle(logits, targets), logits)
    torch.testing.assert_close(found, slope, rtol=0, atol=tolerance)


def test_soft_targets_and_every_derivative() -> None:
    logits, _ = numbers(4, 3, spread=2.0)
    targets = torch.rand(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets, 0.7), logits)
    assert torch.autograd.gradgradcheck(lambda z: cross_entropy(z, targets, 0.7), logits)


def test_labels_that_are_nearly_right_are_added_up_exactly() -> None:
    """Beside them one whose loss is 20: what is lost of a float32 sum is 1e-6."""
    logits = torch.full((40, 100), -15.0)
    targets = torch.zeros(40, 100)
    logits[:20], targets[:20] = 17.0, 1.0
    loss = cross_entropy(logits, targets, 1.0)
    torch.testing.assert_close(loss.double(), oracle(logits.double(), targets.double()) * 3, rtol=1e-6, atol=0)


def test_what_is_not_finite_stays_so() -> None:
    logits, targets = numbers(20, 9, dtype=torch.float32)
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = logits.detach().clone()
        spoilt[19, 8] = value
        assert not cross_entropy(spoilt, 1 - targets.fill_(value == torch.inf), 1.0).isfinite()
    assert cross_entropy(torch.tensor([1e4, -1e4]), torch.tensor([1.0, 0.0]), 1.0) < 1e-30


def test_two_runs_give_the_same_bits() -> None:
    logits, targets = numbers(64, 501, dtype=torch.float32)
    assert len({float(cross_entropy(logits.detach(), targets, 0.1)) for _ in range(20)}) == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    logits, targets = numbers(40, 333)
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(cross_entropy(logits, targets, 1 / 3), oracle(logits, targets))
    finally:
        torch.set_num_threads(before)


def test_what_native_code_does_not_take_is_torchs() -> None:
    logits, targets = numbers(6, 5, dtype=torch.float32)
    expected = oracle(logits, targets)

    def check(logits: Tensor, targets: Tensor, tolerance: float = 1e-6) -> None:
        found = cross_entropy(logits, targets, 1 / 3)
        assert type(found.grad_fn).__name__ != "_OnePassBackward"
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)

    check(logits.T.contiguous().T, targets)
    check(logits, targets.clone().requires_grad_())
    check(logits.bfloat16(), targets.bfloat16(), 2e-2)
    # Under vmap, where several seeds train at once.
    losses = torch.func.vmap(lambda z: cross_entropy(z, targets, 1 / 3))(torch.stack((logits, logits)))
    torch.testing.assert_close(losses, torch.stack((expected, expected)))
    slope = torch.func.grad(lambda z: cross_entropy(z, targets, 1 / 3))(logits.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(expected, logits)[0])


def test_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library", lambda dtype: "none")
    logits, targets = numbers(6, 5)
    torch.testing.assert_close(cross_entropy(logits, targets, 1 / 3), oracle(logits, targets))
