"""What the labels of the nearest training documents add to the logits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from energynets.baselines import NearestNeighbours
from energynets.data.batches import CachedFeatures, SparseBatch, TokenBatch, collate
from energynets.data.dataset import Documents, TokenSequences
from energynets.energies import ICNN, SPEN, Energy
from energynets.errors import ConfigError, DataError, ShapeError
from energynets.features import BagOfWords, KimCNN
from energynets.inference import Anderson, MirrorDescent, Observed, Unroll, general_path
from energynets.models import Classifier, EnergyNetwork
from energynets.objectives import EndToEnd, StructuredHinge
from energynets.output import ChunkedLinear, NeighbourLogits

D, L, N, EPS = 15, 6, 30, 0.01


def documents(seed: int, count: int) -> Documents:
    rng = np.random.default_rng(seed)
    rows = rng.poisson(0.5, (count, D)).astype(np.float32)
    labels = (rng.random((count, L)) < 0.3).astype(np.float32)
    return Documents(csr_array(rows), csr_array(labels))


def token_documents(seed: int, count: int) -> Documents:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(2, D, rng.integers(0, 9)).tolist() for _ in range(count)]
    return Documents(TokenSequences.from_lists(lists, D), documents(seed, count).labels)


TRAIN, TEST = documents(0, N), documents(1, 9)


def batch_of(data: Documents) -> Any:
    inputs = collate(data, np.arange(len(data))).inputs
    if isinstance(inputs, TokenBatch):
        return inputs
    assert isinstance(inputs, SparseBatch)
    return SparseBatch(inputs.columns, inputs.values.double(), inputs.offsets, inputs.num_columns)


def term(train: Documents = TRAIN, k: int = 4) -> NeighbourLogits:
    return NeighbourLogits(NearestNeighbours(k).fit(train), smoothing=EPS).double()


def scores_of_all(train: Documents, test: Documents, k: int = 4) -> np.ndarray:
    top = NearestNeighbours(k).fit(train).scores(test, L)
    found = np.zeros((len(test), L))
    np.put_along_axis(found, top.indices.astype(np.int64), top.values.astype(np.float64), axis=1)
    return found


def network(energy: Energy, neighbours: NeighbourLogits | None, **settings: Any) -> EnergyNetwork:
    torch.manual_seed(0)
    return EnergyNetwork(BagOfWords(D, hidden=(5,)), energy, neighbours=neighbours, **settings).double()


@pytest.mark.parametrize("kind", ["table", "tokens"])
def test_shares_are_the_scores_of_the_baseline(kind: str) -> None:
    make = documents if kind == "table" else token_documents
    train, test = make(0, N), make(1, 9)
    neighbours = term(train).eval()
    neighbours.weight.data.fill_(0.7)
    expected = 0.7 * np.log(scores_of_all(train, test) + EPS)  # which come in float32
    np.testing.assert_allclose(neighbours(batch_of(test)).detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_training_document_is_none_of_its_own_neighbours() -> None:
    """In training mode each document finds what a baseline without it would find, of the same tf-idf."""
    neighbours, inputs = term(), batch_of(TRAIN)
    nearest = neighbours.nearest
    assert nearest.rows is not None
    assert nearest.labels is not None
    found = neighbours.train()(inputs).exp().detach() - EPS
    for row in range(N):
        cosines = (nearest.rows @ nearest.rows[[row]].T).toarray().ravel()
        cosines[cosines > 0.9999] = 0
        near = np.argsort(-cosines, kind="stable")[:4]
        weights = cosines[near] ** 2
        expected = weights @ nearest.labels[near].toarray() / weights.sum() if weights.sum() else nearest.frequencies
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-6)
    assert (neighbours.eval()(inputs).exp() - EPS - found).abs().max() > 0.1


def test_copies_among_the_training_documents_are_no_neighbours_in_training() -> None:
    rows = csr_array(np.array([[3, 1, 0], [6, 2, 0], [1, 2, 0]], dtype=np.float32))
    train = Documents(rows, csr_array(np.eye(3, dtype=np.float32)))
    real = Documents(csr_array(rows * np.float32(0.1)), train.labels)  # no counts: rows are scaled alone
    shares = NearestNeighbours(3).fit(real).shares(real.inputs, leave_one_out=True).toarray()
    np.testing.assert_allclose(shares[:2], [[0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(shares[2], [0.5, 0.5, 0])


def test_the_gradient_of_the_weight() -> None:
    neighbours = term().train()

    def of(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(neighbours, {"weight": weight}, (batch_of(TRAIN),))

    assert torch.autograd.gradcheck(of, (neighbours.weight,))


@pytest.mark.parametrize("path", ["engine", "general"])
def test_an_energy_with_a_head_of_zero_is_the_classifier(path: str) -> None:
    model = network(SPEN(5, L, num_measurements=3), term(), solver=MirrorDescent(steps=3)).eval()
    model.energy.measure.data.zero_()
    inputs = batch_of(TEST)
    with general_path() if path == "general" else torch.enable_grad():
        torch.testing.assert_close(model(inputs), model.as_classifier()(inputs))
    assert model.as_classifier().neighbours is model.neighbours


@pytest.mark.parametrize("energy", ["spen", "icnn"])
@pytest.mark.parametrize("solver", [MirrorDescent(steps=3), Anderson(steps=5)])
def test_the_term_reaches_the_energy_and_its_start(energy: str, solver: Any) -> None:
    """Inference is of the energy whose phi has the term."""
    torch.manual_seed(1)
    own: Any = SPEN(5, L, num_measurements=3) if energy == "spen" else ICNN(5, L, hidden=(3, 2))
    model = network(own, term(), solver=solver, gradient=Unroll()).eval()
    inputs = batch_of(TEST)
    context = own.condition(model.features(inputs))
    context = context._replace(unary=context.unary + model.neighbours(inputs))
    expected = model.solver.solve(own, context)
    torch.testing.assert_close(model(inputs), expected)
    (ours,), (theirs,) = (
        torch.autograd.grad(z.square().sum(), model.neighbours.weight) for z in (model(inputs), expected)
    )
    torch.testing.assert_close(ours, theirs)
    assert ours.abs() > 1e-3
    with torch.no_grad():  # where a solver with a tolerance may stop early
        torch.testing.assert_close(model.infer(inputs).logits, model(inputs))
    *_, last = model.trajectory(inputs)
    torch.testing.assert_close(last, expected)


def test_objectives_that_read_the_energy_see_the_term() -> None:
    torch.manual_seed(1)
    model = network(SPEN(5, L, num_measurements=3), term()).eval()
    batch = collate(TEST, np.arange(len(TEST)))
    batch = type(batch)(batch_of(TEST), batch.labels, batch.rows)
    for objective in (StructuredHinge(), EndToEnd("bce")):
        loss = objective(model, batch)
        (slope,) = torch.autograd.grad(loss, model.neighbours.weight)
        assert slope.abs() > 1e-4, type(objective).__name__


def test_the_weight_is_of_the_unary_group_and_all_that_is_saved() -> None:
    classifier = Classifier(BagOfWords(D, hidden=(5,)), L, neighbours=term())
    spen = network(SPEN(5, L, num_measurements=3), term())
    for model in (classifier, spen):
        assert any(weight is model.neighbours.weight for weight in model.parameter_groups()["unary"])
        assert [name for name in model.state_dict() if "neighbours" in name] == ["neighbours.weight"]
        listed = [id(weight) for group in model.parameter_groups().values() for weight in group]
        assert sorted(listed) == sorted(id(weight) for weight in model.parameters())
        assert not model.cacheable
    torch.testing.assert_close(copy.deepcopy(spen).eval()(batch_of(TEST)), spen.eval()(batch_of(TEST)))


def test_known_labels_and_token_sequences_go_with_neighbours() -> None:
    train, test = token_documents(0, N), token_documents(1, 9)
    torch.manual_seed(0)
    features = KimCNN(D, embedding_dim=4, windows=(2,), num_filters=3)
    model = Classifier(features, L, neighbours=term(train)).double().eval()
    inputs = batch_of(test)
    plain = Classifier(features, L, output=model.unary)
    torch.testing.assert_close(model(inputs) - plain(inputs), model.neighbours(inputs))
    mask = torch.zeros(9, L, dtype=torch.bool)
    mask[:, 0] = True
    known = model(inputs, Observed(torch.ones(9, L).double(), mask))
    torch.testing.assert_close(known[:, 1:], model(inputs)[:, 1:])
    assert (known[:, 0] > model(inputs)[:, 0]).all()


class Plain(Energy):
    def potential(self, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return y.sum(-1)


def test_what_cannot_have_neighbours_says_so() -> None:
    features = BagOfWords(D, hidden=(5,))
    with pytest.raises(ConfigError, match="no ChunkedLinear"):
        Classifier(features, L, output=ChunkedLinear(5, L), neighbours=term())
    for settings in ({"label_chunk": 2}, {"shortlist": 2}):
        with pytest.raises(ConfigError, match="no label_chunk, no shortlist"):
            network(SPEN(5, L), term(), **settings)
    with pytest.raises(ConfigError, match="Plain has none"):
        network(Plain(L), term())
    with pytest.raises(ConfigError, match="above 0"):
        NeighbourLogits(NearestNeighbours(), smoothing=0.0)
    model = Classifier(features, L, neighbours=term())
    with pytest.raises(ShapeError, match=r"expected documents, .* got CachedFeatures"):
        model(CachedFeatures(torch.zeros(2, 5)))
    with pytest.raises(ShapeError, match="fitted on 15 input columns, got 14"):
        model.neighbours(batch_of(Documents(csr_array(np.ones((2, 14), np.float32)), TEST.labels[:2])))
    with pytest.raises(DataError, match="not fitted"):
        NeighbourLogits(NearestNeighbours())(batch_of(TEST))


def test_neighbours_of_another_number_of_labels_are_not_broadcast() -> None:
    rows = batch_of(TEST)
    for model in (
        Classifier(BagOfWords(D, hidden=(8,)), 1, neighbours=term()).double(),
        EnergyNetwork(BagOfWords(D, hidden=(8,)), SPEN(8, 1), neighbours=term()).double(),
    ):
        with pytest.raises(
            ShapeError, match=r"neighbours: expected terms of the model's labels, \(9, 1\), got \(9, 6\)"
        ):
            model(rows)
