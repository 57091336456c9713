"""Anderson acceleration in K dimensions: the same minimum in fewer steps, each document by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from energynets.energies import ICNN, SPEN, Energy, Euclidean, MeasuredEnergy, Simplex
from energynets.errors import ConfigError, InferenceError, ShapeError
from energynets.inference import (
    Anderson,
    Implicit,
    MirrorDescent,
    NoGradient,
    Observed,
    Truncated,
    Unroll,
    infer,
)
from energynets.inference.solver import residual

F, L = 4, 6


class Chain(Energy):
    """An energy that is not measured."""

    def potential(self, y, context):
        return (y[:, 1:] * y[:, :-1]).sum(-1)


class Quadratic(nn.Module):
    """h = |m|^2 / 2, weighted: the fixed point is a linear system."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, m):
        return (m.square() * self.weights).sum(-1) / 2


def _stiff(energy: MeasuredEnergy, rows: float = 3.0, output: float = 20.0) -> MeasuredEnergy:
    """Labels tied so strongly that mean field, without acceleration, does not converge."""
    with torch.no_grad():
        energy.measure.mul_(rows)
        energy.head.output.mul_(output)
    return energy.double()


ENERGIES = {
    "spen": lambda: SPEN(F, L, num_measurements=4, condition_measurements=True, learn_tau=True, tau=0.7).double(),
    "wide spen": lambda: SPEN(F, L, num_measurements=9, hidden=(3,)).double(),
    "icnn": lambda: _stiff(ICNN(F, L, hidden=(3, 4))),
    "gated icnn": lambda: _stiff(ICNN(F, L, hidden=(3, 2), gate=True, condition_measurements=True), 2.0, 5.0),
    "simplex": lambda: _stiff(ICNN(F, L, hidden=(3, 4), domain=Simplex(3)), 2.0, 5.0),
    "euclidean": lambda: _stiff(ICNN(F, L, hidden=(3, 2), tau=0.5, domain=Euclidean()), 1.0, 10.0),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def rows_measured(monkeypatch):
    """Rows of every product y A^T."""
    counts = []
    plain = MeasuredEnergy.measurements

    def measurements(self, y, context):
        counts.append(len(y))
        return plain(self, y, context)

    monkeypatch.setattr(MeasuredEnergy, "measurements", measurements)
    return counts


def _known() -> Observed:
    mask = torch.zeros(3, L, dtype=torch.bool)
    mask[:, :3] = torch.tensor([[True], [False], [True]])
    values = torch.zeros(3, L, dtype=torch.float64)
    values[:, 1] = 1.0
    return Observed(values, mask)


@pytest.mark.parametrize("known", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("name", ENERGIES)
def test_reaches_the_minimum_that_mirror_descent_reaches(name, known):
    energy, observed = ENERGIES[name](), _known() if known else None
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))
    slow = infer(energy, context, solver=MirrorDescent(3_000, step_size=0.02), gradient=NoGradient(), observed=observed)
    fast = infer(
        energy, context, solver=Anderson(100, tolerance=1e-9), gradient=NoGradient(), observed=observed, tolerance=1e-9
    )
    assert fast.converged.all()
    torch.testing.assert_close(fast.y, slow.y, atol=1e-6, rtol=0)
    torch.testing.assert_close(fast.energy, slow.energy, atol=1e-9, rtol=1e-9)


def test_takes_fewer_steps_than_mirror_descent_on_a_stiff_convex_energy():
    """The mean-field update, the step of size 1, does not converge at all; a step that does is slow."""
    energy = _stiff(ICNN(F, 40, hidden=(16, 16)), 3.0, 80.0)
    context = energy.condition(torch.randn(8, F, dtype=torch.float64))
    mean_field = infer(energy, context, solver=MirrorDescent(200), gradient=NoGradient())
    assert not mean_field.converged.any()
    steps = {}
    for size in (0.5, 0.2, 0.1, 0.05):
        solver = MirrorDescent(400, step_size=size, tolerance=1e-5)
        steps[size] = solver.run(energy, context, gradient=NoGradient()).steps.double().mean().item()
    solver = Anderson(50, mixing=0.3, tolerance=1e-5)
    accelerated = infer(energy, context, solver=solver, gradient=NoGradient(), tolerance=1e-5)
    assert accelerated.converged.all()
    assert accelerated.steps.double().mean() < min(steps.values()) / 2


