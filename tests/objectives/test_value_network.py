from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from energy_objects import energy_over
from objective_contract import EnergyObjectiveContract, dense, make_batch
from torch.nn import functional

from energynets.errors import ConfigError
from energynets.inference import GradientDescent, MirrorDescent
from energynets.objectives import ValueNetwork
from energynets.objectives.agreement import AGREEMENTS
from energynets.objectives.value_network import _random_step, adversarial, value_loss


class ValueContract(EnergyObjectiveContract):
    def all_known(self, model, batch):
        """All three tuples are of the true labels."""
        context, _ = model.condition(batch.inputs)
        potential, measure = model.energy.potential(dense(batch), context), AGREEMENTS[self.make().agreement]
        others = value_loss(potential, dense(batch), dense(batch), measure)
        return ((functional.softplus(potential) + 2 * others) / 3).mean()


class TestF1(ValueContract):
    settings: ClassVar = {"kind": "value_network"}
    solver: ClassVar = {"kind": "projected_gradient", "steps": 4, "step_size": 0.1}

    def make(self):
        return ValueNetwork()


class TestIoU(ValueContract):
    settings: ClassVar = {"kind": "value_network", "agreement": "iou"}
    solver: ClassVar = {"kind": "gradient_descent", "steps": 4, "step_size": 2.0}

    def make(self):
        return ValueNetwork("iou")


@pytest.mark.parametrize("agreement", AGREEMENTS)
@pytest.mark.parametrize("kind", ["spen", "icnn"])
def test_adversarial_labels_are_worse_than_where_they_start(kind, agreement):
    """Gradient ascent on the loss of the value: small steps without entropy raise the loss of every document."""
    model, batch, measure = energy_over(kind, 0), make_batch((0, 2, 3)), AGREEMENTS[agreement]
    context, _ = model.begin(batch.inputs)
    t = dense(batch)
    losses = []
    for steps in (0, 5, 40):
        y = adversarial(model.energy, GradientDescent(steps, step_size=0.2), context, t, measure)
        losses.append(value_loss(model.energy.potential(y, context), y, t, measure))
    assert (losses[1] > losses[0]).all()
    assert (losses[2] > losses[1]).all()


def test_adversarial_ascent_is_along_the_gradient_of_the_loss():
    """One step of mirror descent, without entropy: z_1 - z_0 = eta d loss / dy."""
    model, batch = energy_over("spen", 0), make_batch()
    context, _ = model.begin(batch.inputs)
    t = dense(batch)
    y = torch.sigmoid(context.unary).detach().requires_grad_()
    loss = value_loss(model.energy.potential(y, context), y, t, AGREEMENTS["f1"]).sum()
    (slope,) = torch.autograd.grad(loss, y)
    found = adversarial(model.energy, MirrorDescent(1, step_size=0.3), context, t, AGREEMENTS["f1"])
    torch.testing.assert_close(found, torch.sigmoid(context.unary + 0.3 * slope))


def test_the_value_of_the_truth_goes_up_and_that_of_others_to_their_f1():
    """On one document with many fixed labels, regression finds the F1 of each."""
    torch.manual_seed(0)
    model = energy_over("spen", 0)
    batch = make_batch((0,))
    y = torch.rand(6, 5, dtype=torch.float64)
    t = dense(batch).expand(6, 5)
    optimizer = torch.optim.Adam(model.energy.parameters(), lr=0.02)
    for _ in range(800):
        optimizer.zero_grad()
        context, _ = model.begin(batch.inputs)
        potential = model.energy.potential(y, model.energy.select(context, torch.zeros(6, dtype=torch.int64)))
        value_loss(potential, y, t, AGREEMENTS["f1"]).mean().backward()
        optimizer.step()
    torch.testing.assert_close(torch.sigmoid(-potential.detach()), AGREEMENTS["f1"](y, t), rtol=0, atol=0.05)


def test_the_loss_is_the_mean_of_three_cross_entropies(monkeypatch):
    from energynets.objectives import value_network

    model, batch = energy_over("icnn", 0), make_batch()
    context, _ = model.begin(batch.inputs)
    t, z = dense(batch), torch.randn(4, 5, dtype=torch.float64)
    worst = torch.rand(4, 5, dtype=torch.float64)
    monkeypatch.setattr(value_network, "_random_step", lambda *_: z)
    monkeypatch.setattr(value_network, "adversarial", lambda *_: worst)
    expected = torch.zeros(4, dtype=torch.float64)
    for y, value in ((t, torch.ones(4)), (z.sigmoid(), None), (worst, None)):
        goal = AGREEMENTS["f1"](y, t) if value is None else value.double()
        v = torch.sigmoid(-model.energy.potential(y, context))
        expected += functional.binary_cross_entropy(v, goal, reduction="none") / 3
    torch.testing.assert_close(ValueNetwork()(model, batch), expected.mean())


def test_every_step_of_inference_is_drawn_equally_often():
    torch.manual_seed(0)
    model, rows = energy_over("spen", 0), torch.zeros(6000, dtype=torch.int64)
    context, _ = model.begin(make_batch((0,)).inputs)
    context = model.energy.select(context, rows)
    solver = MirrorDescent(steps=3, step_size=0.5, initial="uniform")
    with torch.no_grad():
        steps = torch.stack([z[0] for z in solver.trajectory(model.energy, context)])
        drawn = _random_step(model.energy, solver, context)
    counts = (drawn[:, None] == steps).all(-1).sum(0)
    assert counts.sum() == 6000
    assert (counts - 1500).abs().max() < 150


def test_agreements_by_hand():
    y = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    t = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(AGREEMENTS["f1"](y, t), torch.tensor([3 / 3.5, 0, 0]))
    torch.testing.assert_close(AGREEMENTS["iou"](y, t), torch.tensor([1.5 / 2, 0, 0]))


def test_an_unknown_agreement_is_named():
    with pytest.raises(ConfigError, match=r"unknown objective\.agreement 'f' .did you mean 'f1'"):
        ValueNetwork("f")
