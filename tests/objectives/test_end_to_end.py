"""The contract of `EndToEnd`, its convergence penalty and its expected F1."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_contract import Features, ObjectiveContract, make_batch, make_energy
from scipy.stats import binom

from energynets.errors import ConfigError
from energynets.inference import MirrorDescent, Truncated
from energynets.models import EnergyNetwork
from energynets.objectives import LOSSES, EndToEnd
from energynets.objectives.expected_f1 import expected_f1


class EndToEndContract(ObjectiveContract):
    def test_gradient_is_that_of_finite_differences(self, model):
        """Through inference: nothing is constant."""
        batch, weights = make_batch(), list(model.parameters())
        gradients = torch.autograd.grad(self.value(model, batch), weights)
        directions = [torch.randn(weight.shape, dtype=torch.float64) for weight in weights]
        expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        values = []
        for step in (1e-6, -2e-6):
            for weight, direction in zip(weights, directions, strict=True):
                weight.data += step * direction
            values.append(self.value(model, batch).detach())
        torch.testing.assert_close((values[0] - values[1]) / 2e-6, expected, rtol=1e-5, atol=1e-7)


class TestLast(EndToEndContract):
    settings: ClassVar = {"loss": "bce"}

    def make(self):
        return EndToEnd()


class TestSampleF1(EndToEndContract):
    settings: ClassVar = {"loss": "sample_f1"}

    def make(self):
        return EndToEnd("sample_f1")


class TestPenalty(EndToEndContract):
    settings: ClassVar = {"loss": "bce", "convergence_penalty": 2.0}

    def make(self):
        return EndToEnd("bce", convergence_penalty=2.0)


class TestPenaltyOnAllSteps(EndToEndContract):
    settings: ClassVar = {"loss": "bce", "steps": "all", "convergence_penalty": 2.0}

    def make(self):
        return EndToEnd("bce", steps="all", convergence_penalty=2.0)


# ------------------------------------------------------------------------------------------------- the penalty


@pytest.mark.parametrize("steps", ["last", "all"])
def test_penalty_is_what_one_more_mean_field_step_would_change(steps):
    model = EnergyNetwork(Features(), make_energy("spen"), MirrorDescent(steps=3, step_size=0.5)).double()
    batch = make_batch()
    context, _ = model.begin(batch.inputs)
    z = MirrorDescent(steps=3, step_size=0.5).solve(model.energy, context)
    further = MirrorDescent(steps=1).solve(model.energy, context, z)
    expected = (torch.sigmoid(further) - torch.sigmoid(z)).square().sum(-1).mean()
    plain = EndToEnd(steps=steps)(model, batch)
    assert expected > 1e-5
    penalised = EndToEnd(steps=steps, convergence_penalty=3.0)(model, batch)
    torch.testing.assert_close(penalised, plain + 3 * expected, rtol=1e-10, atol=0)


def test_penalty_vanishes_at_the_minimum_and_training_on_it_converges():
    batch = make_batch()
    long = EnergyNetwork(Features(), make_energy("icnn"), MirrorDescent(steps=400, step_size=0.5)).double()
    torch.testing.assert_close(EndToEnd(convergence_penalty=1e3)(long, batch), EndToEnd()(long, batch))
    short = EnergyNetwork(Features(), make_energy("spen"), MirrorDescent(steps=1, learn_step_sizes=True)).double()

    @torch.no_grad()
    def residual() -> float:
        return float(EndToEnd(convergence_penalty=1.0)(short, batch) - EndToEnd()(short, batch))

    before = residual()
    assert before > 1e-4
    optimizer = torch.optim.Adam(short.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        EndToEnd(convergence_penalty=100.0)(short, batch).backward()
        optimizer.step()
    assert residual() < before / 5


def test_penalty_keeps_one_dropout_mask_for_loss_and_residual():
    """With the minimum reached under a mask, the residual is 0 under that mask alone."""
    model = EnergyNetwork(Features(), make_energy("icnn"), MirrorDescent(steps=400, step_size=0.3)).double()
    model.energy.dropout = 0.5
    model.train()
    values = []
    for penalty in (0.0, 1e4):
        torch.manual_seed(0)
        values.append(EndToEnd(convergence_penalty=penalty)(model, make_batch()))
    torch.testing.assert_close(values[1], values[0])


def test_penalty_is_of_energy_networks_over_all_labels():
    energy, batch = make_energy("spen"), make_batch()
    classifier = EnergyNetwork(Features(), energy).double().as_classifier()
    assert torch.equal(EndToEnd(convergence_penalty=5.0)(classifier, batch), EndToEnd()(classifier, batch))
    chunked = EnergyNetwork(Features(), energy, label_chunk=2).double()
    with pytest.raises(ConfigError, match="convergence_penalty: is of all labels at once"):
        EndToEnd(convergence_penalty=1.0)(chunked, batch)
    with pytest.raises(ConfigError, match="convergence_penalty: expected 0 or more, got -1"):
        EndToEnd(convergence_penalty=-1)
    truncated = EnergyNetwork(Features(), energy, MirrorDescent(3), Truncated(1)).double()
    assert EndToEnd(convergence_penalty=1.0)(truncated, batch) > EndToEnd()(truncated, batch)


# --------------------------------------------------------------------------------------------- the expected F1


def enumerated(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Over all 2^L sets of labels."""
    total = torch.zeros(len(z), dtype=z.dtype)
    for drawn in itertools.product((0.0, 1.0), repeat=z.shape[1]):
        s = torch.tensor(drawn, dtype=z.dtype)
        p = torch.where(s > 0, torch.sigmoid(z), torch.sigmoid(-z)).prod(-1)
        total += p * 2 * (s * t).sum(-1) / (s.sum() + t.sum(-1)).clamp(min=1)
    return total


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(-40, 40), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
        )
    )
)
def test_expected_f1_is_that_of_enumeration(case):
    z, t = (torch.tensor([part], dtype=torch.float64) for part in case)
    torch.testing.assert_close(expected_f1(z, t), enumerated(z, t), rtol=1e-12, atol=1e-13)


