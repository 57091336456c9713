from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.energies import ICNN, SPEN, Box, Euclidean, Simplex
from energynets.errors import ConfigError, ShapeError
from energynets.inference import MirrorDescent
from energynets.models import Classifier, EnergyNetwork
from energynets.objectives import LOSSES, Contrastive, EndToEnd, StructuredHinge, ValueNetwork, probabilities
from energynets.objectives.objective import EnergyObjective

F, L = 4, 3


class Identity(nn.Module):
    """Features that count how often x is read."""

    num_features = F

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        return self.scale * inputs.dense()


def make_batch(rows: int = 3) -> Batch:
    inputs = SparseBatch(torch.arange(rows) % F, torch.ones(rows), torch.arange(rows + 1), F)
    # row 0 has labels 0 and 2, row 1 none, row 2 label 1
    labels = SparseBatch(torch.tensor([0, 2, 1]), torch.ones(3), torch.tensor([0, 2, 2, 3]), L)
    return Batch(inputs, labels, torch.arange(rows))


TARGETS = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])


def models():
    torch.manual_seed(0)
    return {
        "classifier": Classifier(Identity(), L),
        "spen": EnergyNetwork(Identity(), SPEN(F, L), MirrorDescent(steps=3)),
        "icnn": EnergyNetwork(Identity(), ICNN(F, L, hidden=(3, 3)), MirrorDescent(steps=3, learn_step_sizes=True)),
    }


def test_losses_by_hand():
    z = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 1.0], [-1.0, 3.0, 0.0]])
    y = torch.sigmoid(z)
    bce = functional.binary_cross_entropy(y, TARGETS, reduction="none").sum(-1).mean()
    torch.testing.assert_close(LOSSES["bce"](z, TARGETS), bce)
    torch.testing.assert_close(LOSSES["mse"](z, TARGETS), ((y - TARGETS) ** 2).sum() / 3)
    log_p = torch.log_softmax(z, -1)
    softmax = -(log_p[0, 0] / 2 + log_p[0, 2] / 2 + log_p[2, 1]) / 3
    torch.testing.assert_close(LOSSES["softmax"](z, TARGETS), softmax)
    f1 = [2 * (y[i] * TARGETS[i]).sum() / (y[i].sum() + TARGETS[i].sum()) for i in range(3)]
    torch.testing.assert_close(LOSSES["soft_f1"](z, TARGETS), 1 - sum(f1) / 3)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_differentiable_and_take_empty_batches(name):
    z = torch.randn(3, L, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, TARGETS.double()), z)
    assert LOSSES[name](torch.zeros(0, L), torch.zeros(0, L)) == 0


def test_mse_is_on_y_of_the_domain():
    z = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 1.0], [-1.0, 3.0, 0.0]])
    targets = torch.tensor([[0.2, -7.0, 3.0], [0.0, 1.0, 1.0], [5.0, 0.5, 0.0]])
    torch.testing.assert_close(LOSSES["mse"](z, targets, Euclidean()), (z - targets).square().sum() / 3)
    y = torch.softmax(z, -1)
    torch.testing.assert_close(LOSSES["mse"](z, TARGETS, Simplex(3)), (y - TARGETS).square().sum() / 3)


def test_softmax_in_a_simplex_adds_up_the_cross_entropies_of_its_variables():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tags = torch.tensor([[0, 2], [1, 1], [2, 0], [2, 2]])
    expected = functional.cross_entropy(z.view(8, 3), tags.flatten(), reduction="sum") / 4
    loss = LOSSES["softmax"](z, functional.one_hot(tags, 3).flatten(1).float(), Simplex(3))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("loss", "domain", "message"),
    [
        ("bce", Simplex(3), r"bce: expected y in Box, got Simplex\(num_categories=3\); there is softmax"),
        ("soft_f1", Euclidean(), r"soft_f1: expected y in Box, got Euclidean\(\)"),
        ("softmax", Euclidean(), r"softmax: expected y in Box \| Simplex, got Euclidean\(\); there is mse"),
    ],
)
def test_a_loss_that_means_nothing_in_a_domain_is_named(loss, domain, message):
    with pytest.raises(ConfigError, match=message):
        LOSSES[loss](torch.zeros(1, 3), torch.zeros(1, 3), domain)


@pytest.mark.parametrize("steps", ["last", "all"])
def test_end_to_end_is_in_the_models_domain(steps):
    torch.manual_seed(0)
    energy = ICNN(F, L, hidden=(3, 3), domain=Euclidean())
    batch = make_batch()
    network = EnergyNetwork(Identity(), energy, MirrorDescent(steps=0))  # z_0 = phi
    classifier = network.as_classifier()
    expected = (energy.unary(batch.inputs.dense()) - TARGETS).square().sum() / 3
    for model in (network, classifier, Classifier(Identity(), L, output=energy.unary, domain=Euclidean())):
        assert model.domain == Euclidean()
        torch.testing.assert_close(EndToEnd("mse", steps=steps)(model, batch), expected)
    assert Classifier(Identity(), L).domain == Box()


