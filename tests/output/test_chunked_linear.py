"""An output in chunks of labels is an ordinary one, computed otherwise."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from energynets import BagOfWords, Classifier
from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.energies import Simplex
from energynets.errors import ConfigError, InferenceError, ShapeError, TrainingError
from energynets.objectives import EndToEnd
from energynets.objectives.losses import LOSSES
from energynets.output import ChunkedLinear, ChunkedSGD
from energynets.output.rounding import stochastically_rounded

F = 5
NAMES = ("bce", "softmax")


def sparse_labels(rng: np.random.Generator, batch: int, labels: int) -> SparseBatch:
    """Rows of 0 to 4 entries, some empty, some entries twice, not all of them 1."""
    counts = rng.integers(0, 5, batch)
    columns = torch.from_numpy(rng.integers(0, labels, counts.sum()))
    values = torch.from_numpy(rng.choice([1.0, 1.0, 0.5], len(columns)).astype(np.float32))
    return SparseBatch(columns, values, torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])), labels)


def problem(seed: int, batch: int, labels: int, dtype: torch.dtype = torch.float64, **output: Any) -> Any:
    torch.manual_seed(seed)
    layer = ChunkedLinear(F, labels, **output).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(4)
    features = (3 * torch.randn(batch, F, dtype=dtype)).requires_grad_()
    return layer, features, sparse_labels(np.random.default_rng(seed), batch, labels)


def by_autograd(layer: nn.Linear, features: Tensor, labels: SparseBatch, name: str) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of the dense computation."""
    parameters = [features, *layer.parameters()]
    logits = nn.functional.linear(features, layer.weight, layer.bias)
    loss = LOSSES[name](logits, labels.dense(features.dtype))
    return loss.detach(), list(torch.autograd.grad(loss, parameters))


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * max(float(expected.norm()), 1.0)


shapes = {"seed": st.integers(0, 99), "batch": st.integers(0, 6), "labels": st.integers(1, 23)}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(**shapes, chunk=st.integers(1, 30), bias=st.booleans())
def test_loss_and_gradients_are_those_of_autograd(
    name: str, seed: int, batch: int, labels: int, chunk: int, bias: bool
) -> None:
    layer, features, sparse = problem(seed, batch, labels, chunk=chunk, bias=bias)
    loss, gradients = by_autograd(layer, features, sparse, name)
    found = layer.loss(features, sparse, name)
    found.backward()
    assert_same(found, loss)
    for tensor, expected in zip((features, *layer.parameters()), gradients, strict=True):
        assert_same(tensor.grad, expected)
    with torch.no_grad():
        assert_same(layer.loss(features, sparse, name), loss)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(**shapes, chunk=st.integers(1, 30), bias=st.booleans(), decay=st.sampled_from([0.0, 0.1]))
def test_descent_without_a_gradient_is_sgd(
    name: str, seed: int, batch: int, labels: int, chunk: int, bias: bool, decay: float
) -> None:
    layer, features, sparse = problem(seed, batch, labels, chunk=chunk, bias=bias)
    dense = copy.deepcopy(layer)
    sgd = torch.optim.SGD(dense.parameters(), lr=0.3, weight_decay=decay)
    chunked = ChunkedSGD(layer, lr=0.3, weight_decay=decay)
    for _ in range(3):
        _, (of_features, *gradients) = by_autograd(dense, features, sparse, name)
        features.grad = None
        chunked.zero_grad()
        (2 * layer.loss(features, sparse, name)).backward()
        assert all(parameter.grad is None for parameter in layer.parameters())
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert_same(layer.pending.norm(), 2 * norm, 1e-7)  # a root of a difference: half the digits near 0
        assert_same(features.grad, 2 * of_features)
        for parameter, gradient in zip(dense.parameters(), gradients, strict=True):
            parameter.grad = 2 * gradient
        sgd.step()
        chunked.step()
        for parameter, expected in zip(layer.parameters(), dense.parameters(), strict=True):
            assert_same(parameter, expected, 1e-11)
    chunked.close()
    layer.loss(features, sparse, name).backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operation gives, views of weights left out."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.numel = max(self.numel, tensor.numel(), tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"weights": "bf16"}], ids=str)