def test_a_linear_fixed_point_takes_no_more_steps_than_measurements():
    """Type II with a full window is GMRES: K + 1 steps, whatever the stiffness, where mean field explodes."""
    energy = MeasuredEnergy(F, L, 3, Quadratic([1.0, 20.0, 300.0]), domain=Euclidean()).double()
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))
    system = torch.eye(L, dtype=torch.float64) + energy.measure.T @ (energy.head.weights.unsqueeze(-1) * energy.measure)
    exact = torch.linalg.solve(system, context.unary.T).T
    found = infer(energy, context, solver=Anderson(4, regularization=1e-15), gradient=NoGradient())
    torch.testing.assert_close(found.y, exact, rtol=1e-4, atol=1e-5)
    assert infer(energy, context, solver=MirrorDescent(4), gradient=NoGradient()).y.abs().max() > 1e3


@pytest.mark.parametrize("mixing", [1.0, 0.4])
def test_without_a_window_it_is_mirror_descent(mixing):
    energy = ICNN(F, L, hidden=(3, 4)).double()
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))
    ours = list(Anderson(5, window=0, mixing=mixing).trajectory(energy, context))
    theirs = list(MirrorDescent(5, step_size=mixing).trajectory(energy, context))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ENERGIES)
def test_tolerance_bounds_what_a_mean_field_step_moves(name):
    energy = ENERGIES[name]()
    features = torch.randn(20, F, dtype=torch.float64)
    context = energy.condition(features)
    for tolerance in (1e-2, 1e-4):
        found = Anderson(100, tolerance=tolerance).run(energy, context, gradient=NoGradient())
        slope = energy.gradient(energy.domain.labels(found.logits), context) + energy.tau * found.logits
        assert (found.steps < 100).all()
        assert (residual(energy, found.logits, slope) <= tolerance).all()


def test_each_document_takes_the_steps_it_takes_alone():
    energy = ENERGIES["icnn"]()
    features = 3 * torch.randn(6, F, dtype=torch.float64)
    together = Anderson(60).run(energy, energy.condition(features), gradient=NoGradient())
    assert len(set(together.steps.tolist())) > 1
    for row in range(6):
        alone = Anderson(60).run(energy, energy.condition(features[row : row + 1]), gradient=NoGradient())
        assert alone.steps.item() == together.steps[row].item()
        torch.testing.assert_close(alone.logits[0], together.logits[row])


def test_finished_documents_cost_nothing(rows_measured):
    energy = ENERGIES["icnn"]()
    context = energy.condition(3 * torch.randn(6, F, dtype=torch.float64))
    steps = Anderson(60).run(energy, context, gradient=NoGradient()).steps
    assert steps.max() < 60
    # One product more than it took steps says that a document is done.
    assert sum(rows_measured) == (steps + 1).sum().item()
    assert len(rows_measured) == steps.max().item() + 1


def test_all_steps_where_asked_for(rows_measured):
    energy = ENERGIES["spen"]()
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))
    for solver, mode in ((Anderson(30, tolerance=0), NoGradient()), (Anderson(30, tolerance=0.5), Unroll())):
        rows_measured.clear()
        assert solver.run(energy, context, gradient=mode).steps.tolist() == [30] * 3
        assert rows_measured == [3] * 30


def test_stopping_returns_an_iterate_of_the_trajectory():
    energy = ENERGIES["gated icnn"]()
    context = energy.condition(3 * torch.randn(5, F, dtype=torch.float64))
    found = Anderson(60, tolerance=1e-3).run(energy, context, gradient=NoGradient())
    iterates = torch.stack(list(Anderson(60).trajectory(energy, context)))
    torch.testing.assert_close(found.logits, iterates[found.steps, torch.arange(5)], rtol=1e-8, atol=1e-8)


def test_warm_start_from_a_result_takes_a_step_or_two():
    energy = ENERGIES["icnn"]()
    features = torch.randn(3, F, dtype=torch.float64)
    first = infer(energy, energy.condition(features), solver=Anderson(60), gradient=NoGradient())
    assert first.steps.min() > 3
    again = infer(energy, energy.condition(features), solver=Anderson(60), gradient=NoGradient(), initial=first)
    assert again.steps.max() <= 2
    near = energy.condition(features + 1e-3 * torch.randn_like(features))
    warm = infer(energy, near, solver=Anderson(60), gradient=NoGradient(), initial=first.logits)
    assert (warm.steps < first.steps).all()
    torch.testing.assert_close(warm.y, infer(energy, near, solver=Anderson(60)).y, atol=1e-3, rtol=0)


