from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from energy_objects import energy_over
from objective_contract import EnergyObjectiveContract, F, Features, L, dense, make_batch, make_energy, tiny_data
from torch.nn import functional

from energynets.config import Experiment
from energynets.errors import ConfigError
from energynets.inference import AmortizedStart, MirrorDescent
from energynets.models import EnergyNetwork
from energynets.objectives import InferenceNetwork
from energynets.objectives.agreement import COSTS
from energynets.training import train
from energynets.training.load import load_run


def with_start(energy, steps: int = 0) -> EnergyNetwork:
    """An amortised start that is not the unary's any more."""
    start = AmortizedStart(F, L, hidden=(6,))
    with torch.no_grad():
        for weight in start.parameters():
            weight.normal_()
    return EnergyNetwork(Features(), energy, MirrorDescent(steps=steps), amortized=start).double()


class AmortizedContract(EnergyObjectiveContract):
    solver: ClassVar = {"kind": "mirror_descent", "steps": 0}
    extra: ClassVar = {"amortized": {"hidden": [16]}}
    differentiated = ("energy",)  # A reads features and unary, as constants

    def network(self, kind):
        return with_start(make_energy(kind))

    def untruncated(self, model, batch):
        """margin cost - E at A(x), and A(x), all of it differentiable."""
        objective = self.make()
        f = model.compute_features(batch.inputs).detach()
        context = model.energy.condition(f)
        z = model.amortized(f, context.unary.detach())
        cost = COSTS[objective.cost](torch.sigmoid(z), dense(batch))
        return objective.margin * cost - model.energy(z, context), z, context

    def test_the_start_climbs_what_the_energy_descends(self, model):
        batch, objective = make_batch(), self.make()
        weights = list(model.amortized.parameters())
        found = torch.autograd.grad(objective(model, batch), weights)
        violation, z, _ = self.untruncated(model, batch)
        local = functional.binary_cross_entropy_with_logits(z, dense(batch), reduction="none").sum(-1)
        expected = torch.autograd.grad((-violation + objective.local_weight * local).mean(), weights)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)

    def test_features_and_unary_are_the_energys_alone(self, model):
        """A reads both as constants: what they are given is the hinge's gradient at a constant answer."""
        batch, objective = make_batch(), self.make()
        weights = [model.features.scale, model.energy.unary.weight]
        found = torch.autograd.grad(objective(model, batch), weights)
        _, z, _ = self.untruncated(model, batch)
        context = model.energy.condition(model.compute_features(batch.inputs))
        cost = objective.margin * COSTS[objective.cost](torch.sigmoid(z), dense(batch))
        hinge = cost.detach() - model.energy(z.detach(), context) + model.energy.potential(dense(batch), context)
        expected = torch.autograd.grad(hinge.clamp(min=0).mean(), weights)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)

    def test_value_is_the_hinge_and_the_local_cross_entropy(self, model):
        batch, objective = make_batch(), self.make()
        violation, z, context = self.untruncated(model, batch)
        hinge = (violation + model.energy.potential(dense(batch), context)).clamp(min=0)
        local = functional.binary_cross_entropy_with_logits(z, dense(batch), reduction="none").sum(-1)
        torch.testing.assert_close(objective(model, batch), (hinge + objective.local_weight * local).mean())


class TestMarginRescaled(AmortizedContract):
    settings: ClassVar = {"kind": "inference_network", "local_weight": 0.5}

    def make(self):
        return InferenceNetwork(local_weight=0.5)


class TestF1Cost(AmortizedContract):
    settings: ClassVar = {"kind": "inference_network", "cost": "f1", "margin": 3.0}

    def make(self):
        return InferenceNetwork("f1", margin=3.0)


class TestPerceptron(AmortizedContract):
    settings: ClassVar = {"kind": "inference_network", "margin": 0.0}

    def make(self):
        return InferenceNetwork(margin=0.0)


def test_alone_on_a_trained_energy_it_learns_to_minimise_it():
    """Fine-tuning of inference: the answer of a network comes to the minimum that 300 steps find."""
    model, batch = energy_over("icnn", 0), make_batch()
    model = with_start(model.energy)
    model.features.requires_grad_(False)
    model.energy.requires_grad_(False)
    exact = EnergyNetwork(model.features, model.energy, MirrorDescent(300, step_size=0.5)).infer(batch.inputs)
    objective = InferenceNetwork(margin=5.0, local_weight=0.0)
    optimizer = torch.optim.Adam(model.amortized.parameters(), lr=0.03)
    before = model.infer(batch.inputs).energy
    for _ in range(600):
        optimizer.zero_grad()
        objective(model, batch).backward()
        optimizer.step()
    after = model.infer(batch.inputs)
    assert ((before - exact.energy) > 0.5).all()
    torch.testing.assert_close(after.energy, exact.energy, rtol=0, atol=1e-3)
    torch.testing.assert_close(after.y, exact.y, rtol=0, atol=0.03)


def test_a_stage_of_its_own_fine_tunes_the_start_and_nothing_else(tmp_path):
    features = {"kind": "bag_of_words", "hidden": [12]}
    model = {"kind": "energy_network", "features": features, "energy": {"kind": "spen"}, "amortized": {"hidden": [8]}}
    joint = {"name": "joint", "epochs": 2, "keep": "last"}
    start = {"name": "start", "trains": ["inference"], "epochs": 2, "keep": "last"}
    weights = []
    for stages in ([joint], [joint, start]):
        tree = {"name": "tiny", "device": "cpu", "data": {"planted": {}}, "model": model}
        tree |= {"objective": {"kind": "inference_network"}, "training": {"stages": stages}}
        folder = tmp_path / str(len(stages))
        train(Experiment.from_tree(tree), folder=folder, data=tiny_data())
        weights.append(load_run(folder, device="cpu").model.state_dict())
    changed = {name for name, weight in weights[0].items() if not torch.equal(weight, weights[1][name])}
    assert changed == {name for name in weights[0] if name.startswith("amortized.")}


def test_further_steps_refine_the_start():
    energy, batch = make_energy("icnn"), make_batch()
    energies = [with_start(energy, steps).infer(batch.inputs).energy for steps in (0, 1, 20)]
    assert (energies[1] < energies[0]).all()
    assert (energies[2] < energies[1]).all()


def test_what_it_needs_is_named():
    with pytest.raises(ConfigError, match="give EnergyNetwork an `amortized`"):
        InferenceNetwork()(energy_over("spen", 0), make_batch())
    with pytest.raises(ConfigError, match=r"margin and local_weight of 0 or more, got 1\.0 and -1"):
        InferenceNetwork(local_weight=-1)
    with pytest.raises(ConfigError, match=r"unknown objective\.cost 'hammng'"):
        InferenceNetwork("hammng")