def test_nothing_has_the_size_of_batch_times_labels(name: str, settings: dict[str, Any]) -> None:
    """Nor, by `ChunkedSGD`, of features times labels; dense training is counted beside it, so that counting works."""
    batch, labels, chunk = 16, 3001, 64
    layer, features, sparse = problem(0, batch, labels, torch.float32, chunk=chunk)
    layer = ChunkedLinear(F, labels, chunk=chunk, **settings)
    optimizer = ChunkedSGD(layer, lr=0.1)
    saved: list[int] = []
    with (
        Largest(features, *layer.parameters()) as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t),
    ):
        loss = layer.loss(features, sparse, name)
        loss.backward()
        optimizer.step()
    assert batch * chunk <= largest.numel <= batch * max(chunk, F * chunk)
    assert max(saved, default=0) <= batch * chunk
    dense = nn.Linear(F, labels)
    with Largest(features, *dense.parameters()) as largest:
        LOSSES[name](dense(features), sparse.dense()).backward()
    assert largest.numel >= batch * labels


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"weights": "bf16"}], ids=str)
def test_bf16_is_near(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = ChunkedLinear(64, 500, chunk=77, **settings)
    features = torch.randn(32, 64, requires_grad=True)
    sparse = sparse_labels(np.random.default_rng(0), 32, 500)
    exact = nn.Linear(64, 500)
    exact.load_state_dict({name: tensor.float() for name, tensor in layer.state_dict().items()})
    loss, (of_features, of_weight, of_bias) = by_autograd(exact, features, sparse, name)
    before = layer.weight.detach().float().clone()
    optimizer = ChunkedSGD(layer, lr=4.0)
    found = layer.loss(features, sparse, name)
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-3)
    assert_same(features.grad, of_features, 1e-2 * float(of_features.norm()))
    assert_same(layer.pending.norm(), torch.hypot(of_weight.norm(), of_bias.norm()), 1e-2)
    optimizer.step()
    moved = (before - layer.weight.detach().float()) / 4.0
    # Rounding to bf16 hides single steps; along the gradient they are right on average.
    assert (moved * of_weight).sum() / of_weight.square().sum() == pytest.approx(1, abs=0.05)
    assert layer.weight.dtype == (torch.bfloat16 if "weights" in settings else torch.float32)
    assert layer(features).dtype == torch.float32
    assert_same(layer(features), exact_logits(layer, features), 1e-6)


def exact_logits(layer: nn.Linear, features: Tensor) -> Tensor:
    return features @ layer.weight.float().T + layer.bias


def test_rounding_is_right_on_average() -> None:
    torch.manual_seed(0)
    values = torch.tensor([1.0, -1.0 - 2**-9, 3.0e-5, 1.0 + 2**-10, 0.0])
    rounded = stochastically_rounded(values.repeat(40_001, 1)).double()
    exact = values.double()
    assert ((rounded - exact).abs() <= exact.abs() * 2**-7).all()
    assert torch.equal(rounded[:, [0, 4]], exact[[0, 4]].expand(40_001, 2))
    assert set(rounded[:, 1].tolist()) == {-1.0, -1.0 - 2**-7}
    assert_same(rounded.mean(0), exact, 1e-4)
    already = torch.randn(10_001).bfloat16()
    assert torch.equal(stochastically_rounded(already.float()), already)
    halves = (stochastically_rounded(torch.full((10_001,), 1 + 2**-8)) > 1).double()
    assert abs(float(torch.corrcoef(torch.stack([halves[:-1:2], halves[1::2]]))[0, 1])) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_an_infinite_logit_shows_before_a_weight_changes(name: str) -> None:
    layer, features, sparse = problem(1, 4, 9, chunk=2)
    with torch.no_grad():
        layer.weight[8, 0] = float("inf")  # the last chunk: all others come before it
    before = layer.weight.detach().clone()
    ChunkedSGD(layer, lr=0.1)
    loss = layer.loss(features, sparse, name)
    loss.backward()
    assert not torch.isfinite(loss)
    assert torch.equal(layer.weight, before)


def test_what_is_not_trained_gets_nothing() -> None:
    layer, features, sparse = problem(2, 4, 9, chunk=4)
    layer.weight.requires_grad_(False)
    before = layer.weight.detach().clone()
    expected = by_autograd_bias(layer, features.detach(), sparse)
    optimizer = ChunkedSGD(layer, lr=1.0)
    bias = layer.bias.detach().clone()
    layer.loss(features.detach(), sparse, "bce").backward()
    assert_same(layer.pending.norm(), expected.norm(), 1e-7)
    optimizer.step()
    assert torch.equal(layer.weight, before)
    assert_same(layer.bias, bias - expected)


