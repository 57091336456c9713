"""The bundle entropy method: its minimum, its bound, its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from exact_minimum import doubled, minimum
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from energynets.energies import ICNN, SPEN, Energy, Euclidean, Simplex
from energynets.errors import ConfigError, InferenceError, NotConvergedWarning
from energynets.inference import (
    BundleEntropy,
    Implicit,
    MirrorDescent,
    NoGradient,
    Observed,
    Truncated,
    Unroll,
    infer,
)
from energynets.objectives.losses import bce

F, L, B = 4, 6, 7


def icnn(seed=0, labels=L, *, hidden=(3, 4), scale=1.0, **options):
    """One whose potential is far from linear: the bundle needs several tangents."""
    torch.manual_seed(seed)
    energy = ICNN(F, labels, hidden=hidden, **options)
    with torch.no_grad():
        energy.measure.normal_(std=scale)
        energy.head.output.uniform_(0, scale)
        for gate in energy.gates:
            gate.weight.normal_()
    return energy


def known(labels=L, batch=B):
    values = (torch.rand(batch, labels) < 0.5).double()
    return Observed(values, torch.rand(batch, labels) < 0.4)


class Quadratic(Energy):
    """A convex energy of a user's own, on the general path: |y M - x|^2 / 2."""

    convex = True

    def __init__(self):
        super().__init__(L)
        self.matrix = nn.Parameter(torch.randn(L, F))

    def potential(self, y, context):
        return (y @ self.matrix - context).square().sum(-1) / 2


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    labels=st.integers(1, 12),
    tau=st.sampled_from([0.3, 1.0, 3.0]),
    scale=st.sampled_from([0.1, 1.0, 2.0]),
    gate=st.booleans(),
    observe=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    steps=st.sampled_from([0, 1, 2, 5, 80]),
)
# Labels that are 0 and 1 to rounding: the dual has no curvature there; then the largest gap seen to stay, 115 units.
@example(seed=125, labels=2, tau=0.3, scale=2.0, gate=True, observe=False, dtype=torch.float32, steps=2)
@example(seed=2027, labels=2, tau=0.3, scale=2.0, gate=True, observe=False, dtype=torch.float32, steps=80)
def test_its_gap_is_a_true_bound_and_it_reaches_the_minimum(seed, labels, tau, scale, gate, observe, dtype, steps):
    energy = icnn(seed, labels, scale=scale, tau=tau, gate=gate).to(dtype)
    context = energy.condition(2 * torch.randn(B, F, dtype=dtype))
    observed = known(labels) if observe else None
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    solver = BundleEntropy(steps, tolerance=tolerance)
    found = solver.run(energy, context, gradient=NoGradient(), observed=observed)
    exact, exact_context = doubled(energy, context)
    best = minimum(exact, exact_context, MirrorDescent(300, step_size=0.05).solve(exact, exact_context), observed)
    with torch.no_grad():
        gap = exact(found.logits.double(), exact_context) - exact(best, exact_context)
        # Where rounding moves y no further the gap stays at some units of the potential's and of what it is a sum of.
        y = torch.sigmoid(best)
        size = exact.potential(y, exact_context).abs() + exact.gradient(y, exact_context).abs().sum(-1)
        reach = 256 * torch.finfo(dtype).eps * size
    rounding = 1e-12
    assert (found.gap.double() >= gap - rounding).all()
    assert (found.steps <= steps).all()
    enough = found.gap.double() <= reach.clamp(min=tolerance)
    assert (enough | (found.steps == steps)).all()
    if steps == 80:
        assert enough.all()
        if observed is not None:
            assert torch.equal(
                torch.sigmoid(found.logits)[observed.mask].round(), observed.values[observed.mask].to(dtype)
            )


def test_agrees_with_thousands_of_mirror_steps_to_the_certificate():
    energy = icnn(1, 159, hidden=(16, 16)).double()
    context = energy.condition(torch.randn(B, F).double())
    result = infer(energy, context, solver=BundleEntropy(60), gradient=NoGradient())
    mirror = infer(energy, context, solver=MirrorDescent(4_000, step_size=0.02), gradient=NoGradient())
    assert (result.certificate <= 1e-6).all()
    assert (mirror.certificate <= 1e-12).all()
    assert (result.energy - mirror.energy <= result.certificate).all()
    assert (mirror.energy - result.energy <= mirror.certificate + 1e-12).all()
    assert (result.y - mirror.y).abs().max() <= math.sqrt(1e-6 / 2)  # 4 tau-strong convexity


