"""Bag of words against the dense product, on both of its paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from scipy.sparse import random as random_sparse

from energynets.data.batches import SparseBatch, TokenBatch, sparse_batch
from energynets.data.dataset import Documents
from energynets.errors import ConfigError, ShapeError
from energynets.features import BagOfWords, FeatureCache
from energynets.models import Classifier

DENSITIES = {"sparse": 0.02, "dense": 0.6}
every_density = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())


def table_of(density: float, rows: int = 9, columns: int = 150, seed: int = 0) -> SparseBatch:
    matrix = random_sparse(rows, columns, density, format="lil", random_state=np.random.default_rng(seed))
    matrix[3] = 0
    matrix[rows - 1] = 0
    table = sparse_batch(csr_array(matrix))
    return SparseBatch(table.columns, table.values.double(), table.offsets, table.num_columns)


def oracle(network: BagOfWords, dense: torch.Tensor) -> torch.Tensor:
    act = {"relu": F.relu, "softplus": F.softplus, "tanh": torch.tanh}[network.activation]
    hidden = (
        dense
        if network.first is None
        else act(dense @ network.first.weight + (network.first.bias if network.first.bias is not None else 0))
    )
    for layer in network.rest:
        hidden = act(layer(hidden))
    return hidden


@every_density
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 6)])
@pytest.mark.parametrize(("activation", "bias"), [("relu", True), ("softplus", False), ("tanh", True)])
def test_value_and_gradient_agree_with_the_dense_product(density, hidden, activation, bias) -> None:
    torch.manual_seed(0)
    network = BagOfWords(150, hidden=hidden, activation=activation, bias=bias).double().eval()
    table = table_of(density)
    features, expected = network(table), oracle(network, table.dense())
    assert features.shape == (9, network.num_features)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    parameters = list(network.parameters())
    if parameters:
        direction = torch.randn_like(expected)
        got = torch.autograd.grad((features * direction).sum(), parameters)
        want = torch.autograd.grad((expected * direction).sum(), parameters)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=0, atol=1e-12)


@every_density
def test_gradcheck(density) -> None:
    network = BagOfWords(20, hidden=(3,), activation="tanh").double().eval()
    table = table_of(density, columns=20)
    assert torch.autograd.gradcheck(lambda *_: network(table), list(network.parameters()))
    assert torch.autograd.gradgradcheck(lambda *_: network(table), list(network.parameters()))


@every_density
def test_same_bits_twice(density) -> None:
    table = table_of(density, rows=200, columns=300)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        network = BagOfWords(300, hidden=(16,))
        features = network(table)
        results.append((features, *torch.autograd.grad(features.sum(), list(network.parameters()))))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_without_hidden_layers_the_features_are_the_row() -> None:
    network, table = BagOfWords(150, hidden=(), input_dropout=0.0), table_of(0.1)
    assert network.num_features == 150
    assert torch.equal(network(table), table.dense())


@every_density
def test_a_batch_without_any_entry(density) -> None:
    empty = SparseBatch(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(4, dtype=torch.int64), 150)
    network = BagOfWords(150, hidden=(4,)).eval()
    features = network(empty)
    assert torch.equal(features, F.relu(network.first.bias).expand(3, 4))
    features.sum().backward()
    assert not network.first.weight.grad.any()


@every_density
def test_input_dropout_drops_entries_and_scales_the_rest(density) -> None:
    network, table = BagOfWords(150, hidden=(), input_dropout=0.25), table_of(density, rows=400)
    torch.manual_seed(0)
    dropped, kept = network(table), table.dense()
    ratios = (dropped / kept)[kept != 0]
    assert set(ratios.round(decimals=9).unique().tolist()) == {0.0, round(4 / 3, 9)}
    assert abs(float((ratios == 0).double().mean()) - 0.25) < 0.05
    assert torch.equal(network.eval()(table), kept)


def test_hidden_dropout_is_inverted() -> None:
    network, table = BagOfWords(150, hidden=(400,), input_dropout=0.0, dropout=0.5).double(), table_of(0.1)
    torch.manual_seed(0)
    dropped, kept = network(table), network.eval()(table)
    assert set((dropped / kept)[kept != 0].round(decimals=9).unique().tolist()) == {0.0, 2.0}


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = BagOfWords(1000, hidden=(200, 50))
    assert network.first.weight.shape == (1000, 200)
    assert abs(float(network.first.weight.detach().std()) * np.sqrt(3 * 1000) - 1) < 0.02
    assert sum(p.numel() for p in network.parameters()) == 1000 * 200 + 200 + 200 * 50 + 50


def test_errors_name_what_came_and_what_to_change() -> None:
    network = BagOfWords(150)
    tokens = TokenBatch(torch.ones(2, 3, dtype=torch.int64), torch.tensor([3, 2]))
    with pytest.raises(ConfigError, match=r"BagOfWords takes a table, got token sequences: set data\.inputs: counts"):
        network(tokens)
    with pytest.raises(ShapeError, match="built for 150 columns, got 20"):
        network(table_of(0.1, columns=20))
    with pytest.raises(ConfigError, match=r"unknown activation 'rleu' .did you mean 'relu'"):
        BagOfWords(10, activation="rleu")
    with pytest.raises(ConfigError, match=r"got a tensor of shape \(2, 150\): SparseBatch\.of\(x\)"):
        network(torch.ones(2, 150))
    with pytest.raises(ConfigError, match=r"expected hidden to be a sequence of whole numbers, \(16,\) say, got 16"):
        BagOfWords(10, hidden=16)
    with pytest.raises(ConfigError, match=r"expected input_dropout to be a share in \[0, 1\], got nan"):
        BagOfWords(10, input_dropout=float("nan"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_features_are_of_the_dtype_of_a_converted_model(hidden, dtype, tmp_path) -> None:
    model = Classifier(BagOfWords(150, hidden=hidden), 3).to(dtype).eval()
    table = sparse_batch(csr_array(table_of(0.1).dense().numpy()))
    assert table.values.dtype == torch.float32
    assert model(table).dtype == dtype
    documents = Documents(csr_array(table.dense().numpy()), csr_array((9, 3), dtype=np.float32))
    for storage in ("memory", "disk"):
        found = FeatureCache(model.features, storage=storage, folder=tmp_path).get(documents, key="a")
        assert torch.equal(found, model.features(table))
    assert list(model.features.state_dict()) == ([] if not hidden else ["first.weight", "first.bias"])
