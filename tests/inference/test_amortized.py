from __future__ import annotations

import pytest
import torch

from energynets.data.batches import CachedFeatures
from energynets.energies import ICNN, SPEN, Energy
from energynets.errors import ConfigError
from energynets.features import BagOfWords
from energynets.inference import AmortizedStart, MirrorDescent, Shortlist, general_path
from energynets.models import EnergyNetwork

F, L, B = 6, 5, 3


def inputs() -> CachedFeatures:
    return CachedFeatures(torch.randn(B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def network(steps: int = 4, kind: str = "spen") -> EnergyNetwork:
    torch.manual_seed(0)
    energy = SPEN(F, L, num_measurements=3) if kind == "spen" else ICNN(F, L, hidden=(3, 2))
    start = AmortizedStart(F, L, hidden=(7,))
    with torch.no_grad():
        for weight in start.parameters():
            weight.normal_()
        energy.head.output *= 20
    solver = MirrorDescent(steps, step_size=0.5)
    return EnergyNetwork(BagOfWords(4, hidden=(F,)), energy, solver, amortized=start).double()


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_untrained_it_is_the_energys_own_start(hidden):
    start = AmortizedStart(F, L, hidden=hidden)
    unary = torch.randn(B, L)
    assert torch.equal(start(torch.randn(B, F), unary), unary)
    assert torch.equal(start(torch.randn(B, F), None), torch.zeros(B, L))
    assert sum(isinstance(layer, torch.nn.Linear) for layer in start.correction) == len(hidden) + 1


def test_every_way_to_predict_starts_there():
    model, x = network(), inputs()
    _, z = model.begin(x)
    context = model.energy.condition(x.values)
    expected = model.solver.solve(model.energy, context, z)
    assert not torch.allclose(expected, model.solver.solve(model.energy, context), atol=1e-3)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.infer(x).logits, expected.detach())
    torch.testing.assert_close(list(model.trajectory(x))[-1], expected)
    torch.testing.assert_close(model.with_losses(x, lambda step, logits: logits.sum())[0], expected)
    torch.testing.assert_close(network(steps=0)(x), z)
    top = model.top_k(x, 2)
    assert torch.equal(top.labels, expected.topk(2).indices)


@pytest.mark.parametrize("kind", ["spen", "icnn"])
def test_learning_end_to_end_reaches_it_as_on_the_general_path(kind):
    model, x = network(kind=kind), inputs()
    weights = list(model.amortized.parameters())
    fast = torch.autograd.grad(model(x).square().sum(), weights)
    with general_path():
        slow = torch.autograd.grad(model(x).square().sum(), weights)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert one.abs().max() > 1e-6


def test_an_energy_without_a_start_of_its_own_has_the_correction_alone():
    class Bare(Energy):
        def potential(self, y, context):
            return (y * context).sum(-1)

    model = EnergyNetwork(BagOfWords(4, hidden=(L,)), Bare(L), MirrorDescent(0), amortized=AmortizedStart(L, L))
    assert torch.equal(model(CachedFeatures(torch.randn(B, L))), torch.zeros(B, L))


def test_it_is_a_group_of_parameters_of_its_own():
    model = network()
    groups = model.parameter_groups()
    assert groups["inference"] == list(model.amortized.parameters())
    grouped = [id(weight) for group in groups.values() for weight in group]
    assert sorted(grouped) == sorted(id(weight) for weight in model.parameters())
    without = EnergyNetwork(model.features, model.energy)
    assert list(without.parameter_groups()) == ["features", "unary", "energy"]


@pytest.mark.parametrize("options", [{"label_chunk": 2}, {"shortlist": 3}, {"shortlist": Shortlist(3)}])
def test_labels_in_part_have_no_such_start(options):
    model = network()
    with pytest.raises(ConfigError, match="amortized: z_0 is of all labels at once"):
        EnergyNetwork(model.features, model.energy, amortized=model.amortized, **options)


def test_a_layer_without_units_is_named():
    with pytest.raises(ConfigError, match="hidden: expected layers of 1 unit or more"):
        AmortizedStart(F, L, hidden=(4, 0))
