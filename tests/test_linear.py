"""Dense layers by either library: against torch's own, to every derivative."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

from energynets import BagOfWords, Classifier, products
from energynets.data.batches import SparseBatch
from energynets.linear import Linear, _Product, linear, product


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Any size counts as large, on a processor of which MKL uses half; which products were made so."""
    if not products._HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "_mkl_is_halved", lambda: True)
    seen, apply = [], _Product.apply
    monkeypatch.setattr(_Product, "apply", lambda *given: seen.append(given[0].shape) or apply(*given))
    return seen


FORMS = {
    "x W^T + b": (lambda x, w, b: linear(x, w, b), lambda x, w, b: functional.linear(x, w, b), (5, 7)),
    "x W^T": (lambda x, w, b: linear(x, w), lambda x, w, b: functional.linear(x, w), (5, 7)),
    "x W": (lambda x, w, b: product(x, w), lambda x, w, b: x @ w, (7, 5)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_products_and_their_gradients_are_torchs(form, batch, fast):
    ours, theirs, shape = FORMS[form]
    torch.manual_seed(0)
    given = [torch.randn(size, requires_grad=True) for size in ((batch, 7), shape, (5,))]
    bar = torch.randn(5, batch).T  # strided
    found, expected = ours(*given), theirs(*given)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(value, given, bar, allow_unused=True, materialize_grads=True) for value in (found, expected)
    ]
    for a, b, weight in zip(*gradients, given, strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous()
        assert a.shape == weight.shape
    assert fast == ([(batch, 7)] if batch else [])


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_are_torchs(form, fast):
    ours, theirs, shape = FORMS[form]
    torch.manual_seed(0)
    given = [torch.randn(size, requires_grad=True) for size in ((3, 7), shape, (5,))]

    def second(function):
        first = torch.autograd.grad(function(*given).square().sum(), given[:2], create_graph=True)
        return torch.autograd.grad(sum(one.pow(3).sum() for one in first), given[:2])

    for a, b in zip(second(ours), second(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert fast


@pytest.mark.parametrize(("frozen", "kept"), [("x", [(3, 7)]), ("weight", [(5, 7)]), ("neither", [(3, 7), (5, 7)])])
def test_no_more_is_saved_than_gradients_need(frozen, kept, fast):
    x, layer, saved = torch.randn(3, 7, requires_grad=frozen != "x"), Linear(7, 5), []
    layer.weight.requires_grad_(frozen != "weight")

    def save(tensor):
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        value = layer(x).sum()
    assert saved == kept
    value.backward()
    assert (x.grad is None, layer.weight.grad is None) == (frozen == "x", frozen == "weight")
    assert fast


def test_only_what_is_asked_for_has_a_gradient(fast):
    x, layer = torch.randn(3, 7), Linear(7, 5)
    layer.bias.requires_grad_(False)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(5, 7))
    assert layer.bias.grad is None
    assert not layer(x.double().float()).isnan().any()
    assert len(fast) == 2


@pytest.mark.parametrize(
    "x",
    [torch.randn(2, 3, 7), torch.randn(7), torch.randn(3, 7, dtype=torch.float64), torch.empty(3, 7, device="meta")],
    ids=["three dimensions", "one", "float64", "meta"],
)
def test_all_else_is_torchs(x, fast):
    layer = Linear(7, 5).to(device=x.device, dtype=x.dtype)
    assert layer(x).shape == (*x.shape[:-1], 5)
    assert not fast


def test_transforms_and_autocast_are_torchs(fast):
    layer, x = Linear(7, 5), torch.randn(4, 3, 7)
    torch.testing.assert_close(torch.func.vmap(layer)(x), functional.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(torch.func.grad(lambda one: layer(one).sum())(x[0]), layer.weight.sum(0).expand(3, 7))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x[0]).dtype == torch.bfloat16
    assert not fast


def test_tracers_and_forward_mode_are_torchs(fast):
    layer, x = Linear(7, 5), torch.randn(3, 7)
    expected = functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.jit.trace(layer, x, check_trace=False)(x), expected)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    torch.testing.assert_close(tangent, layer.weight.sum(1).expand(3, 5))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.randn(3, 6))
    assert not fast


def test_a_classifier_is_the_same_by_either_library(fast, monkeypatch):
    torch.manual_seed(0)
    model = Classifier(BagOfWords(40, hidden=(32, 16)), 12).eval()  # without dropout
    rows = SparseBatch(torch.arange(40).repeat(6), torch.rand(240), torch.arange(7) * 40, 40)

    def gradients():
        return torch.autograd.grad(model(rows).sigmoid().sum(), list(model.parameters()))

    found = gradients()
    assert len(fast) == 3
    monkeypatch.setattr(products, "_mkl_is_halved", lambda: False)
    for a, b in zip(found, gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert len(fast) == 3
