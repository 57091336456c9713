from __future__ import annotations

import itertools
import math
from typing import ClassVar

import pytest
import torch
from energy_objects import energy_over
from objective_contract import EnergyObjectiveContract, L, dense, make_batch
from torch import nn

from energynets.energies import Energy
from energynets.errors import ConfigError
from energynets.models import EnergyNetwork
from energynets.objectives import Contrastive
from energynets.objectives.contrastive import ranking_loss


class TestContrastive(EnergyObjectiveContract):
    settings: ClassVar = {"kind": "contrastive", "samples": 12, "temperature": 1.5}
    differentiated = ("energy",)  # the proposal, which is of features and unary, counts as constant
    trains = ("energy",)  # a better proposal is harder to tell from the data
    gain = -0.02

    def all_known(self, model, batch):
        return torch.tensor(self.make().samples + 1, dtype=torch.float64).log()  # all are the true labels

    def make(self):
        return Contrastive(samples=12, temperature=1.5)

    def test_gradient_of_the_unary_is_the_samples_weighted_mean_less_the_truth(self, model):
        """d/dphi of the loss: sum over k of p_k y_k - t."""
        batch = make_batch()
        seen = {}

        class Watched(Contrastive):
            def _draw(self, proposal):
                seen["y"], seen["phi"] = super()._draw(proposal), proposal
                return seen["y"]

        bias = model.energy.unary.bias
        (gradient,) = torch.autograd.grad(self.value(model, batch, Watched(samples=12, temperature=1.5)), bias)
        t = dense(batch)
        y = torch.cat([t[:, None], seen["y"]], 1)
        log_q = (y * seen["phi"] - nn.functional.softplus(seen["phi"])).sum(-1)
        context, _ = model.begin(batch.inputs)
        energies = torch.stack([model.energy.potential(y[:, k], context) for k in range(y.shape[1])], 1)
        p = torch.softmax(-energies - log_q, 1)
        torch.testing.assert_close(gradient, ((p[..., None] * y).sum(1) - t).mean(0))


@pytest.mark.parametrize("kind", ["spen", "icnn"])
def test_all_labels_once_and_a_uniform_proposal_give_the_exact_likelihood(kind):
    """-log p(t), p(y) = exp(-E(y)) / Z with Z the sum over all 2^L."""
    batch, model = make_batch(), energy_over(kind, 0)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=L)), dtype=torch.float64)
    t = dense(batch)
    others = torch.stack([every[(every != truth).any(-1)] for truth in t])
    y = torch.cat([t[:, None], others], 1)
    context, _ = model.begin(batch.inputs)
    energies = torch.stack([model.energy.potential(y[:, k], context) for k in range(2**L)], 1)
    expected = energies[:, 0] + torch.logsumexp(-energies, 1)
    uniform = torch.full(y.shape[:2], -L * math.log(2), dtype=torch.float64)
    torch.testing.assert_close(ranking_loss(model.energy, context, y, uniform), expected)


def test_many_samples_tend_to_the_likelihood_of_the_truth_over_its_chance():
    batch, model = make_batch((0, 1, 2, 3)), energy_over("spen", 1, head=10.0)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=L)), dtype=torch.float64)
    context, _ = model.begin(batch.inputs)
    energies = torch.stack([model.energy.potential(y.expand(4, L), context) for y in every], 1)
    t = dense(batch)
    log_q = (t * context.unary / 2 - nn.functional.softplus(context.unary / 2)).sum(-1)
    exact = (model.energy.potential(t, context) + torch.logsumexp(-energies, 1) + log_q).mean()
    torch.manual_seed(0)
    many = 40_000
    with torch.no_grad():
        found = Contrastive(samples=many, temperature=2.0)(model, batch) - math.log(many)
    torch.testing.assert_close(found, exact.detach(), rtol=0, atol=0.02)


def test_samples_follow_the_proposal():
    torch.manual_seed(0)
    phi = torch.tensor([[-2.0, 0.0, 1.0], [3.0, -1.0, 0.5]], dtype=torch.float64)
    drawn = Contrastive(samples=20_000)._draw(phi[:, None])
    assert drawn.shape == (2, 20_000, 3)
    torch.testing.assert_close(drawn.mean(1), torch.sigmoid(phi), rtol=0, atol=0.015)


def test_an_energy_without_a_unary_is_named():
    class Bare(Energy):
        def potential(self, y, context):
            return (y * context).sum(-1)

    model = EnergyNetwork(energy_over("spen", 0).features, Bare(5))
    with pytest.raises(ConfigError, match="Bare has no initial_logits"):
        Contrastive()(model, make_batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 0}, "samples: expected 1 or more"), ({"temperature": 0.0}, "temperature: expected a positive")],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Contrastive(**options)