def test_probabilities_follow_the_loss():
    z = torch.randn(2, L)
    torch.testing.assert_close(probabilities(z, "softmax").sum(-1), torch.ones(2))
    assert torch.equal(probabilities(z, "bce"), torch.sigmoid(z))


@pytest.mark.parametrize("kind", ["classifier", "spen", "icnn"])
@pytest.mark.parametrize("steps", ["last", "all"])
@pytest.mark.parametrize("loss", LOSSES)
def test_end_to_end_reaches_every_parameter_and_reads_x_once(kind, steps, loss):
    model = models()[kind]
    value = EndToEnd(loss, steps=steps)(model, make_batch())
    assert value.shape == ()
    value.backward()
    assert model.features.calls == 1
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_cached_features_give_the_same_answer_without_reading_x():
    for model in models().values():
        batch = make_batch()
        cached = CachedFeatures(model.compute_features(batch.inputs).detach())
        model.features.calls = 0
        logits = model(cached)
        assert model.features.calls == 0
        torch.testing.assert_close(logits, model(batch.inputs))


def test_all_steps_weigh_the_last_most():
    model = models()["spen"]
    batch = make_batch()
    losses = [LOSSES["bce"](z, TARGETS) for z in model.trajectory(batch.inputs)]
    expected = (losses[0] / 3 + losses[1] / 2 + losses[2]) / (1 / 3 + 1 / 2 + 1)
    torch.testing.assert_close(EndToEnd(steps="all")(model, batch), expected)


def test_parameter_groups_cover_everything_once():
    for model in models().values():
        grouped = [id(p) for group in model.parameter_groups().values() for p in group]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_an_energy_networks_classifier_shares_its_weights():
    model = models()["spen"]
    classifier = model.as_classifier()
    assert classifier.unary is model.energy.unary
    assert classifier.features is model.features


def test_unknown_names_are_errors():
    with pytest.raises(ConfigError, match="did you mean 'bce'"):
        EndToEnd("bec")
    with pytest.raises(ConfigError, match="'all'"):
        EndToEnd(steps="some")


@pytest.mark.parametrize("shape", [(3, 1), (), (3, 3)])
def test_values_that_are_not_one_a_document_are_refused(shape):
    class Own(EnergyObjective):
        def of(self, model, features, context, targets, observed):
            return features.sum() * torch.ones(shape)

    model = EnergyNetwork(Identity(), SPEN(F, L))
    with pytest.raises(ShapeError, match=r"Own: expected \(3,\), one number a document, got " + re.escape(str(shape))):
        Own()(model, make_batch())


OBJECTIVES = [
    *(EndToEnd(loss, steps=steps) for loss in LOSSES for steps in ("last", "all")),
    EndToEnd(convergence_penalty=1.0),
    EndToEnd(propensity=0.5),
    StructuredHinge(),
    ValueNetwork(),
    Contrastive(),
]


@pytest.mark.parametrize("number", range(len(OBJECTIVES)))
@pytest.mark.parametrize("rows_by_labels", [(1, L), (3, 1), (2, L)])
def test_labels_of_other_documents_or_another_set_are_not_broadcast(number, rows_by_labels):
    batch = replace(make_batch(), labels=SparseBatch.of(torch.ones(rows_by_labels)))
    for model in (models()["classifier"], models()["spen"]):
        with pytest.raises(ShapeError, match=rf"expected \(3, 3\), documents by labels.*got \({rows_by_labels[0]}, "):
            OBJECTIVES[number](model, batch)


def test_a_classifier_with_an_output_of_another_number_of_labels():
    with pytest.raises(ConfigError, match="expected an output of num_labels, 3, got one of 7"):
        Classifier(Identity(), 3, output=nn.Linear(F, 7))
    assert Classifier(Identity(), 3, output=nn.Sequential(nn.Linear(F, 3)))(make_batch().inputs).shape == (3, 3)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(F, L)

    def forward(self, inputs):
        return self.layer(inputs.dense())


def test_a_module_of_ones_own_has_labels_where_it_names_no_domain():
    model, batch = Own(), make_batch()
    torch.testing.assert_close(EndToEnd()(model, batch), LOSSES["bce"](model(batch.inputs), TARGETS))
    with pytest.raises(ConfigError, match="Own has no steps"):
        EndToEnd(steps="all")(model, batch)
    model.domain = "box"
    with pytest.raises(ConfigError, match=r"Own\.domain: expected where y lives, Box\(\) for labels, got 'box'"):
        EndToEnd()(model, batch)


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss])
def test_a_loss_is_named(loss):
    with pytest.raises(ConfigError, match=r"loss: expected the name of one .bce, .*, got BCEWithLogitsLoss"):
        EndToEnd(loss)
