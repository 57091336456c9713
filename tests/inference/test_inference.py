from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from energynets.energies import ICNN, SPEN, Energy
from energynets.errors import ConfigError, ShapeError
from energynets.inference import GradientDescent, MirrorDescent, NoGradient, ProjectedGradient, Unroll, infer

F, L = 4, 5
SOLVERS = {
    "mirror": lambda **options: MirrorDescent(**({"steps": 4, "step_size": 0.7} | options)),
    "gradient": lambda **options: GradientDescent(**({"steps": 4, "step_size": 2.0} | options)),
    "projected": lambda **options: ProjectedGradient(**({"steps": 4} | options)),
}
ENERGIES = {
    "spen": lambda: SPEN(F, L, num_measurements=3, condition_measurements=True, learn_tau=True),
    "icnn": lambda: ICNN(F, L, hidden=(3, 2), gate=True),
}


class Counting(Energy):
    """A modular energy on the general path that counts its calls."""

    def __init__(self) -> None:
        super().__init__(L)
        self.layer = nn.Linear(F, L)
        self.conditions = self.gradients = 0

    def condition(self, features):
        self.conditions += 1
        return self.layer(features)

    def potential(self, y, context):
        return -(y * context).sum(-1)

    def gradient(self, y, context):
        self.gradients += 1
        return super().gradient(y, context)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.4, "learn_step_sizes": True}], ids=["plain", "momentum"])
def test_unrolled_gradients_pass_gradcheck_for_everything(energy, solver, options):
    energy, solver = ENERGIES[energy]().double(), SOLVERS[solver](**options).double()
    module = nn.ModuleDict({"energy": energy, "solver": solver})
    names = [name for name, _ in module.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in module.parameters()]

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy, self.solver = energy, solver

        def forward(self, features, initial):
            return infer(energy, energy.condition(features), solver=solver, initial=initial, gradient=Unroll()).logits

    def loop(features, initial, *values):
        return torch.func.functional_call(Loop(), dict(zip(names, values, strict=True)), (features, initial))

    features = torch.randn(2, F, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(2, L, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loop, (features, initial, *values), atol=1e-6)


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_closed_form_path_equals_the_general_path(energy, solver, monkeypatch):
    energy = ENERGIES[energy]().double()
    solver = SOLVERS[solver](momentum=0.3, learn_step_sizes=True).double()
    features = torch.randn(3, F, dtype=torch.float64)

    def run():
        energy.zero_grad()
        solver.zero_grad()
        logits = infer(energy, energy.condition(features), solver=solver).logits
        logits.square().sum().backward()
        parameters = [*energy.parameters(), *solver.parameters()]
        return logits.detach(), [p.grad.clone() for p in parameters if p.grad is not None]

    fast, fast_gradients = run()
    monkeypatch.setattr(type(energy), "gradient", Energy.gradient)
    slow, slow_gradients = run()
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    assert len(fast_gradients) == len(slow_gradients)
    for a, b in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_zero_energy_is_the_sigmoid_classifier():
    """h = 0 and tau = 1: the minimiser is sigmoid(phi)."""
    energy = SPEN(F, L).double()
    nn.init.zeros_(energy.head.output)
    features = torch.randn(3, F).double()
    result = infer(energy, energy.condition(features), solver=MirrorDescent(steps=60, step_size=0.5, initial="uniform"))
    torch.testing.assert_close(result.logits, energy.unary(features))
    assert result.converged.all()


def test_mean_field_update_is_one_step_of_size_one():
    energy = SPEN(F, L, num_measurements=3)
    context = energy.condition(torch.randn(2, F))
    slope = energy.slope(energy.measurements(torch.sigmoid(context.unary), context), context)
    expected = context.unary - slope @ energy.measure
    torch.testing.assert_close(infer(energy, context, solver=MirrorDescent(steps=1)).logits, expected)


def modular_spen() -> SPEN:
    """A measured energy with h = 0."""
    energy = SPEN(F, L, num_measurements=3)
    nn.init.zeros_(energy.head.output)
    return energy


@pytest.mark.parametrize("make", [Counting, modular_spen], ids=["general path", "engine"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}], ids=["plain", "momentum"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rounding_a_modular_energys_minimum_is_exact(solver, options, make):
    """Enumeration of all 2^L labellings finds what rounding the relaxed minimiser finds."""
    energy = make().double()
    context = energy.condition(torch.randn(6, F).double())
    start = 0.1 * torch.randn(6, L).double()  # says nothing of the answer
    relaxed = infer(energy, context, solver=SOLVERS[solver](steps=60, **options), initial=start).y
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=L)), dtype=torch.float64)
    energies = torch.stack([energy.potential(corner.expand(6, L), context) for corner in corners])
    assert torch.equal(corners[energies.argmin(0)], (relaxed > 0.5).double())


