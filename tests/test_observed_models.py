"""Models that are given known labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse import random as random_sparse

from energynets.data.batches import CachedFeatures, SparseBatch, TokenBatch, sparse_batch
from energynets.energies import ICNN, SPEN
from energynets.errors import ConfigError, ShapeError
from energynets.features import XMLCNN, BagOfWords, KimCNN, Observing
from energynets.inference import (
    OBSERVED_LOGIT,
    Anderson,
    GradientDescent,
    MirrorDescent,
    NoGradient,
    Observed,
    Shortlist,
    general_path,
    infer,
)
from energynets.models import Classifier, EnergyNetwork

D, L, B = 12, 7, 5


def table(seed: int = 0) -> SparseBatch:
    batch = sparse_batch(csr_array(random_sparse(B, D, 0.5, format="csr", random_state=np.random.default_rng(seed))))
    return SparseBatch(batch.columns, batch.values.double(), batch.offsets, D)


def known(seed: int = 0) -> Observed:
    draw = torch.Generator().manual_seed(seed)
    values, mask = torch.rand(2, B, L, generator=draw).unbind()
    return Observed((values < 0.4).double(), mask < 0.5)


def network(energy: str, solver: str) -> EnergyNetwork:
    torch.manual_seed(0)
    energies = {"spen": lambda: SPEN(6, L, num_measurements=4), "icnn": lambda: ICNN(6, L, hidden=(3, 3))}
    solvers = {"mirror": MirrorDescent, "logits": GradientDescent, "anderson": Anderson}
    return EnergyNetwork(BagOfWords(D, hidden=(6,)), energies[energy](), solvers[solver](steps=4)).double().eval()


@pytest.mark.parametrize("energy", ["spen", "icnn"])
@pytest.mark.parametrize("solver", ["mirror", "logits", "anderson"])
def test_an_energy_network_holds_known_labels_and_lets_them_pull_at_the_others(energy: str, solver: str) -> None:
    model, inputs, observed = network(energy, solver), table(), known()
    context = model.energy.condition(model.features(inputs))
    expected = infer(model.energy, context, solver=model.solver, observed=observed)
    found = model(inputs, observed)
    torch.testing.assert_close(found, expected.logits)
    assert (found[observed.mask] == OBSERVED_LOGIT * (2 * observed.values[observed.mask] - 1)).all()
    with general_path():
        torch.testing.assert_close(found, model(inputs, observed), rtol=1e-9, atol=1e-10)
    other = Observed(1 - observed.values, observed.mask)
    assert (model(inputs, other)[~observed.mask] - found[~observed.mask]).abs().max() > 1e-4
    result = model.infer(inputs, observed, trace=True)
    with torch.no_grad():  # where a solver with a tolerance may stop early
        torch.testing.assert_close(model(inputs, observed), result.logits)
    assert (result.y[observed.mask] == observed.values[observed.mask]).all()
    *_, last = model.trajectory(inputs, observed)
    torch.testing.assert_close(last, found, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model.with_losses(inputs, lambda step, z: z.sum(), observed)[0], found)


def test_gradients_of_the_engine_with_known_labels() -> None:
    model, inputs, observed = network("spen", "mirror"), table(), known()
    parameters = list(model.parameters())

    def gradients() -> list[torch.Tensor]:
        logits = model(inputs, observed)
        return list(torch.autograd.grad((logits[~observed.mask] ** 2).sum(), parameters))

    fast = gradients()
    with general_path():
        for a, b in zip(fast, gradients(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_classifier_gives_known_labels_back_and_is_blind_to_them_otherwise() -> None:
    torch.manual_seed(0)
    model, inputs, observed = Classifier(BagOfWords(D, hidden=(6,)), L).double().eval(), table(), known()
    found, blind = model(inputs, observed), model(inputs)
    assert torch.equal(found[~observed.mask], blind[~observed.mask])
    assert torch.equal(torch.sigmoid(found)[observed.mask].round(), observed.values[observed.mask])
    assert torch.equal(next(iter(model.trajectory(inputs, observed))), found)


# ------------------------------------------------------------------------------------------------------------ Observing


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_known_labels_are_two_more_columns_of_a_table_each(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs, observed = table(), known()
    features = Observing(BagOfWords(D, hidden=hidden), L).double().eval()
    torch.nn.init.normal_(features.known_true)
    torch.nn.init.normal_(features.known_false)
    found = features(inputs, *observed)
    true = observed.mask * observed.values
    false = observed.mask.double() - true
    false = (false - false.mean(1, keepdim=True)) / L**0.5
    columns = torch.cat([inputs.dense(), true, false], 1)
    if not hidden:
        identity = torch.eye(D, dtype=torch.float64)
        torch.testing.assert_close(found, columns @ torch.cat([identity, features.known_true, features.known_false]))
        return
    wide = BagOfWords(D + 2 * L, hidden=hidden).double().eval()
    own = features.network.state_dict()
    own["first.weight"] = torch.cat([own["first.weight"], features.known_true, features.known_false]).detach()
    wide.load_state_dict(own)
    torch.testing.assert_close(found, wide(sparse_batch(csr_array(columns.detach().numpy()))))


def test_a_few_true_labels_of_many_are_a_sparse_product(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    features = Observing(BagOfWords(D, hidden=(6,)), 300).double().eval()
    values = (torch.rand(B, 300) < 0.02).double()
    observed = Observed(values, torch.rand(B, 300) < 0.5)
    assert (values * observed.mask).any()
    calls: list[int] = []
    of = SparseBatch.of
    monkeypatch.setattr(SparseBatch, "of", lambda rows: calls.append(1) or of(rows))

    def found() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        for weight in (features.known_true, features.known_false):
            torch.nn.init.normal_(weight)
        out = features(table(), *observed)
        return out, *torch.autograd.grad(out.square().sum(), list(features.parameters()))

    sparse = found()
    monkeypatch.setattr("energynets.features.observing.DENSE_FROM", 0)
    for a, b in zip(sparse, found(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert calls == [1]


NETWORKS = {
    "bag_of_words": lambda: BagOfWords(D, hidden=(6,)),
    "kim_cnn": lambda: KimCNN(D, embedding_dim=4, windows=(2,), num_filters=6),
    "xml_cnn": lambda: XMLCNN(D, embedding_dim=4, windows=(2,), num_filters=3, pooling_chunks=2, hidden=6),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_starts_as_the_network_alone_and_reads_what_is_known(name: str) -> None:
    torch.manual_seed(0)
    features = Observing(NETWORKS[name](), L).double().eval()
    draw = torch.Generator().manual_seed(0)
    tokens = TokenBatch(torch.randint(1, D, (B, 9), generator=draw), torch.full((B,), 9))
    inputs = table() if name == "bag_of_words" else tokens
    observed = known()
    assert features.num_features == 6
    assert torch.equal(features(inputs), features.network(inputs))
    torch.testing.assert_close(features(inputs, *observed), features.network(inputs))
    torch.nn.init.normal_(features.known_true)
    torch.nn.init.normal_(features.known_false)
    seen = features(inputs, *observed)
    assert not torch.equal(seen, features.network(inputs))
    # what lies beneath the mask is not read
    hidden = Observed(torch.where(observed.mask, observed.values, 1 - observed.values), observed.mask)
    assert torch.equal(features(inputs, *hidden), seen)


class Plain(torch.nn.Module):
    """A network of one's own, which knows nothing of known labels."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(D, 6)

    def forward(self, inputs: SparseBatch) -> torch.Tensor:
        return torch.tanh(self.layer(inputs.dense()))