def test_the_solvers_own_gap_enters_the_certificate():
    energy = icnn(2, scale=3.0, tau=0.1).double()
    context = energy.condition(torch.randn(B, F).double())
    solver = BundleEntropy(12, tolerance=1e-12)
    gap = solver.run(energy, context, gradient=NoGradient()).gap
    result = infer(energy, context, solver=solver, gradient=NoGradient())
    assert (result.certificate <= gap).all()


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize(
    "make", [icnn, lambda: icnn(gate=True, learn_tau=True, condition_measurements=True), Quadratic]
)
@pytest.mark.parametrize("mode", [Unroll(), Implicit(tolerance=1e-9)], ids=["unroll", "implicit"])
def test_gradient_passes_gradcheck_and_is_that_of_a_long_unroll(make, mode, observe):
    torch.manual_seed(3)
    energy = make().double()
    names = [name for name, _ in energy.named_parameters()]
    observed = known(batch=2) if observe else None
    features = torch.randn(2, F, dtype=torch.float64, requires_grad=True)

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, features, solver, mode):
            context = energy.condition(features)
            initial = torch.zeros(2, L, dtype=torch.float64)
            return solver.solve(energy, context, initial, gradient=mode, observed=observed)

    def logits(solver, mode, features, *values):
        values = {f"energy.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Loop(), values, (features, solver, mode))

    values = [p.detach().clone().requires_grad_() for p in energy.parameters()]
    inputs = (features, *values)
    bundle = BundleEntropy(150, tolerance=1e-20)  # labels to 1e-10, hence the steps of finite differences
    run = lambda *inputs: logits(bundle, mode, *inputs)  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs, eps=1e-4, atol=1e-5, fast_mode=True)

    def gradients(solver, mode):
        weights = torch.randn(2, L, generator=torch.Generator().manual_seed(4)).double()
        return torch.autograd.grad((logits(solver, mode, *inputs) * weights).sum(), inputs, allow_unused=True)

    unrolled = gradients(MirrorDescent(600, step_size=0.05), Unroll())
    for ours, theirs in zip(gradients(bundle, mode), unrolled, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_gradient_away_from_the_minimum_warns():
    energy = icnn(5)
    with pytest.warns(NotConvergedWarning, match="more solver.steps"):
        BundleEntropy(1).solve(energy, energy.condition(torch.randn(B, F)))


def test_held_points_as_in_the_paper_give_another_gradient():
    """With one active tangent the paper's system is one step from a point that is held: off however near it is."""
    energy = icnn(5, scale=0.5).double()
    features = torch.randn(B, F).double()
    solver = BundleEntropy(100, tolerance=1e-18)

    def gradient(logits):
        return torch.cat([g.flatten() for g in torch.autograd.grad(logits.square().sum(), list(energy.parameters()))])

    ours = gradient(solver.solve(energy, energy.condition(features)))
    exact = gradient(MirrorDescent(600, step_size=0.1).solve(energy, energy.condition(features)))
    context = energy.condition(features)
    point = torch.sigmoid(solver.solve(energy, context, gradient=NoGradient()))
    held = gradient(-energy.gradient(point, context) / energy.tau)
    assert (ours - exact).norm() < 1e-7 * exact.norm()
    assert (held - exact).norm() > 0.01 * exact.norm()


def test_bundles_whose_tangents_depend_on_each_other_are_solved():
    """One measurement a layer: gradients lie on a surface of two dimensions, most bundles are of deficient rank."""
    energy = icnn(6, 3, hidden=(1, 1), scale=3.0, tau=0.1).double()
    context = energy.condition(3 * torch.randn(200, F).double())
    found = BundleEntropy(80, tolerance=1e-12).run(energy, context, gradient=NoGradient())
    assert (found.gap <= 1e-12).all()
    assert found.steps.max() > 3


def test_one_dropout_mask_for_all_steps():
    energy = icnn(7, dropout=0.5).double().train()
    context = energy.condition(torch.randn(B, F).double())
    assert (context.mask == 0).any()
    found = BundleEntropy(100, tolerance=1e-12).run(energy, context, gradient=NoGradient())
    assert (found.gap <= 1e-12).all()
    mirror = MirrorDescent(1_000, step_size=0.1).solve(energy, context, gradient=NoGradient())
    torch.testing.assert_close(found.logits, mirror, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("steps", [0, 1, 30])
def test_edge_sizes(batch, labels, steps):
    energy = icnn(8, labels)
    mode = Unroll() if steps == 30 else NoGradient()
    result = infer(energy, energy.condition(torch.randn(batch, F)), solver=BundleEntropy(steps), gradient=mode)
    assert result.logits.shape == (batch, labels)
    assert result.logits.requires_grad == (steps == 30)
    assert result.finite.all()
    assert result.certificate.shape == (batch,)


def test_documents_stop_by_themselves_and_cost_only_while_they_run(monkeypatch):
    energy = icnn(9).double()
    context = energy.condition(3 * torch.randn(40, F).double())
    solver, rows = BundleEntropy(80, tolerance=1e-9), []
    gradient = type(energy).gradient
    monkeypatch.setattr(type(energy), "gradient", lambda self, y, c: rows.append(len(y)) or gradient(self, y, c))
    found = solver.run(energy, context, gradient=NoGradient())
    assert len(set(found.steps.tolist())) > 1
    assert sum(rows) == int((found.steps + 1).sum())
    for row in (0, 17):
        alone = solver.run(energy, energy.select(context, torch.tensor([row])), gradient=NoGradient())
        torch.testing.assert_close(alone.logits[0], found.logits[row], atol=1e-8, rtol=1e-8)
        assert alone.steps[0] == found.steps[row]


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_prediction_works_without_gradients_and_traces(guard):
    energy = icnn(10).double()
    with guard():
        context = energy.condition(torch.randn(B, F).double())
        result = infer(energy, context, solver=BundleEntropy(12), gradient=NoGradient(), trace=True)
    assert not result.y.requires_grad
    assert result.trace.energies.shape == (13, B)
    assert (result.trace.energies[-1] - result.energy).abs().max() < 1e-6


def test_documents_that_are_not_finite_are_told_apart():
    energy = icnn(11)
    features = torch.randn(3, F)
    features[1] = math.inf
    result = infer(energy, energy.condition(features), solver=BundleEntropy(), gradient=NoGradient())
    assert result.finite.tolist() == [True, False, True]
    assert torch.isinf(result.certificate).tolist() == [False, True, False]


def test_trains():
    energy = icnn(12, scale=0.3)
    features, labels = torch.randn(30, F), (torch.rand(30, L) < 0.3).float()
    optimizer = torch.optim.Adam(energy.parameters(), 0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = bce(BundleEntropy().solve(energy, energy.condition(features)), labels)
        loss.backward()
        optimizer.step()
        energy.project()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_what_it_does_not_take_is_refused_by_name():
    solver, features = BundleEntropy(), torch.randn(2, F)
    spen = SPEN(F, L)
    with pytest.raises(InferenceError, match="SPEN is not"):
        solver.solve(spen, spen.condition(features))
    for domain in (Simplex(3), Euclidean()):
        energy = icnn(domain=domain)
        with pytest.raises(InferenceError, match=f"ICNN is over {type(domain).__name__}: use MirrorDescent"):
            solver.solve(energy, energy.condition(features))
    energy = icnn()
    with pytest.raises(InferenceError, match="Truncated does not fit"):
        solver.solve(energy, energy.condition(features), gradient=Truncated(2))
    with pytest.raises(InferenceError, match="last step alone"):
        next(solver.trajectory(energy, energy.condition(features)))
    for options in ({"steps": -1}, {"tolerance": 0.0}, {"initial": "zero"}):
        with pytest.raises(ConfigError, match="solver"):
            BundleEntropy(**options)