@pytest.mark.parametrize("solver", ["mirror", "gradient"])
def test_convex_energy_has_one_minimum_from_any_start(solver):
    energy = ICNN(F, L, hidden=(3, 4)).double()
    context = energy.condition(torch.randn(1, F).double().expand(8, F))
    size = {"mirror": 0.5, "gradient": 1.0}[solver]
    solver = SOLVERS[solver](steps=2_000, step_size=size)
    result = infer(energy, context, solver=solver, gradient=NoGradient(), initial=3 * torch.randn(8, L).double())
    torch.testing.assert_close(result.y, result.y[:1].expand_as(result.y), atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_energy_goes_down_and_the_trace_shows_it(solver):
    energy = ICNN(F, L, hidden=(3, 4)).double()
    nn.init.normal_(energy.measure, std=1.0)
    context = energy.condition(torch.randn(5, F).double())
    size = {"mirror": 0.3, "gradient": 1.0, "projected": 0.005}[solver]
    options = {"steps": 12, "step_size": size}
    result = infer(energy, context, solver=SOLVERS[solver](**options), trace=True)
    torch.testing.assert_close(result.gradient_norm, result.trace.gradient_norms[-1])
    assert result.trace.energies.shape == result.trace.gradient_norms.shape == (13, 5)
    assert (result.trace.energies.diff(dim=0) <= 1e-9).all()
    torch.testing.assert_close(result.trace.energies[-1], energy(result.logits, context))


def test_call_counts_features_once_and_a_gradient_a_step():
    energy = Counting()
    context = energy.condition(torch.randn(3, F))
    MirrorDescent(steps=7).solve(energy, context)
    assert (energy.conditions, energy.gradients) == (1, 7)
    infer(energy, context, solver=MirrorDescent(steps=7))
    assert energy.gradients == 7 + 8  # one more says how far from the minimum it ended


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [Counting, *ENERGIES.values()])
def test_prediction_works_without_gradients(guard, make):
    energy = make()
    features = torch.randn(3, F)
    expected = infer(energy, energy.condition(features)).y.detach()
    with guard():
        result = infer(energy, energy.condition(features), gradient=NoGradient())
    torch.testing.assert_close(result.y, expected)
    assert not result.y.requires_grad


def test_no_gradient_keeps_no_graph_and_unroll_does():
    energy = SPEN(F, L)
    context = energy.condition(torch.randn(3, F))
    assert infer(energy, context, gradient=Unroll()).logits.requires_grad
    assert not infer(energy, context, gradient=NoGradient()).logits.requires_grad


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_gradient_keeps_no_graph_of_the_start_either(solver):
    """Without a step the answer is z_0, which has a graph of its own."""
    energy, solver = SPEN(F, L), SOLVERS[solver](steps=0)
    context = energy.condition(torch.randn(3, F))
    for initial in (None, torch.zeros(3, L, requires_grad=True)):
        result = infer(energy, context, solver=solver, gradient=NoGradient(), initial=initial)
        assert not result.logits.requires_grad
        assert not result.y.requires_grad
        last, _ = solver.solve_with_losses(energy, context, lambda _, z: z.sum(), initial, gradient=NoGradient())
        assert not last.requires_grad
        assert infer(energy, context, solver=solver, initial=initial).logits.requires_grad


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("labels", [1, 3])
def test_edge_sizes(batch, steps, labels):
    energy = SPEN(F, labels, num_measurements=6)
    result = infer(energy, energy.condition(torch.randn(batch, F)), solver=MirrorDescent(steps=steps), trace=True)
    assert result.logits.shape == (batch, labels)
    assert result.finite.all()
    assert result.steps.tolist() == [steps] * batch


def test_zero_steps_return_the_start():
    energy = SPEN(F, L)
    context = energy.condition(torch.randn(3, F))
    assert torch.equal(infer(energy, context, solver=MirrorDescent(steps=0)).logits, context.unary)


def test_non_finite_examples_are_told_apart():
    energy = SPEN(F, L)
    features = torch.randn(3, F)
    features[1] = math.inf
    assert infer(energy, energy.condition(features)).finite.tolist() == [True, False, True]


def test_learned_step_sizes_start_at_the_given_schedule_and_stay_positive():
    solver = MirrorDescent(steps=3, step_size=[1.0, 0.5, 0.25], learn_step_sizes=True)
    assert [size.item() for size in solver.step_sizes()] == pytest.approx([1.0, 0.5, 0.25])
    with torch.no_grad():
        solver.log_step_sizes -= 40
    assert all(size > 0 for size in solver.step_sizes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3, "step_size": [1.0]}, "3 step sizes"),
        ({"step_size": -1.0}, "positive"),
        ({"step_size": math.nan}, "finite"),
        ({"steps": 2, "step_size": [1.0, math.inf]}, "finite"),
        ({"momentum": 1.0}, r"\[0, 1\)"),
        ({"initial": "zero"}, "uniform"),
    ],
)
def test_bad_solver_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MirrorDescent(**options)


def test_wrong_start_is_named():
    energy = SPEN(F, L)
    with pytest.raises(ShapeError, match=rf"expected \(B, {L}\), got \(3, 2\)"):
        infer(energy, energy.condition(torch.randn(3, F)), initial=torch.zeros(3, 2))


@pytest.mark.parametrize("solver", [MirrorDescent(3), GradientDescent(3), ProjectedGradient(3), MirrorDescent(0)])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_start_of_other_documents_is_named(solver, rows):
    energy = SPEN(F, L)
    context = energy.condition(torch.randn(3, F))
    with pytest.raises(ShapeError, match=f"context's 3 documents, got {rows}"):
        solver.solve(energy, context, torch.zeros(rows, L))
    with pytest.raises(ShapeError, match=f"context's 3 documents, got {rows}"):
        infer(energy, context, solver=solver, initial=torch.zeros(rows, L))


class Tokens(Energy):
    """A context of indices."""

    def __init__(self) -> None:
        super().__init__(L)
        self.table = nn.Embedding(10, L)

    def condition(self, features):
        return {"tokens": features}

    def potential(self, y, context):
        return -(y * self.table(context["tokens"])).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_context_of_indices_starts_at_floating_zeros(dtype):
    energy = Tokens().to(dtype)
    tokens = torch.tensor([1, 7, 3])
    result = infer(energy, energy.condition(tokens), solver=MirrorDescent(1))
    torch.testing.assert_close(result.logits, energy.table(tokens))
    assert infer(energy, energy.condition(tokens), solver=MirrorDescent(0)).logits.dtype == dtype
