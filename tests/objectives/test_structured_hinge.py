from __future__ import annotations

import itertools
from typing import ClassVar

import pytest
import torch
from energy_objects import energy_over
from objective_contract import EnergyObjectiveContract, dense, make_batch, make_energy
from torch.nn import functional

from energynets.errors import ConfigError
from energynets.inference import Anderson, BundleEntropy, GradientDescent, MirrorDescent, NoGradient, path
from energynets.objectives import StructuredHinge
from energynets.objectives.agreement import COSTS, f1_cost, hamming_cost
from energynets.objectives.augmented import AugmentedContext, AugmentedEnergy, loss_augmented


class TestHamming(EnergyObjectiveContract):
    settings: ClassVar = {"kind": "structured_hinge"}

    def make(self):
        return StructuredHinge()

    def test_without_h_it_is_the_softmax_margin_loss(self, model):
        with torch.no_grad():
            model.energy.head.output.zero_()
        batch = make_batch()
        t, phi = dense(batch), model.as_classifier()(batch.inputs)
        expected = functional.softplus(phi + 1 - 2 * t).sum(-1) + t.sum(-1) - (phi * t).sum(-1)
        torch.testing.assert_close(self.make()(model, batch), expected.mean())

    def test_other_solvers_agree_where_the_energy_is_convex(self):
        model, values = self.network("icnn"), []
        for solver in (
            MirrorDescent(300, step_size=0.3),
            Anderson(60, tolerance=0),
            BundleEntropy(60, tolerance=1e-12),
        ):
            model.solver = solver
            values.append(self.make()(model, make_batch()))
        torch.testing.assert_close(values[1], values[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(values[2], values[0], rtol=1e-8, atol=1e-8)


class TestF1(EnergyObjectiveContract):
    settings: ClassVar = {"kind": "structured_hinge", "cost": "f1", "margin": 4.0}

    def make(self):
        return StructuredHinge("f1", margin=4.0)


class TestPerceptron(EnergyObjectiveContract):
    settings: ClassVar = {"kind": "structured_hinge", "margin": 0.0}

    def make(self):
        return StructuredHinge(margin=0)

    def test_is_how_far_the_true_labels_are_above_the_minimum(self, model):
        batch = make_batch()
        found = model.infer(batch.inputs)
        context, _ = model.begin(batch.inputs)
        above = model.energy.potential(dense(batch), context) - found.energy
        torch.testing.assert_close(self.make()(model, batch), above.clamp(min=0).mean())


# ------------------------------------------------------------------------------------------------- enumeration


def vertices(labels: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=labels)), dtype=torch.float64)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("seed", range(4))
def test_with_exact_inference_it_bounds_the_cost_from_above(cost, seed):
    """Of the labels of lowest energy, and of the best violation of all 2^L."""
    batch, model = make_batch(), energy_over("icnn", seed)
    model.solver = MirrorDescent(steps=400, step_size=0.3)
    every = vertices(5)
    context, _ = model.begin(batch.inputs)
    for row, t in enumerate(dense(batch)):
        one = model.energy.select(context, torch.full((len(every),), row))
        energies = model.energy.potential(every, one)
        costs = COSTS[cost](every, t.expand_as(every))
        own = model.energy.potential(t[None], model.energy.select(context, torch.tensor([row])))
        value = StructuredHinge(cost)(model, make_batch((row,)))
        assert value >= (costs - energies).max() + own - 1e-9
        assert value >= costs[energies.argmin()] - 1e-9


@pytest.mark.parametrize("cost", COSTS)
def test_loss_augmented_inference_finds_the_enumerations_argmax(cost):
    """A strongly convex energy whose entropy is faint: its minimum is next to the best of all 2^L."""
    found = 0
    for seed in range(6):
        model = energy_over("icnn", seed, tau=0.02, scale=4.0, head=0.1)
        batch = make_batch()
        context, _ = model.begin(batch.inputs)
        t = dense(batch)
        augmented = loss_augmented(model.energy, context, t, COSTS[cost])
        z = GradientDescent(steps=600, step_size=2.0, initial="uniform").solve(*augmented, gradient=NoGradient())
        every = vertices(5)
        for row in range(len(t)):
            one = model.energy.select(context, torch.full((len(every),), row))
            scores = COSTS[cost](every, t[row].expand_as(every)) - model.energy.potential(every, one)
            best, second = scores.topk(2).values
            if best - second > 0.5:  # else the entropy decides, or F1, which is not linear
                assert torch.equal(torch.sigmoid(z[row]).round(), every[scores.argmax()])
                found += 1
    assert found >= 12


# ---------------------------------------------------------------------------------------------------- its parts


@pytest.mark.parametrize("kind", ["spen", "icnn"])
def test_hamming_stays_on_the_engines_path_and_equals_the_general_one(kind):
    energy, t = make_energy(kind), dense(make_batch())
    context = energy.condition(torch.randn(4, 4, dtype=torch.float64))
    same, folded = loss_augmented(energy, context, t, hamming_cost, 0.7)
    assert same is energy
    assert path(same, MirrorDescent()).fast
    general = AugmentedEnergy(energy, lambda potential, y, t: potential - 0.7 * hamming_cost(y, t))
    start = context.unary
    one = MirrorDescent(7).solve(same, folded, start)
    other = MirrorDescent(7).solve(general, AugmentedContext(context, t), start)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert isinstance(loss_augmented(energy, context, t, f1_cost)[0], AugmentedEnergy)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", ["spen", "icnn"])
def test_augmented_slope_is_the_energys_less_the_costs(cost, kind):
    energy, t = make_energy(kind), dense(make_batch())
    context = energy.condition(torch.randn(4, 4, dtype=torch.float64))
    y = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((energy.potential(y, context) - 3 * COSTS[cost](y, t)).sum(), y)
    augmented, its_context = loss_augmented(energy, context, t, COSTS[cost], 3.0)
    torch.testing.assert_close(augmented.gradient(y.detach(), its_context), slope)


def test_costs_are_what_they_count_where_labels_are_decided():
    y, t = vertices(4).repeat(16, 1), vertices(4).repeat_interleave(16, 0)
    assert torch.equal(COSTS["hamming"](y, t), (y != t).double().sum(-1))
    both = y.sum(-1) + t.sum(-1)
    expected = torch.where(both > 0, 1 - 2 * (y * t).sum(-1) / both.clamp(min=1), 1.0)
    torch.testing.assert_close(COSTS["f1"](y, t), expected)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"unknown objective\.cost 'haming' .did you mean 'hamming'"):
        StructuredHinge("haming")
    with pytest.raises(ConfigError, match="margin: expected 0 or more, got -1"):
        StructuredHinge(margin=-1)