def test_convex_energy_has_one_minimum_from_any_start():
    energy = ENERGIES["icnn"]()
    context = energy.condition(torch.randn(1, F, dtype=torch.float64).expand(10, F))
    starts = 5 * torch.randn(10, L, dtype=torch.float64)
    found = infer(energy, context, solver=Anderson(200, tolerance=1e-9), gradient=NoGradient(), initial=starts)
    torch.testing.assert_close(found.y, found.y[:1].expand(10, L), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["spen", "gated icnn", "simplex"])
@pytest.mark.parametrize("window", [1, 3])
def test_unrolled_gradients_pass_gradcheck_for_everything(name, window):
    energy = ENERGIES[name]()
    names = [f"energy.{name}" for name, _ in energy.named_parameters()]

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, features, initial):
            solver = Anderson(4, window=window, mixing=0.7)
            return infer(energy, energy.condition(features), solver=solver, initial=initial, observed=_known()).logits

    def loop(features, initial, *values):
        return torch.func.functional_call(Loop(), dict(zip(names, values, strict=True)), (features, initial))

    values = [p.detach().clone().requires_grad_() for p in energy.parameters()]
    features = torch.randn(3, F, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(3, L, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loop, (features, initial, *values), atol=1e-5, fast_mode=True)


def test_implicit_and_long_unroll_agree():
    energy = ENERGIES["icnn"]()
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))
    gradients = []
    for solver, mode in ((Anderson(80, tolerance=1e-11), Implicit(1e-9)), (Anderson(30), Unroll())):
        energy.zero_grad()
        infer(energy, context, solver=solver, gradient=mode).logits.square().sum().backward(retain_graph=True)
        gradients.append([p.grad.clone() for p in energy.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_truncated_counts_earlier_steps_as_constant():
    energy = ENERGIES["spen"]()
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))

    def gradient(mode):
        energy.zero_grad()
        logits = infer(energy, context, solver=Anderson(5), gradient=mode).logits
        logits.square().sum().backward(retain_graph=True)
        return logits.detach(), energy.measure.grad.clone()

    whole, exact = gradient(Unroll())
    for steps in (1, 2, 5, 9):
        logits, found = gradient(Truncated(steps))
        assert torch.equal(logits, whole)
        assert torch.equal(found, exact) == (steps >= 5)
    assert (gradient(Truncated(3))[1] - exact).norm() < (gradient(Truncated(1))[1] - exact).norm()


def test_losses_of_every_step():
    energy = ENERGIES["icnn"]()
    context = energy.condition(torch.randn(3, F, dtype=torch.float64))

    def step_loss(step, logits):
        return logits.square().mean() / (step + 1)

    solver = Anderson(5)
    expected = sum(step_loss(step, z) for step, z in enumerate(solver.trajectory(energy, context)) if step)
    gradients = []
    for mode in (Unroll(), Truncated(2)):
        energy.zero_grad()
        logits, loss = solver.solve_with_losses(energy, context, step_loss, gradient=mode)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(logits, solver.solve(energy, context))
        loss.backward(retain_graph=True)
        gradients.append(energy.measure.grad.clone())
    assert not torch.allclose(*gradients)
    with pytest.raises(InferenceError, match=r"Anderson takes .* Implicit"):
        solver.solve_with_losses(energy, context, step_loss, gradient=Implicit())


def test_dropout_mask_is_the_contexts(rows_measured):
    energy = SPEN(F, L, num_measurements=8, dropout=0.5).double().train()
    with torch.no_grad():
        energy.head.output.mul_(10)
    context = energy.condition(torch.randn(4, F, dtype=torch.float64))
    exact = infer(energy, context, solver=MirrorDescent(300, step_size=0.3), gradient=NoGradient()).y
    found = infer(energy, context, solver=Anderson(60, tolerance=1e-9), gradient=NoGradient())
    torch.testing.assert_close(found.y, exact, atol=1e-7, rtol=0)
    torch.testing.assert_close(infer(energy, context, solver=Anderson(30)).y, exact, atol=1e-7, rtol=0)


