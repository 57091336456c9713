"""The implicit gradient: exact at the fixed point, in K or L dimensions, and honest where there is none."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from energynets.energies import ICNN, SPEN, Energy, Euclidean, MeasuredEnergy, Simplex
from energynets.errors import ConfigError, InferenceError, NotConvergedWarning
from energynets.features import BagOfWords
from energynets.inference import (
    Anderson,
    BundleEntropy,
    GradientDescent,
    Implicit,
    MirrorDescent,
    NoGradient,
    Observed,
    Unroll,
    general_path,
    infer,
)
from energynets.inference.krylov import conjugate_residuals
from energynets.models import EnergyNetwork

F, L, B = 4, 6, 3
EXACT = Implicit(tolerance=1e-9, max_iterations=60)


class Chain(Energy):
    """A user's energy: neighbours on a chain attract."""

    def __init__(self) -> None:
        super().__init__(L, tau=0.8, learn_tau=True)
        self.unary = nn.Linear(F, L)
        self.coupling = nn.Parameter(torch.tensor(0.9))

    def condition(self, features):
        return self.unary(features)

    def initial_logits(self, context):
        return context

    def potential(self, y, context):
        return -(y * context).sum(-1) - self.coupling * (y[:, 1:] * y[:, :-1]).square().sum(-1)


class SeesX(nn.Module):
    """A head without a closed form, which reads the features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4) * 0.3)
        self.gain = nn.Linear(F, 4)

    def forward(self, m, features):
        return (torch.tanh(m) * self.weight * self.gain(features)).sum(-1)


def _strong(energy: MeasuredEnergy, scale: float = 4.0) -> MeasuredEnergy:
    """So that h is felt: J and H far from 0."""
    with torch.no_grad():
        if hasattr(energy.head, "output"):
            energy.head.output.mul_(scale)
        if energy.condition_weight is not None:
            energy.condition_weight.normal_(std=0.3)
    return energy


ENERGIES = {
    "spen": lambda: _strong(SPEN(F, L, num_measurements=4, condition_measurements=True, learn_tau=True, tau=0.7)),
    "deep spen": lambda: _strong(SPEN(F, L, num_measurements=4, hidden=(3,))),
    "wide spen": lambda: _strong(SPEN(F, L, num_measurements=9)),
    "icnn": lambda: _strong(ICNN(F, L, hidden=(3, 4), learn_tau=True)),
    "gated icnn": lambda: _strong(ICNN(F, L, hidden=(3, 2, 2), gate=True, condition_measurements=True)),
    "own head": lambda: MeasuredEnergy(F, L, 4, SeesX()),
    "simplex": lambda: _strong(SPEN(F, L, num_measurements=4, domain=Simplex(3))),
    "euclidean": lambda: _strong(ICNN(F, L, hidden=(2, 2), tau=2.0, domain=Euclidean())),
    "chain": Chain,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _solver(energy: Energy, steps: int = 300) -> MirrorDescent:
    return MirrorDescent(steps=steps, step_size=0.5).double()


def _known(energy: Energy) -> Observed:
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[:, :3] = torch.tensor([[True], [False], [True]])
    values = torch.zeros(B, L, dtype=torch.float64)
    values[:, 1] = 1.0
    return Observed(values, mask)


def _gradients(energy: Energy, features: torch.Tensor, mode: Implicit | Unroll, observed: Observed | None):
    energy.zero_grad()
    leaf = features.clone().requires_grad_()
    result = infer(energy, energy.condition(leaf), solver=_solver(energy), gradient=mode, observed=observed)
    weights = torch.linspace(-1, 2, B * L, dtype=torch.float64).reshape(B, L)
    (weights * result.logits + result.y.square()).sum().backward()
    found = {name: p.grad.clone() for name, p in energy.named_parameters() if p.grad is not None}
    return found | {"features": leaf.grad}


@pytest.mark.parametrize("known", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("name", ENERGIES)
def test_implicit_is_the_unrolled_gradient_at_convergence(name, known):
    energy = ENERGIES[name]().double()
    observed = _known(energy) if known else None
    features = torch.randn(B, F, dtype=torch.float64)
    unrolled = _gradients(energy, features, Unroll(), observed)
    implicit = _gradients(energy, features, EXACT, observed)
    assert implicit.keys() == unrolled.keys() == {"features", *dict(energy.named_parameters())}
    for key, expected in unrolled.items():
        torch.testing.assert_close(implicit[key], expected, rtol=1e-7, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", ENERGIES)
def test_gradcheck_at_convergence(name):
    energy = ENERGIES[name]().double()
    names = [name for name, _ in energy.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in energy.parameters()]

    class Minimum(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, features):
            context = self.energy.condition(features)
            return infer(self.energy, context, solver=_solver(energy), gradient=EXACT).logits

    def minimum(features, *values):
        given = dict(zip((f"energy.{name}" for name in names), values, strict=True))
        return torch.func.functional_call(Minimum(), given, (features,))

    features = torch.randn(2, F, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(minimum, (features, *values), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", ["spen", "gated icnn"])
def test_measurements_and_labels_give_the_same_adjoint(name, monkeypatch):
    energy = ENERGIES[name]().double()
    features = torch.randn(B, F, dtype=torch.float64)
    small = _gradients(energy, features, EXACT, None)
    monkeypatch.setattr(energy, "potential", energy.potential, raising=False)  # its own: no longer closed form
    large = _gradients(energy, features, EXACT, None)
    for key, expected in large.items():
        torch.testing.assert_close(small[key], expected, rtol=1e-9, atol=1e-11)


def test_adjoint_of_a_measured_energy_solves_for_k_numbers(monkeypatch):
    energy = ENERGIES["icnn"]().double()
    shapes = []

    def watched(curvature, mass, tau, b, *rest):
        shapes.append(b.shape)
        return conjugate_residuals(curvature, mass, tau, b, *rest)

    monkeypatch.setattr("energynets.inference.implicit.conjugate_residuals", watched)
    _gradients(energy, torch.randn(B, F, dtype=torch.float64), EXACT, None)
    assert shapes == [(B, 7)]


def test_functional_parameters_are_those_of_the_forward_pass():
    """The adjoint is solved with the weights that inference saw, wherever the module's own are by then."""
    energy = ENERGIES["icnn"]().double()
    features = torch.randn(B, F, dtype=torch.float64)
    expected = _gradients(energy, features, EXACT, None)["features"]
    own = {name: p.detach().clone() for name, p in energy.named_parameters()}

    class Minimum(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, features):
            result = infer(energy, energy.condition(features), solver=_solver(energy), gradient=EXACT)
            return result.logits, result.y

    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.mul_(0.1)
    leaf = features.clone().requires_grad_()
    logits, y = torch.func.functional_call(Minimum(), {f"energy.{name}": p for name, p in own.items()}, (leaf,))
    weights = torch.linspace(-1, 2, B * L, dtype=torch.float64).reshape(B, L)
    (weights * logits + y.square()).sum().backward()
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("name", ["icnn", "chain"])
def test_fixed_point_that_has_not_converged_is_named(name):
    energy = ENERGIES[name]().double()
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    with pytest.warns(NotConvergedWarning, match=r"fixed point .* up to \d.* in 3 of 3 documents; more solver.steps"):
        infer(energy, context, solver=MirrorDescent(steps=1, step_size=0.2), gradient=Implicit())


