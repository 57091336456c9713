"""Kim-CNN and XML-CNN against loops over documents, and what must not change their output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from energynets.data.batches import TokenBatch, token_batch
from energynets.data.dataset import TokenSequences
from energynets.features import XMLCNN, KimCNN, word_convolution
from energynets.features.embedding import pack
from energynets.features.word_convolution import WordConvolution
from energynets.models import Classifier

V = 23


def batch_of(documents: list[list[int]]) -> TokenBatch:
    return token_batch(TokenSequences.from_lists(documents, V))


def random_documents(seed: int, lengths: tuple[int, ...] = (0, 1, 2, 5, 9, 14, 33, 3)) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, V, size=length).tolist() for length in lengths]


def kim(**changes: object) -> KimCNN:
    torch.manual_seed(0)
    arguments = {"embedding_dim": 6, "windows": (1, 3, 4), "num_filters": 3, "embedding_dropout": 0.3, "dropout": 0.4}
    return with_biases(KimCNN(V, **(arguments | changes)))  # type: ignore[arg-type]


def xml(**changes: object) -> XMLCNN:
    torch.manual_seed(0)
    arguments = {"embedding_dim": 6, "windows": (2, 4), "num_filters": 3, "pooling_chunks": 3, "hidden": 4}
    return with_biases(XMLCNN(V, **(arguments | changes)))  # type: ignore[arg-type]


def with_biases(network):
    """As after training: biases at zero would hide mistakes, and put empty documents on the kink of relu."""
    for convolution in network.convolutions:
        if convolution.bias is not None:
            torch.nn.init.normal_(convolution.bias, std=0.1)
    return network.double().eval()


NETWORKS = {
    "kim": kim,
    "kim without bias": lambda: kim(bias=False),
    "xml words": xml,
    "xml words, more chunks than positions": lambda: xml(pooling_chunks=11),
    "xml embedding": lambda: xml(conv_axis="embedding", max_tokens=12),
    "xml embedding, stride 3, no bias": lambda: xml(
        conv_axis="embedding", max_tokens=16, stride=3, windows=(2, 6, 1), bias=False
    ),
    "xml embedding, more chunks than positions": lambda: xml(conv_axis="embedding", max_tokens=16, pooling_chunks=8),
}


@pytest.fixture(params=[0.0, float("inf")], ids=["dense gradient", "sparse gradient"])
def either_gradient(request, monkeypatch) -> None:
    """Batches of a few words take the dense one by themselves."""
    monkeypatch.setattr(word_convolution, "SPARSE_UP_TO", request.param)


every_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS.keys())


def chunks_of(positions: int, chunks: int) -> list[range]:
    return [range(j * positions // chunks, -(-(j + 1) * positions // chunks)) for j in range(chunks)]


def kim_oracle(network: KimCNN, document: list[int]) -> torch.Tensor:
    padded = document + [0] * (network.widest - len(document))
    vectors = network.embedding.weight[padded]
    features = []
    for convolution in network.convolutions:
        for filter_, weight in enumerate(convolution.weight):
            values = [
                (vectors[t : t + weight.shape[1]].T * weight).sum() for t in range(len(padded) - weight.shape[1] + 1)
            ]
            bias = 0 if convolution.bias is None else convolution.bias[filter_]
            features.append(F.relu(torch.stack(values).max() + bias))
    return torch.stack(features)


def xml_oracle(network: XMLCNN, document: list[int]) -> torch.Tensor:
    pooled = []
    for convolution in network.convolutions:
        if network.conv_axis == "words":
            vectors = network.embedding.weight[document + [0] * (network.widest - len(document))]
            values = F.conv1d(vectors.T[None], convolution.weight, convolution.bias)[0]
        else:
            vectors = torch.zeros(network.max_tokens, network.embedding.weight.shape[1], dtype=torch.float64)
            kept = document[: network.max_tokens]
            vectors[: len(kept)] = network.embedding.weight[kept]
            values = F.conv1d(vectors[None], convolution.weight, convolution.bias, stride=convolution.stride)[0]
        chunks = chunks_of(values.shape[1], convolution.pooling_chunks)
        pooled.append(torch.stack([values[:, list(chunk)].max(1).values for chunk in chunks]).flatten())
    return F.relu(network.bottleneck(F.relu(torch.cat(pooled))))


def oracle(network: KimCNN | XMLCNN, documents: list[list[int]]) -> torch.Tensor:
    one = kim_oracle if isinstance(network, KimCNN) else xml_oracle
    return torch.stack([one(network, document) for document in documents])  # type: ignore[arg-type]


@every_network
@pytest.mark.usefixtures("either_gradient")
def test_value_and_gradient_agree_with_a_loop_over_documents(build) -> None:
    network, documents = build(), random_documents(1)
    features = network(batch_of(documents))
    expected = oracle(network, documents)
    assert features.shape == (len(documents), network.num_features)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(expected)
    parameters = list(network.parameters())
    got = torch.autograd.grad((features * direction).sum(), parameters)
    want = torch.autograd.grad((expected * direction).sum(), parameters)
    for g, w in zip(got, want, strict=True):
        w[0] = 0 if w.shape == network.embedding.weight.shape else w[0]  # the oracle's padding row is not held
        torch.testing.assert_close(g, w, rtol=0, atol=1e-11)


@every_network
@pytest.mark.usefixtures("either_gradient")
def test_gradcheck(build) -> None:
    network, batch = build(), batch_of(random_documents(2, (0, 6, 3)))
    free = [p for name, p in network.named_parameters() if "embedding" not in name]
    assert torch.autograd.gradcheck(lambda *_: network(batch), free, fast_mode=True)
    used = sorted({t for document in random_documents(2, (0, 6, 3)) for t in document})
    table = network.embedding.weight

    def of_used(rows: torch.Tensor) -> torch.Tensor:
        changed = table.detach().clone().index_copy(0, torch.tensor(used), rows)
        return torch.func.functional_call(network, {"embedding.weight": changed}, (batch,))

    assert torch.autograd.gradcheck(of_used, table.detach()[used].clone().requires_grad_(), fast_mode=True)


class TestSparseGradient:
    """Of a convolution over words: on a CPU, where chunks are few beside words."""

    @pytest.fixture
    def case(self, monkeypatch):
        torch.manual_seed(1)
        packed = pack(batch_of(random_documents(6, (3, 40, 9))), shortest=3)
        vectors = torch.randn(len(packed.words), 5, dtype=torch.float64, requires_grad=True)
        convolution = WordConvolution(5, 4, 3, pooling_chunks=2).double()

        def gradients(up_to: float, *wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
            monkeypatch.setattr(word_convolution, "SPARSE_UP_TO", up_to)
            return torch.autograd.grad(F.relu(convolution(vectors, packed)).square().sum(), wanted)

        return convolution, vectors, packed, gradients

    @pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["vectors", "filters", "both"])
    def test_is_the_dense_one(self, case, which) -> None:
        convolution, vectors, _, gradients = case
        wanted = [(vectors, convolution.weight)[i] for i in which]
        for sparse, dense in zip(gradients(9.0, *wanted), gradients(0.0, *wanted), strict=True):
            torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
            assert dense.any()

    @pytest.mark.parametrize("frozen", ["vectors", "filters"])
    def test_of_frozen_vectors_or_filters(self, case, frozen) -> None:
        convolution, vectors, _, gradients = case
        (vectors if frozen == "vectors" else convolution.weight).requires_grad_(False)
        wanted = convolution.weight if frozen == "vectors" else vectors
        torch.testing.assert_close(gradients(9.0, wanted), gradients(0.0, wanted), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("frozen", ["vectors", "filters", "neither"])
    def test_second_derivatives(self, case, frozen, monkeypatch) -> None:
        convolution, vectors, packed, _ = case
        monkeypatch.setattr(word_convolution, "SPARSE_UP_TO", 9.0)
        vectors.requires_grad_(frozen != "vectors")
        convolution.weight.requires_grad_(frozen != "filters")
        inputs = [x for x in (vectors, convolution.weight) if x.requires_grad]
        assert torch.autograd.gradgradcheck(lambda *_: convolution(vectors, packed).square(), inputs)

    def test_is_what_a_batch_of_many_words_has(self, case, monkeypatch) -> None:
        _, vectors, packed, _ = case
        convolution = WordConvolution(5, 4, 3, pooling_chunks=2, bias=False).double()
        by_hand = word_convolution._AtWinners
        used = []
        monkeypatch.setattr(by_hand, "apply", lambda *given: used.append(True) or given[-1])
        convolution(vectors, packed)
        chunks = 2 * len(packed.lengths)
        assert chunks > word_convolution.SPARSE_UP_TO * len(vectors)
        assert not used
        more = vectors.repeat(2, 1)
        convolution(more, packed)
        assert chunks <= word_convolution.SPARSE_UP_TO * len(more)
        assert used

    def test_under_a_transform_is_the_dense_one(self, case, monkeypatch) -> None:
        convolution, vectors, packed, gradients = case
        (expected,) = gradients(0.0, vectors)
        monkeypatch.setattr(word_convolution, "SPARSE_UP_TO", 9.0)
        of = torch.func.grad(lambda v: F.relu(convolution(v, packed)).square().sum())
        torch.testing.assert_close(of(vectors), expected, rtol=0, atol=1e-12)


@every_network
@settings(max_examples=12, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, V - 1), max_size=20), min_size=1, max_size=6),
    padding=st.integers(0, 70),
    seed=st.integers(0, 1000),
)
def test_batch_padding_and_order_do_not_matter(build, documents, padding, seed) -> None:
    network = build()
    alone = torch.cat([network(batch_of([document])) for document in documents])
    together = batch_of(documents)
    padded = TokenBatch(F.pad(together.tokens, (0, padding)), together.lengths)
    torch.testing.assert_close(network(padded), alone, rtol=0, atol=1e-12)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(documents)))
    shuffled = TokenBatch(padded.tokens[order], padded.lengths[order])
    torch.testing.assert_close(network(shuffled), alone[order], rtol=0, atol=1e-12)


@every_network
def test_float32_in_a_batch_with_long_documents(build) -> None:
    network = build().float()
    documents = random_documents(3, (4, 400, 250, 0))
    together = network(batch_of(documents))
    for row, document in enumerate(documents):
        torch.testing.assert_close(network(batch_of([document]))[0], together[row], rtol=1e-5, atol=1e-6)


@every_network
def test_what_stands_behind_a_document_is_not_read(build) -> None:
    network, batch = build(), batch_of(random_documents(4))
    noise = torch.randint(1, V, batch.tokens.shape)
    outside = torch.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    assert torch.equal(network(TokenBatch(torch.where(outside, noise, batch.tokens), batch.lengths)), network(batch))


@every_network
@pytest.mark.usefixtures("either_gradient")
def test_a_batch_of_empty_documents(build) -> None:
    network = build()
    features = network(batch_of([[], []]))
    torch.testing.assert_close(features, oracle(network, [[], []]), rtol=0, atol=1e-12)
    features.sum().backward()
    assert not network.embedding.weight.grad.any()


@every_network
@pytest.mark.usefixtures("either_gradient")
def test_same_bits_twice(build) -> None:
    documents = random_documents(5, (30, 200, 7, 0, 64, 65))
    results = []
    for _ in range(2):
        network = build().float().train()
        torch.manual_seed(7)
        features = network(batch_of(documents))
        results.append((features, *torch.autograd.grad(features.square().sum(), list(network.parameters()))))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@every_network
def test_padding_row_stays_zero(build) -> None:
    network = build().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(batch_of([[], [3, 0, 4], [5] * 9])).sum().backward()
        assert not network.embedding.weight.grad[0].any()
        optimizer.step()
    assert not network.embedding.weight[0].any()


def test_dropout_is_inverted_and_off_in_evaluation() -> None:
    network, batch = kim(dropout=0.5, embedding_dropout=0.0), batch_of([[3, 4, 5, 6]] * 1000)
    kept = network(batch)
    assert torch.equal(network(batch), kept)
    torch.manual_seed(0)
    dropped = network.train()(batch)
    torch.testing.assert_close(dropped.mean(0), kept[0], rtol=0.15, atol=1e-3)
    assert set((dropped / kept).nan_to_num().round(decimals=9).unique().tolist()) <= {0.0, 2.0}


def test_embedding_dropout_drops_a_words_entries() -> None:
    network = kim(embedding_dropout=0.5)
    torch.manual_seed(0)
    words = torch.tensor([0, 3, 4])
    dropped = torch.stack([network.embedding.train()(words) for _ in range(500)])
    torch.testing.assert_close(dropped.mean(0), network.embedding.weight[words], rtol=0.25, atol=5e-3)
    assert 0.45 < float((dropped[:, 1:] == 0).double().mean()) < 0.55


@pytest.mark.parametrize("width", [1, 9])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["kim", "words", "embedding"])
def test_a_batch_without_documents(name: str, training: bool, width: int) -> None:
    options: dict = {"embedding_dim": 8, "windows": (2, 3), "num_filters": 4}
    network = KimCNN(12, **options) if name == "kim" else XMLCNN(12, conv_axis=name, hidden=5, **options)
    model = Classifier(network.train(training), 3)
    empty = TokenBatch(torch.zeros(0, width, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert network(empty).shape == (0, network.num_features)
    model(empty).sum().backward()
    assert model(empty).shape == (0, 3)