@pytest.mark.parametrize("mode", [NoGradient(), Unroll(), Truncated(1), Implicit(tolerance=1e9)])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("labels", [1, 3])
def test_edge_sizes(mode, steps, batch, labels):
    energy = SPEN(F, labels, num_measurements=6)
    context = energy.condition(torch.randn(batch, F))
    result = infer(energy, context, solver=Anderson(steps, tolerance=0), gradient=mode)
    assert result.logits.shape == (batch, labels)
    assert result.steps.tolist() == [steps] * batch
    if not steps:
        assert torch.equal(result.logits, context.unary)
    if steps == 1:  # the mean-field update
        torch.testing.assert_close(result.logits, infer(energy, context, solver=MirrorDescent(1)).logits)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_prediction_works_without_gradients(guard):
    energy = SPEN(F, L)
    features = torch.randn(3, F)
    expected = infer(energy, energy.condition(features), solver=Anderson()).y.detach()
    with guard():
        result = infer(energy, energy.condition(features), solver=Anderson(), gradient=NoGradient(), trace=True)
    torch.testing.assert_close(result.y, expected, atol=1e-4, rtol=0)
    assert result.trace.energies.shape == (21, 3)


def test_single_precision_reaches_a_small_residual():
    energy = _stiff(ICNN(F, 40, hidden=(16, 16))).float()
    context = energy.condition(torch.randn(8, F))
    found = infer(energy, context, solver=Anderson(60, tolerance=1e-5), gradient=NoGradient(), tolerance=1e-5)
    assert found.converged.all()
    assert found.steps.max() < 60


@pytest.mark.parametrize("mode", [NoGradient(), Unroll()])
def test_documents_that_are_not_finite_leave_the_others_alone(mode):
    energy = ENERGIES["icnn"]()
    features = torch.randn(3, F, dtype=torch.float64)
    expected = infer(energy, energy.condition(features), solver=Anderson(15), gradient=mode)
    features[1] = torch.inf
    found = infer(energy, energy.condition(features), solver=Anderson(15), gradient=mode)
    assert found.finite.tolist() == [True, False, True]
    torch.testing.assert_close(found.y[::2], expected.y[::2])


@pytest.mark.parametrize("mode", [NoGradient(), Unroll(), Truncated(1), Implicit()])
def test_energies_that_are_not_measured_are_refused_by_name(mode):
    with pytest.raises(InferenceError, match=r"Chain is no MeasuredEnergy.*use MirrorDescent"):
        infer(Chain(L), torch.zeros(3, 1), solver=Anderson(), gradient=mode)
    with pytest.raises(InferenceError, match="Chain"):
        Anderson().trajectory(Chain(L), torch.zeros(3, 1))


def test_an_energy_with_a_gradient_of_its_own_is_refused():
    class Own(SPEN):
        def potential(self, y, context):
            return super().potential(y, context) + y.square().sum(-1)

    energy = Own(F, L)
    with pytest.raises(InferenceError, match="Own brings its own `potential`"):
        infer(energy, energy.condition(torch.zeros(3, F)), solver=Anderson())


def test_wrong_start_is_named():
    energy = SPEN(F, L)
    with pytest.raises(ShapeError, match=rf"expected \(B, {L}\), got \(3, 2\)"):
        infer(energy, energy.condition(torch.randn(3, F)), solver=Anderson(), initial=torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps and window"),
        ({"window": -1}, "steps and window"),
        ({"mixing": 0.0}, r"\(0, 1\]"),
        ({"mixing": 1.1}, r"\(0, 1\]"),
        ({"regularization": 0.0}, "positive regularization"),
        ({"tolerance": -1e-3}, "tolerance of 0 or more"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Anderson(**options)


@pytest.mark.parametrize("mode", [NoGradient(), Implicit(tolerance=1e-2)], ids=["no gradient", "implicit"])
def test_a_trace_stays_where_each_document_stopped(mode):
    torch.manual_seed(0)
    energy = ICNN(6, 9, hidden=(5, 4)).double()
    with torch.no_grad():
        energy.head.output *= 30
    context = energy.condition(3 * torch.randn(8, 6, dtype=torch.float64))
    result = infer(energy, context, solver=Anderson(tolerance=1e-3), gradient=mode, trace=True)
    energies = result.trace.energies
    assert len(result.steps.unique()) > 1
    torch.testing.assert_close(energies[-1], result.energy, rtol=1e-9, atol=1e-9)
    for document, steps in enumerate(result.steps.tolist()):
        assert steps < 20
        assert (energies[steps:, document] == energies[steps, document]).all()
        assert energies[steps, document] != energies[steps - 1, document]