def test_expected_f1_of_many_labels_is_that_of_the_dynamic_programme():
    """300 labels, 40 of them likely: far beyond the degree that the quadrature is exact for."""
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.uniform(0.3, 1, 60), rng.uniform(0, 0.05, 240)])
    t = np.zeros(300)
    t[rng.choice(80, 35, replace=False)] = 1

    def counts(probabilities):
        distribution = np.ones(1)
        for q in probabilities:
            distribution = np.convolve(distribution, [1 - q, q])
        return distribution

    true, false = counts(p[t == 1]), counts(p[t == 0])
    i, j = np.meshgrid(np.arange(len(true)), np.arange(len(false)), indexing="ij")
    expected = (true[:, None] * false * 2 * i / (i + j + t.sum())).sum()
    found = expected_f1(torch.tensor(np.log(p / (1 - p)))[None], torch.tensor(t)[None])
    np.testing.assert_allclose(found.item(), expected, rtol=1e-12)


@pytest.mark.parametrize("logit", [0.0, -3.0, -8.0])
@pytest.mark.parametrize("labels", [983, 30_000])
def test_expected_f1_of_equally_likely_labels_is_that_of_two_binomials(labels: int, logit: float) -> None:
    """Thousands of labels undecided, as where training starts; with its gradient, of all logits together."""
    true = 5
    s, other = np.arange(true + 1)[:, None], np.arange(labels - true + 1)

    def expected(z: float) -> float:
        p = 1 / (1 + np.exp(-z))
        chance = binom.pmf(s, true, p) * binom.pmf(other, labels - true, p)
        return float((chance * 2 * s / (s + other + true)).sum())

    z = torch.full((1, labels), logit, dtype=torch.float64, requires_grad=True)
    t = (torch.arange(labels) < true).double()[None]
    found = expected_f1(z, t).sum()
    (gradient,) = torch.autograd.grad(found, z)
    np.testing.assert_allclose(found.item(), expected(logit), rtol=1e-10)
    slope = (expected(logit + 1e-4) - expected(logit - 1e-4)) / 2e-4
    np.testing.assert_allclose(gradient.sum().item(), slope, rtol=1e-5, atol=1e-11)


def test_decided_labels_have_their_own_f1_and_undecided_ones_not_that_of_their_mean():
    t = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    decided = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]], dtype=torch.float64) * 1e3
    torch.testing.assert_close(LOSSES["sample_f1"](decided, t), LOSSES["soft_f1"](decided, t))
    torch.testing.assert_close(expected_f1(decided, t), torch.tensor([0.5, 0.0], dtype=torch.float64))
    undecided = torch.zeros(1, 3, dtype=torch.float64)
    assert abs(LOSSES["sample_f1"](undecided, t[:1]) - LOSSES["soft_f1"](undecided, t[:1])) > 0.02


def test_expected_f1_and_its_gradient_are_finite_however_large_the_logits():
    z = torch.tensor([[1e4, -1e4, 3.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    loss = LOSSES["sample_f1"](z, torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
