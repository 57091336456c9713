"""energynets.masks: the bits and derivatives of torch.where and masked_fill."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from energynets import masks
from energynets.masks import where, without


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors take the way of large ones, in several blocks."""
    monkeypatch.setattr(masks, "_FEW", 0)
    monkeypatch.setattr(masks, "_BLOCK", 30)


def bits(x: Tensor) -> list[int]:
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return x.contiguous().view(kinds[x.element_size()]).flatten().tolist()


def drawn(dtype: torch.dtype, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    true, false = torch.randn(2, *shape, generator=generator).to(dtype).unbind()
    for x in (true, false):
        x.view(-1)[:5] = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 0.0]).to(dtype)[: x.numel()]
    return torch.rand(shape, generator=generator) < 0.5, true, false


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(7, 11), (50,), (3, 4, 5), (1, 200), (0, 4)])
def test_they_are_torchs_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    mask, true, false = drawn(torch.float32, *shape) if dtype is torch.int64 else drawn(dtype, *shape)
    if dtype is torch.int64:
        true, false = (x.nan_to_num(1, 2, 3).long() for x in (true, false))
    chosen, kept = bits(torch.where(mask, true, false)), bits(false.masked_fill(mask, 0))
    assert bits(where(mask, true, false)) == chosen
    assert bits(without(false, mask)) == kept
    place = torch.full_like(false, 9)
    assert where(mask, true, false, out=place) is place
    assert bits(place) == chosen
    again = false.clone()
    assert where(mask, true, again, out=again) is again
    assert bits(again) == chosen
    again = false.clone()
    assert without(again, mask, out=again) is again
    assert bits(again) == kept


def test_views_and_what_only_torch_takes() -> None:
    mask, true, false = drawn(torch.float32, 8, 12)
    for m, t, f in (
        (mask.T, true.T, false.T),
        (mask[:, ::2], true[:, ::2], false[:, 1::2]),
        (mask, true[:1].expand_as(true), false),
        (mask, true[:1], false),
        (mask, torch.tensor(2.0), false),
        (mask, true.double(), false),
    ):
        assert bits(where(m, t, f)) == bits(torch.where(m, t, f))
    place = false.T.clone()
    where(mask.T, true.T, false.T, out=place)
    assert bits(place) == bits(torch.where(mask.T, true.T, false.T))


def test_two_derivatives() -> None:
    mask, true, false = (x if x.dtype == torch.bool else x.nan_to_num(1, 2, 3) for x in drawn(torch.float64, 4, 9))
    cases: tuple[tuple[Callable[..., Tensor], tuple[Tensor, ...]], ...] = (
        (lambda a, b: where(mask, a.square(), b.square()), (true, false)),
        (lambda a: where(mask, a.square(), false), (true,)),
        (lambda b: without(b.square(), mask), (false,)),
    )
    for function, given in cases:
        leaves = tuple(x.clone().requires_grad_() for x in given)
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


def test_transforms_and_traces_see_torchs_own() -> None:
    mask, true, false = (x if x.dtype == torch.bool else x.nan_to_num(1, 2, 3) for x in drawn(torch.float64, 4, 9))
    expected = torch.where(mask, true, false).masked_fill(~mask, 0)

    def both(m: Tensor, t: Tensor, f: Tensor) -> Tensor:
        return without(where(m, t, f), ~m)

    assert bits(torch.vmap(both)(mask, true, false)) == bits(expected)
    forward, backward = (jac(lambda t: both(mask, t, false))(true) for jac in (torch.func.jacfwd, torch.func.jacrev))
    torch.testing.assert_close(forward, backward)
    assert bits(torch.compile(both, fullgraph=True, backend="eager")(mask, true, false)) == bits(expected)
