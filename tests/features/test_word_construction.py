"""Published shapes, initial weights, word vectors, and errors of the word networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from energynets.data.batches import CachedFeatures, SparseBatch, TokenBatch
from energynets.errors import ConfigError, ShapeError
from energynets.features import FEATURES, XMLCNN, KimCNN


def parameters_of(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_memory_case_study() -> None:
    with torch.device("meta"):
        network = XMLCNN(
            30_000,
            embedding_dim=300,
            windows=(2, 4, 8),
            num_filters=32,
            pooling_chunks=128,
            hidden=512,
            conv_axis="embedding",
            max_tokens=500,
            bias=False,
        )
    assert parameters_of(network.embedding) == 9_000_000
    assert parameters_of(network.convolutions) == 224_000
    assert parameters_of(network.bottleneck) == 6_291_456
    assert [tuple(c.weight.shape) for c in network.convolutions] == [(32, 500, 2), (32, 500, 4), (32, 500, 8)]
    assert network.num_features == 512


def test_shapes_of_kim_2014() -> None:
    network = KimCNN(1000)
    assert [tuple(c.weight.shape) for c in network.convolutions] == [(100, 300, 3), (100, 300, 4), (100, 300, 5)]
    assert network.num_features == 300
    assert parameters_of(network) == 1000 * 300 + 100 * 300 * 12 + 300


def test_shapes_of_xml_cnn_over_words() -> None:
    network = XMLCNN(1000)
    assert [tuple(c.weight.shape) for c in network.convolutions] == [(128, 300, 2), (128, 300, 4), (128, 300, 8)]
    assert tuple(network.bottleneck.weight.shape) == (512, 3 * 128 * 8)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = KimCNN(2000, embedding_dim=50, windows=(3,))
    embedding, convolution = network.embedding.weight.detach(), network.convolutions[0]
    assert abs(float(embedding[1:].std()) - 0.1) < 0.002
    assert not embedding[0].any()
    assert abs(float(convolution.weight.detach().std()) - math.sqrt(2 / 150)) < 0.005
    assert not convolution.bias.any()


@pytest.mark.parametrize("build", [KimCNN, XMLCNN])
def test_vectors_fill_the_rows_they_cover(build) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(500, 40) * 0.4
    vectors[0] = 9.0
    vectors[1] = math.nan
    vectors[300:, 3] = math.nan
    weight = build(500, embedding_dim=40, vectors=vectors).embedding.weight.detach()
    assert torch.equal(weight[2:300], vectors[2:300])
    assert not weight[0].any()
    assert weight.isfinite().all()
    assert abs(float(weight[300:].std()) - 0.4) < 0.02
    assert float(weight[1].abs().max()) > 0


def test_vectors_that_cover_nothing() -> None:
    torch.manual_seed(0)
    weight = KimCNN(500, embedding_dim=40, vectors=torch.full((500, 40), math.nan)).embedding.weight.detach()
    assert abs(float(weight[1:].std()) - 0.1) < 0.01


def test_vectors_of_another_shape() -> None:
    with pytest.raises(ConfigError, match="embedding_dim is 300, but the word vectors have 40 dimensions"):
        KimCNN(5, vectors=torch.zeros(5, 40))
    with pytest.raises(ShapeError, match="expected one row for each of 5 words"):
        KimCNN(5, embedding_dim=40, vectors=torch.zeros(6, 40))


@pytest.mark.parametrize("build", [KimCNN, XMLCNN])
def test_other_kinds_of_input(build) -> None:
    network = build(10, embedding_dim=8)
    table = SparseBatch(torch.tensor([1]), torch.ones(1), torch.tensor([0, 1]), 40)
    message = f"{build.__name__} takes token sequences, got a table of 40 columns: set data.inputs: tokens, or use"
    with pytest.raises(ConfigError, match=message):
        network(table)
    with pytest.raises(ConfigError, match="got cached features"):
        network(CachedFeatures(torch.ones(1, 2)))


def test_ids_outside_the_vocabulary() -> None:
    network = KimCNN(10, embedding_dim=8)
    with pytest.raises(ShapeError, match="token id 12 is outside the vocabulary of 10 words"):
        network(TokenBatch(torch.tensor([[3, 12]]), torch.tensor([2])))
    with pytest.raises(ShapeError, match="token id -1 is outside"):
        network(TokenBatch(torch.tensor([[3, -1]]), torch.tensor([2])))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"unknown conv_axis 'word' .did you mean 'words'"):
        XMLCNN(10, conv_axis="word")
    with pytest.raises(ConfigError, match="windows of at most embedding_dim, got 8 for 5"):
        XMLCNN(10, embedding_dim=5, conv_axis="embedding")


def test_registry() -> None:
    assert {kind: network.input_kind for kind, network in FEATURES.items()} == {
        "bag_of_words": "table",
        "kim_cnn": "tokens",
        "xml_cnn": "tokens",
    }


@pytest.mark.parametrize("build", [KimCNN, XMLCNN])
def test_vectors_of_numpy(build) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    weight = build(5, embedding_dim=8, vectors=vectors).embedding.weight.detach()
    assert torch.equal(weight[1:], torch.from_numpy(vectors)[1:])


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (KimCNN, {"windows": 3}, r"KimCNN: expected windows to be a sequence of whole numbers, \(3,\) say, got 3"),
        (XMLCNN, {"windows": 3}, r"XMLCNN: expected windows to be a sequence of whole numbers, \(3,\) say, got 3"),
        (XMLCNN, {"windows": (2, 0)}, r"sequence of whole numbers, \(2, 4\) say, got \(2, 0\)"),
        (XMLCNN, {"windows": ()}, "expected one window or more, got none"),
        (KimCNN, {"windows": ()}, "expected one window or more, got none"),
        (XMLCNN, {"pooling_chunks": 0}, "expected pooling_chunks to be 1 or more, a whole number, got 0"),
        (XMLCNN, {"hidden": (16,)}, r"expected hidden to be 1 or more, a whole number, got \(16,\)"),
        (KimCNN, {"dropout": 1.5}, r"KimCNN: expected dropout to be a share in \[0, 1\], got 1.5"),
        (XMLCNN, {"embedding_dropout": -0.1}, r"expected embedding_dropout to be a share in \[0, 1\], got -0.1"),
    ],
)
def test_settings_that_are_none(build, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build(10, **settings)


@pytest.mark.parametrize("build", [KimCNN, XMLCNN])
def test_a_tensor_of_ids_is_told_what_it_lacks(build) -> None:
    with pytest.raises(ConfigError, match=r"got a tensor of shape \(2, 3\): TokenBatch\(tokens, lengths\)"):
        build(10)(torch.ones(2, 3, dtype=torch.int64))
