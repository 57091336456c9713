"""Categorical variables and real numbers: all solvers and gradient modes, with and without known values."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from energynets.energies import ICNN, SPEN, Box, Energy, Euclidean, MeasuredEnergy, Simplex
from energynets.errors import ShapeError
from energynets.inference import (
    GradientDescent,
    MirrorDescent,
    NoGradient,
    Observed,
    ProjectedGradient,
    Truncated,
    Unroll,
    general_path,
    infer,
    path,
)

B, F, C, L = 2, 3, 3, 6
DOMAINS = {"simplex": Simplex(C), "euclidean": Euclidean()}
SOLVERS = {
    "mirror": lambda steps=3, size=0.6, **options: MirrorDescent(steps, step_size=size, **options),
    "gradient": lambda steps=3, size=0.6, **options: GradientDescent(steps, step_size=size, **options),
    "projected": lambda steps=3, size=0.02, **options: ProjectedGradient(steps, step_size=size, **options),
}


class Quadratic(Energy):
    """-<phi, y> + y^T Q y / 2 on the general path, Q positive definite: convex in y."""

    convex = True

    def __init__(self, domain, tau=1.0):
        super().__init__(L, domain=domain, tau=tau)
        self.unary = nn.Linear(F, L)
        self.root = nn.Parameter(torch.randn(L, L) / 3)

    @property
    def matrix(self):
        return self.root @ self.root.T

    def condition(self, features):
        return self.unary(features)

    def initial_logits(self, context):
        return context

    def potential(self, y, phi):
        return (y @ self.matrix * y).sum(-1) / 2 - (y * phi).sum(-1)


class SquareHead(nn.Module):
    """h(m) = |m|^2 / 2: with it the minimum over real y is the solution of a linear system."""

    def forward(self, m):
        return m.square().sum(-1) / 2


ENERGIES = {
    "spen": lambda domain: SPEN(F, L, num_measurements=3, condition_measurements=True, learn_tau=True, domain=domain),
    "icnn": lambda domain: ICNN(F, L, hidden=(3, 2), gate=True, domain=domain),
    "quadratic": Quadratic,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def features():
    return torch.randn(B, F, dtype=torch.float64)


def known(domain) -> Observed:
    """The first variable of the first document, the second of the second."""
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[0, :C] = mask[1, C:] = True
    values = torch.tensor([0.0, 1.0, 0.0]).repeat(2).expand(B, L).double()
    return Observed(values if isinstance(domain, Simplex) else 1.7 * values - 0.4, mask)


def parameters(*modules):
    return [parameter for module in modules for parameter in module.parameters()]


def gradients(logits, modules):
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    found = torch.autograd.grad((weights * torch.tanh(logits)).sum(), parameters(*modules), allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def stationary(energy, result, context, free) -> torch.Tensor:
    """How far dE/dy is from what a minimum inside the domain has: 0, or one number for each categorical variable."""
    slope = energy.gradient(result.y, context) + energy.tau * energy.domain.logits(result.y)
    if isinstance(energy.domain, Simplex):
        groups = slope.unflatten(-1, (-1, C))
        slope = (groups - groups.mean(-1, keepdim=True)).flatten(-2)
    return slope[free].abs().max()


# ------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("domain", [*DOMAINS.values(), Box()], ids=str)
def test_the_pullback_is_the_derivative_of_the_mirror_map(domain):
    z, g = torch.randn(2, B, L, dtype=torch.float64)
    y, pull = torch.func.vjp(domain.labels, z)
    torch.testing.assert_close(domain.pullback(y, g), pull(g)[0])
    torch.testing.assert_close(domain.labels(domain.logits(y)), y)


@pytest.mark.parametrize("clamped", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_unrolled_gradients_pass_gradcheck(domain, energy, solver, clamped):
    energy = ENERGIES[energy](DOMAINS[domain]).double()
    solver = SOLVERS[solver](momentum=0.3, learn_step_sizes=True).double()
    observed = known(energy.domain) if clamped else None
    names = [(m, name) for m in (energy, solver) for name, _ in m.named_parameters()]

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy, self.solver = energy, solver

        def forward(self, f, initial):
            return infer(energy, energy.condition(f), solver=solver, initial=initial, observed=observed).y

    prefixed = [f"{'energy' if m is energy else 'solver'}.{name}" for m, name in names]

    def loop(f, initial, *values):
        return torch.func.functional_call(Loop(), dict(zip(prefixed, values, strict=True)), (f, initial))

    values = [p.detach().clone().requires_grad_() for p in parameters(energy, solver)]
    initial = torch.randn(B, L, dtype=torch.float64) / 2
    assert torch.autograd.gradcheck(loop, (features().requires_grad_(), initial.requires_grad_(), *values), atol=1e-6)


@pytest.mark.parametrize("clamped", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ["spen", "icnn"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_engine_equals_the_general_path(domain, energy, solver, clamped):
    energy = ENERGIES[energy](DOMAINS[domain]).double()
    solver = SOLVERS[solver](4, momentum=0.2, learn_step_sizes=True).double()
    assert path(energy, solver).fast
    f, observed = features(), known(energy.domain) if clamped else None
    fast = solver.solve(energy, energy.condition(f), observed=observed)
    with general_path():
        slow = solver.solve(energy, energy.condition(f), observed=observed)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    for a, b in zip(gradients(fast, (energy, solver)), gradients(slow, (energy, solver)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("clamped", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_truncated_is_the_last_steps_from_a_constant_start(domain, solver, energy, clamped):
    energy = ENERGIES[energy](DOMAINS[domain]).double()
    f, observed = features(), known(energy.domain) if clamped else None

    def solve(steps, initial=None, gradient=None):
        return SOLVERS[solver](steps).solve(energy, energy.condition(f), initial, gradient=gradient, observed=observed)

    expected = solve(2, solve(3, gradient=NoGradient()))
    found, whole = solve(5, gradient=Truncated(2)), solve(5, gradient=Unroll())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, whole)
    pairs = list(zip(*(gradients(z, (energy,)) for z in (found, expected, whole)), strict=True))
    for a, b, _ in pairs:
        torch.testing.assert_close(a, b)
    assert any(not torch.allclose(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("clamped", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_without_gradients_the_answer_is_the_same(domain, solver, energy, clamped):
    energy = ENERGIES[energy](DOMAINS[domain]).double()
    f, observed = features(), known(energy.domain) if clamped else None
    solver = SOLVERS[solver](momentum=0.3)
    expected = infer(energy, energy.condition(f), solver=solver, observed=observed)
    assert expected.y.requires_grad
    for guard in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with guard():
            result = infer(energy, energy.condition(f), solver=solver, gradient=NoGradient(), observed=observed)
        assert not result.y.requires_grad
        torch.testing.assert_close(result.y, expected.y.detach(), rtol=1e-12, atol=1e-14)
    if isinstance(energy.domain, Simplex):
        torch.testing.assert_close(result.y.view(B, -1, C).sum(-1), torch.ones(B, L // C).double())


# --------------------------------------------------------------------------------------------------------- minima


@pytest.mark.parametrize("clamped", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("energy", ["icnn", "quadratic"])
def test_every_solver_reaches_the_one_minimum_of_a_convex_energy(energy, domain, clamped):
    energy = ENERGIES[energy](DOMAINS[domain]).double()
    f, observed = features(), known(energy.domain) if clamped else None
    context = energy.condition(f)
    free = torch.ones(B, L, dtype=torch.bool) if observed is None else ~observed.mask
    minima = []
    descents = [("mirror", 150, 0.3), ("projected", 1_200, 0.02)]
    descents.append(("gradient", 150, 0.3) if domain == "euclidean" else ("gradient", 1_500, 1.0))
    for name, steps, size in descents:
        start = torch.randn(B, L).double()
        solver = SOLVERS[name](steps, size)
        result = infer(energy, context, solver=solver, gradient=NoGradient(), initial=start, observed=observed)
        assert stationary(energy, result, context, free) < 1e-6, name
        assert result.converged.all()
        minima.append(result.y)
    for other in minima[1:]:
        torch.testing.assert_close(other, minima[0], rtol=0, atol=1e-6)
    if observed is not None:
        assert torch.equal(minima[0][observed.mask], observed.values[observed.mask])


def test_a_simplex_energy_has_no_lower_point_than_the_minimum():
    """Against the constrained minimiser of scipy, which knows nothing of mirror maps."""
    from scipy.optimize import LinearConstraint, minimize

    energy = ICNN(F, L, hidden=(4, 3), tau=0.5, domain=Simplex(C)).double()
    nn.init.normal_(energy.measure)
    energy.head.output.data.mul_(20)
    context = energy.condition(features()[:1])
    result = infer(energy, context, solver=MirrorDescent(2_000, step_size=0.2), gradient=NoGradient())

    def objective(y):
        with torch.no_grad():
            return energy(torch.from_numpy(y).log()[None], context).item()

    rows = torch.block_diag(*[torch.ones(1, C)] * (L // C)).numpy()
    found = minimize(
        objective,
        torch.full((L,), 1 / C).double().numpy(),
        method="SLSQP",
        bounds=[(1e-9, 1)] * L,
        constraints=[LinearConstraint(rows, 1, 1)],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert result.energy.item() == pytest.approx(found.fun, abs=1e-8)
    torch.testing.assert_close(result.y[0], torch.from_numpy(found.x), rtol=0, atol=1e-3)


def brute_force_projection(y, margin):
    """argmin |p - y|^2 over p >= margin, sum p = 1: every set of coordinates at the margin is tried."""
    best = None
    for free in itertools.product([False, True], repeat=len(y)):
        inside = torch.tensor(free)
        if not inside.any():
            continue
        p = torch.full_like(y, margin)
        mass = 1 - margin * (~inside).sum().item()
        p[inside] = y[inside] + (mass - y[inside].sum()) / inside.sum()
        if (p >= margin - 1e-12).all() and (best is None or (p - y).norm() < (best - y).norm()):
            best = p
    return best


@given(
    st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.02, 0.15]),
)
def test_projection_onto_the_simplex_is_the_nearest_point(values, margin):
    y = torch.tensor(values, dtype=torch.float64)
    found = Simplex(len(y)).project(torch.cat((y, y.flip(0)))[None], margin)[0]
    expected = brute_force_projection(y, margin)
    torch.testing.assert_close(found, torch.cat((expected, expected.flip(0))), rtol=0, atol=1e-9)


def measured_quadratic():
    energy = MeasuredEnergy(F, L, 4, SquareHead(), tau=0.7, domain=Euclidean()).double()
    nn.init.normal_(energy.offset)
    return energy


def closed_form(energy, f, observed=None):
    """The free y solves (Q + tau I)_uu y_u = b_u - Q_uo y_o."""
    if isinstance(energy, Quadratic):
        matrix, bias = energy.matrix, energy.unary(f)
    else:
        matrix, bias = energy.measure.T @ energy.measure, energy.unary(f) - energy.offset @ energy.measure
    matrix = matrix + energy.tau * torch.eye(L, dtype=f.dtype)
    if observed is None:
        return torch.linalg.solve(matrix, bias.T).T
    rows = []
    for b, values, mask in zip(bias, observed.values, observed.mask, strict=True):
        free = ~mask
        y = values.clone()
        y[free] = torch.linalg.solve(matrix[free][:, free], b[free] - matrix[free][:, mask] @ values[mask])
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize("clamped", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ["general", "measured"])
def test_a_quadratic_over_real_numbers_is_solved_and_differentiated_as_its_linear_system(energy, solver, clamped):
    energy = Quadratic(Euclidean(), tau=0.7).double() if energy == "general" else measured_quadratic()
    f, observed = features(), known(energy.domain) if clamped else None
    solver = SOLVERS[solver](300, 0.3)
    result = infer(energy, energy.condition(f), solver=solver, gradient=Unroll(), observed=observed)
    expected = closed_form(energy, f, observed)
    torch.testing.assert_close(result.y, expected)
    for a, b in zip(gradients(result.y, (energy,)), gradients(expected, (energy,)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------------------------------------- observed values


class Ring(Energy):
    """-<phi, y> - sum_i y_i^T W y_{i+1}: over the variables that are left when every other one is known, modular."""

    def __init__(self, num_variables, tau):
        super().__init__(C * num_variables, tau=tau, domain=Simplex(C))
        self.coupling = nn.Parameter(2 * torch.randn(C, C))

    def potential(self, y, phi):
        tags = y.unflatten(-1, (-1, C))
        return -(y * phi).sum(-1) - (tags @ self.coupling * tags.roll(-1, 1)).sum((1, 2))


@pytest.mark.parametrize("solver", [("mirror", 60, 0.5), ("gradient", 1_500, 1.0), ("projected", 1_500, 0.002)])
def test_categories_given_their_neighbours_are_a_softmax_and_round_to_the_best_assignment(solver):
    variables, tau = 4, 1.0
    energy = Ring(variables, tau).double()
    phi = torch.randn(5, C * variables).double()
    tags = torch.randint(C, (5, variables))
    mask = torch.tensor([True, False, True, False]).repeat_interleave(C).expand(5, -1)
    values = nn.functional.one_hot(tags, C).flatten(1).double()
    name, steps, size = solver
    options = {"margin": 0.002} if name == "projected" else {}
    solver = SOLVERS[name](steps, size, **options)
    result = infer(energy, phi, solver=solver, gradient=NoGradient(), observed=Observed(values, mask))
    assert torch.equal(result.y[mask], values[mask])
    left, right = energy.coupling[tags.roll(1, 1)], energy.coupling.T[tags.roll(-1, 1)]
    expected = torch.softmax((phi.view(5, variables, C) + left + right) / tau, -1)
    inside = expected.clamp(min=0.002)
    torch.testing.assert_close(result.y.view(5, variables, C)[:, 1::2], inside[:, 1::2], rtol=0, atol=0.005)

    best = torch.full((5,), torch.inf, dtype=torch.float64)
    answer = torch.zeros(5, 2, dtype=torch.long)
    for first, third in itertools.product(range(C), repeat=2):
        chosen = tags.clone()
        chosen[:, 1], chosen[:, 3] = first, third
        found = energy.potential(nn.functional.one_hot(chosen, C).flatten(1).double(), phi)
        answer[found < best] = torch.tensor([first, third])
        best = torch.minimum(best, found)
    assert torch.equal(result.y.view(5, variables, C).argmax(-1)[:, 1::2], answer)


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        ([0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], "whole categorical variables"),
        ([1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], "one category of each known variable"),
        ([0, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1], "one category of each known variable"),
        ([0.5, 0.5, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], "0 or 1"),
    ],
)
def test_what_cannot_be_known_of_a_categorical_variable_is_named(values, mask, message):
    energy = SPEN(F, L, domain=Simplex(C))
    observed = Observed(torch.tensor([values]).float(), torch.tensor([mask]).bool())
    with pytest.raises(ShapeError, match=message):
        infer(energy, energy.condition(torch.randn(1, F)), observed=observed)


def test_what_stands_where_nothing_is_known_is_not_read():
    energy = SPEN(F, L, domain=Simplex(C))
    observed = Observed(known(energy.domain).values.float(), known(energy.domain).mask)
    holes = Observed(observed.values.masked_fill(~observed.mask, torch.nan), observed.mask)
    context = energy.condition(torch.randn(B, F))
    for solver in SOLVERS.values():
        expected = infer(energy, context, solver=solver(), observed=observed).y
        assert torch.equal(infer(energy, context, solver=solver(), observed=holes).y, expected)