def test_adjoint_that_has_not_converged_is_named():
    energy = ENERGIES["deep spen"]().double()
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    logits = infer(energy, context, solver=_solver(energy), gradient=Implicit(1e-9, max_iterations=1)).logits
    with pytest.warns(NotConvergedWarning, match=r"adjoint system .* in 1 iterations.* in 3 of 3 documents; more max_"):
        logits.square().sum().backward()


def test_non_finite_documents_count_as_not_converged():
    energy = ENERGIES["icnn"]().double()
    features = torch.randn(B, F, dtype=torch.float64)
    features[1] = torch.inf
    with pytest.warns(NotConvergedWarning, match="in 1 of 3 documents"):
        infer(energy, energy.condition(features), solver=_solver(energy), gradient=Implicit())


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("solver", [lambda: MirrorDescent(40, step_size=0.5), Anderson], ids=["mirror", "anderson"])
def test_edge_sizes(batch, labels, solver):
    energy = SPEN(F, labels, num_measurements=5).double()
    features = torch.randn(batch, F, dtype=torch.float64, requires_grad=True)
    logits = infer(energy, energy.condition(features), solver=solver(), gradient=Implicit()).logits
    assert logits.shape == (batch, labels)
    logits.sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps_differentiate_where_they_ended(steps):
    """h = 0 and tau = 1: phi is the fixed point whatever T, and its gradient is exact."""
    energy = SPEN(F, L).double()
    nn.init.zeros_(energy.head.output)
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    infer(energy, context, solver=MirrorDescent(steps), gradient=Implicit()).logits.sum().backward()
    torch.testing.assert_close(energy.unary.bias.grad, torch.full((L,), float(B), dtype=torch.float64))