def by_autograd_bias(layer: nn.Linear, features: Tensor, labels: SparseBatch) -> Tensor:
    loss = LOSSES["bce"](nn.functional.linear(features, layer.weight, layer.bias), labels.dense(features.dtype))
    return torch.autograd.grad(loss, layer.bias)[0]


def test_misuse_is_refused() -> None:
    layer, features, sparse = problem(0, 3, 7, chunk=3)
    with pytest.raises(ConfigError, match=r"no loss 'bcee' in chunks of labels \(did you mean 'bce'"):
        layer.loss(features, sparse, "bcee")
    with pytest.raises(ShapeError, match=r"expected labels of shape \(2, 7\), documents by labels, got \(3, 7\)"):
        layer.loss(features[:2], sparse, "bce")
    with pytest.raises(ConfigError, match="chunk: expected 1 label or more"):
        ChunkedLinear(3, 4, chunk=0)
    with pytest.raises(ConfigError, match=r"chunk: expected .* a whole number, got 2\.5"):
        ChunkedLinear(3, 4, chunk=2.5)  # type: ignore[arg-type]
    loss = layer.loss(features, sparse, "bce")
    loss.backward(retain_graph=True)
    with pytest.raises(TrainingError, match="one backward"):
        loss.backward()
    ChunkedSGD(layer, lr=0.1)
    both = layer.loss(features, sparse, "bce") + layer.loss(features, sparse, "bce")
    with pytest.raises(TrainingError, match="a second batch before the step of the first"):
        both.backward()
    layer.pending = None
    layer.loss(features, sparse, "bce").backward()
    with pytest.raises(TrainingError, match="a second batch before the step of the first"):
        layer.loss(features, sparse, "bce")


def test_a_gradient_forgotten_before_backward_is_there_after_it() -> None:
    layer, features, sparse = problem(3, 4, 9, chunk=4)
    _, (_, weight, bias) = by_autograd(layer, features, sparse, "bce")
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    optimizer = ChunkedSGD(layer, lr=0.5)
    loss = layer.loss(features, sparse, "bce")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for parameter, start, gradient in zip(layer.parameters(), before, (weight, bias), strict=True):
        assert_same(parameter, start - 0.5 * gradient)


def test_half_a_second_derivative_is_refused() -> None:
    """The gradient of f reaches f past the loss too: torch would leave the loss's part of it out."""
    layer, features, sparse = problem(0, 3, 7, chunk=3)
    loss = layer.loss(features, sparse, "bce") + features.square().sum()
    with pytest.raises(InferenceError, match=r"no second derivative; use nn\.Linear \(model\.output\.kind linear"):
        torch.autograd.grad(loss, features, create_graph=True)


@pytest.mark.parametrize("steps", ["last", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_the_objective_takes_its_sparse_labels(name: str, steps: str) -> None:
    layer, features, sparse = problem(3, 6, 11, chunk=4)
    network = BagOfWords(3, hidden=(F,))
    batch = Batch(CachedFeatures(features), sparse, torch.arange(6))
    plain = nn.Linear(F, 11).double()
    plain.load_state_dict(layer.state_dict())
    expected = EndToEnd(name, steps=steps)(Classifier(network, 11, output=plain), batch)
    object.__setattr__(sparse, "dense", None)  # never asked for
    assert_same(EndToEnd(name, steps=steps)(Classifier(network, 11, output=layer), batch), expected)
    with pytest.raises(ConfigError, match="an output over labels in a Box"):
        EndToEnd(name)(Classifier(network, 11, output=layer, domain=Simplex(11)), batch)


def test_bf16_weights_start_as_others_rounded() -> None:
    layers = []
    for weights in ("float32", "bf16"):
        torch.manual_seed(0)
        layers.append(ChunkedLinear(16, 10_000, weights=weights))
    torch.manual_seed(0)
    plain = nn.Linear(16, 10_000)
    assert torch.equal(plain.weight, layers[0].weight)
    assert torch.equal(plain.bias, layers[0].bias)
    assert layers[1].bias.dtype == torch.float32
    # Bounds that differ in the last bit of float32 may round to the other side.
    assert torch.allclose(plain.weight, layers[1].weight.float(), rtol=2**-8, atol=0)
    assert_same(layers[1].bias, plain.bias, 2**-8)