def test_a_network_of_ones_own_has_them_added_to_its_features() -> None:
    torch.manual_seed(0)
    features, observed = Observing(Plain(), L).double(), known()  # type: ignore[arg-type]
    torch.nn.init.normal_(features.known_true)
    true = observed.mask * observed.values
    torch.testing.assert_close(features(table(), *observed), features.network(table()) + true @ features.known_true)


def test_models_hand_known_labels_to_features_that_observe() -> None:
    torch.manual_seed(0)
    features, inputs, observed = Observing(BagOfWords(D, hidden=(6,)), L).double().eval(), table(), known()
    torch.nn.init.normal_(features.known_true)
    classifier = Classifier(features, L).double()
    seen = classifier.unary(features(inputs, *observed))
    torch.testing.assert_close(classifier(inputs, observed)[~observed.mask], seen[~observed.mask])
    model = EnergyNetwork(features, SPEN(6, L), MirrorDescent(steps=2)).double()
    context = model.energy.condition(features(inputs, *observed))
    solved = model.solver.solve(model.energy, context, gradient=NoGradient(), observed=observed)
    torch.testing.assert_close(model(inputs, observed), solved)
    assert model.observes
    assert classifier.observes
    cached = CachedFeatures(features(inputs).detach())
    torch.testing.assert_close(classifier(cached), classifier(inputs))
    with pytest.raises(ShapeError, match="cached features: expected inputs that have not been read"):
        classifier(cached, observed)


def test_a_shortlist_has_no_known_labels() -> None:
    model = EnergyNetwork(BagOfWords(D, hidden=(6,)), SPEN(6, L), MirrorDescent(steps=2), shortlist=Shortlist(3))
    with pytest.raises(ConfigError, match=r"observed: is of all labels.*build the model without a shortlist"):
        model.double()(table(), known())


WRONG = {
    "a fraction": (Observed(torch.full((B, L), 0.3), torch.ones(B, L, dtype=torch.bool)), "expected values of 0 or 1"),
    "one row for all": (Observed(torch.ones(1, L), torch.ones(1, L, dtype=torch.bool)), r"shape \(5, 7\)"),
    "a mask of numbers": (Observed(torch.ones(B, L), torch.ones(B, L)), "a bool mask"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("observing", [False, True])
def test_known_labels_of_a_classifier_are_checked_as_an_energy_networks_are(what: str, observing: bool) -> None:
    observed, message = WRONG[what]
    features = Observing(BagOfWords(D, hidden=(6,)), L) if observing else BagOfWords(D, hidden=(6,))
    energies = network("spen", "mirror").double()
    inputs = SparseBatch(table().columns, table().values.float(), table().offsets, D)
    for model, given in ((Classifier(features, L), inputs), (energies, table())):
        with pytest.raises(ShapeError, match=message):
            model(given, observed)


def test_logits_keep_their_dtype_whatever_that_of_known_labels_is() -> None:
    inputs = SparseBatch(table().columns, table().values.float(), table().offsets, D)
    found = Classifier(BagOfWords(D, hidden=(6,)), L)(inputs, known())
    assert found.dtype == torch.float32