def test_dropout_keeps_its_mask():
    energy = _strong(SPEN(F, L, num_measurements=6, dropout=0.5)).double().train()
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    gradients = []
    for mode in (EXACT, Unroll()):
        energy.zero_grad()
        infer(energy, context, solver=_solver(energy), gradient=mode).logits.square().sum().backward(retain_graph=True)
        gradients.append([p.grad.clone() for p in energy.parameters()])
    for implicit, unrolled in zip(*gradients, strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-7, atol=1e-9)


def test_frozen_energy_passes_gradients_to_the_features_alone():
    energy = ENERGIES["icnn"]().double().requires_grad_(False)
    features = torch.randn(B, F, dtype=torch.float64, requires_grad=True)
    infer(energy, energy.condition(features), solver=_solver(energy), gradient=EXACT).logits.sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad is None for p in energy.parameters())


def test_implicit_under_no_grad_keeps_no_graph():
    energy = ENERGIES["icnn"]()
    with torch.no_grad():
        result = infer(energy, energy.condition(torch.randn(B, F)), solver=MirrorDescent(60), gradient=Implicit())
    assert not result.logits.requires_grad


@pytest.mark.parametrize("solver", [GradientDescent(steps=400, step_size=4.0), Anderson(steps=60, tolerance=1e-12)])
def test_any_solver_that_reaches_the_minimum_has_the_same_gradient(solver):
    energy = ENERGIES["gated icnn"]().double()
    features = torch.randn(B, F, dtype=torch.float64)
    gradients = []
    for choice in (solver, MirrorDescent(steps=300, step_size=0.5)):
        energy.zero_grad()
        infer(energy, energy.condition(features), solver=choice, gradient=EXACT).logits.square().sum().backward()
        gradients.append([p.grad.clone() for p in energy.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_general_path_does_not_change_the_gradient():
    energy = ENERGIES["spen"]().double()
    features = torch.randn(B, F, dtype=torch.float64)
    fast = _gradients(energy, features, EXACT, None)
    with general_path():
        slow = _gradients(energy, features, EXACT, None)
    for key in fast:
        torch.testing.assert_close(fast[key], slow[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (9, 4)], ids=["square", "M singular"])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["convex", "of both signs"])
def test_conjugate_residuals_solve_what_a_dense_solver_solves(size, sign):
    n, rank = size
    factor = torch.randn(B, n, rank, dtype=torch.float64)
    mass = factor @ factor.mT
    signs = torch.ones(n, dtype=torch.float64)
    signs[::2] = sign
    root = torch.randn(B, n, n, dtype=torch.float64) * 0.3
    curvature = root @ (signs.unsqueeze(-1) * root.mT)
    b = torch.randn(B, n, dtype=torch.float64)
    target = torch.full((B,), 1e-11, dtype=torch.float64)
    found = conjugate_residuals(
        lambda v: (curvature @ v.unsqueeze(-1)).squeeze(-1),
        lambda v: (mass @ v.unsqueeze(-1)).squeeze(-1),
        0.7,
        b,
        target,
        40,
    )
    exact = torch.linalg.solve(0.7 * torch.eye(n, dtype=torch.float64) + curvature @ mass, b)
    visible = (mass @ (found.x - exact).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(visible, torch.zeros_like(visible), atol=1e-9, rtol=0)
    assert found.iterations <= n + 4


def test_learned_step_sizes_and_an_implicit_gradient_are_refused():
    with pytest.raises(ConfigError, match="does not depend on step sizes"):
        EnergyNetwork(BagOfWords(8, hidden=(F,)), SPEN(F, L), MirrorDescent(learn_step_sizes=True), Implicit())


def test_no_warning_where_both_residuals_are_small():
    energy = ENERGIES["icnn"]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = energy.condition(torch.randn(B, F))
        infer(energy, context, solver=MirrorDescent(100, step_size=0.5), gradient=Implicit()).logits.sum().backward()
    assert not infer(energy, context, gradient=NoGradient()).logits.requires_grad


@pytest.mark.parametrize("gradient", [EXACT, None])
def test_a_second_derivative_is_refused(gradient):
    """It would come out without the terms through the minimum."""
    energy = ICNN(F, L, hidden=(4, 4)).double()
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    solver = BundleEntropy(tolerance=1e-10) if gradient is None else _solver(energy)
    logits = infer(energy, context, solver=solver, gradient=gradient).logits
    with pytest.raises(InferenceError, match=r"create_graph=True: the implicit gradient .* Unroll\(\)"):
        torch.autograd.grad(logits.square().sum(), energy.measure, create_graph=True)
