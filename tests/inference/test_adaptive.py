"""Descents that stop for each document by itself, and search along the line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from energynets.energies import ICNN, SPEN, Energy, Euclidean, Simplex
from energynets.errors import ConfigError, ShapeError
from energynets.inference import (
    GradientDescent,
    Implicit,
    MirrorDescent,
    NoGradient,
    Observed,
    ProjectedGradient,
    Unroll,
    infer,
)
from energynets.inference.solver import residual

F, L = 4, 6
SOLVERS = {
    "mirror": lambda **options: MirrorDescent(**({"steps": 200, "step_size": 0.4} | options)),
    "gradient": lambda **options: GradientDescent(**({"steps": 400, "step_size": 2.0} | options)),
    "projected": lambda **options: ProjectedGradient(**({"steps": 800, "margin": 1e-3, "step_size": 2e-3} | options)),
}


class Pairs(Energy):
    """A user's energy, on the general path: it counts the documents that it is asked about."""

    def __init__(self, domain=None) -> None:
        super().__init__(L, domain=domain)
        self.unary = nn.Linear(F, L)
        self.pairs = nn.Parameter(torch.randn(L, L) * 0.3)
        self.gradients: list[int] = []
        self.energies: list[int] = []

    def condition(self, features):
        return {"unary": self.unary(features), "gain": [torch.sigmoid(features[:, 0])], "name": "pairs"}

    def initial_logits(self, context):
        return context["unary"]

    def potential(self, y, context):
        return (y @ self.pairs).square().sum(-1) * context["gain"][0] - (y * context["unary"]).sum(-1)

    def gradient(self, y, context):
        self.gradients.append(len(y))
        return super().gradient(y, context)

    def forward(self, logits, context):
        self.energies.append(len(logits))
        return super().forward(logits, context)


ENERGIES = {
    "icnn": lambda: ICNN(F, L, hidden=(3, 4), gate=True, condition_measurements=True).double(),
    "spen": lambda: SPEN(F, L, num_measurements=4, learn_tau=True, tau=0.8).double(),
    "pairs": lambda: Pairs().double(),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _features(batch: int = 6) -> torch.Tensor:
    """Documents of very different difficulty."""
    scale = torch.linspace(0.1, 3, batch, dtype=torch.float64).unsqueeze(-1)
    return scale * torch.randn(batch, F, dtype=torch.float64)


def _known(batch: int = 6) -> Observed:
    mask = torch.zeros(batch, L, dtype=torch.bool)
    mask[::2, :2] = True
    values = torch.zeros(batch, L, dtype=torch.float64)
    values[:, 1] = 1.0
    return Observed(values, mask)


@pytest.mark.parametrize("known", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("momentum", [0.0, 0.3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ENERGIES)
def test_each_document_stops_on_its_trajectory_once_it_has_converged(name, solver, momentum, known):
    energy, observed = ENERGIES[name](), _known() if known else None
    context = energy.condition(_features())
    solver = SOLVERS[solver](tolerance=1e-3, momentum=momentum)
    if isinstance(solver, ProjectedGradient) and isinstance(energy, Pairs):
        pytest.skip("its curvature at the margin wants steps too small for a test")
    found = infer(energy, context, solver=solver, gradient=NoGradient(), observed=observed)
    assert found.steps.max() < solver.steps
    iterates = torch.stack(list(solver.trajectory(energy, context, observed=observed)))
    torch.testing.assert_close(found.logits, iterates[found.steps, torch.arange(6)], rtol=1e-8, atol=1e-8)


def test_a_document_is_done_at_the_first_step_within_tolerance():
    energy = ENERGIES["icnn"]()
    context = energy.condition(_features())
    solver = SOLVERS["mirror"](tolerance=1e-4)
    steps = solver.run(energy, context, gradient=NoGradient()).steps
    left = []
    for logits in solver.trajectory(energy, context):
        slope = energy.gradient(torch.sigmoid(logits), context) + energy.tau * logits
        left.append(residual(energy, logits, slope))
    assert len(set(steps.tolist())) > 1
    assert steps.tolist() == (torch.stack(left) <= 1e-4).int().argmax(0).tolist()


def test_projected_gradient_is_done_where_the_margin_stops_it():
    """A sure label wants beyond the margin for ever: only what the projection leaves counts."""
    energy = SPEN(F, L, num_measurements=3).double()
    with torch.no_grad():
        energy.unary.bias.fill_(-9.0)
    context = energy.condition(torch.zeros(2, F, dtype=torch.float64))
    solver = ProjectedGradient(50, margin=0.1, step_size=0.05, tolerance=1e-6)
    found = solver.run(energy, context, gradient=NoGradient())
    assert found.steps.max() < 50
    torch.testing.assert_close(torch.sigmoid(found.logits), torch.full((2, L), 0.1, dtype=torch.float64))


def test_finished_documents_cost_nothing():
    energy = ENERGIES["pairs"]()
    context = energy.condition(_features())
    energy.gradients.clear()
    steps = SOLVERS["mirror"](tolerance=1e-4).run(energy, context, gradient=NoGradient()).steps
    assert steps.max() < 200
    assert energy.gradients == sorted(energy.gradients, reverse=True)
    assert sum(energy.gradients) == (steps + 1).sum().item()


def test_each_document_takes_the_steps_it_takes_alone():
    energy = ENERGIES["pairs"]()
    features = _features()
    for options in ({}, {"line_search": True, "step_size": 3.0}):
        solver = SOLVERS["mirror"](tolerance=1e-4, **options)
        together = solver.run(energy, energy.condition(features), gradient=NoGradient())
        for row in range(6):
            alone = solver.run(energy, energy.condition(features[row : row + 1]), gradient=NoGradient())
            assert alone.steps.item() == together.steps[row].item()
            torch.testing.assert_close(alone.logits[0], together.logits[row])


def test_unrolling_takes_all_steps_whole():
    energy = ENERGIES["spen"]()
    context = energy.condition(_features())
    plain = infer(energy, context, solver=MirrorDescent(20, step_size=0.5), gradient=Unroll())
    solver = MirrorDescent(20, step_size=0.5, tolerance=0.1, line_search=True)
    assert torch.equal(infer(energy, context, solver=solver, gradient=Unroll()).logits, plain.logits)
    assert infer(energy, context, solver=solver, gradient=NoGradient()).steps.max() < 20


def test_implicit_stops_forward_as_prediction_does():
    energy = ENERGIES["icnn"]()
    context = energy.condition(_features())
    solver = MirrorDescent(200, step_size=0.5, tolerance=1e-6)
    implicit = infer(energy, context, solver=solver, gradient=Implicit())
    assert torch.equal(implicit.steps, infer(energy, context, solver=solver, gradient=NoGradient()).steps)
    assert implicit.steps.max() < 200
    assert implicit.logits.requires_grad


def _stiff() -> ICNN:
    energy = ICNN(F, L, hidden=(3, 4)).double()
    with torch.no_grad():
        energy.measure.mul_(3)
        energy.head.output.mul_(30)
    return energy


@pytest.mark.parametrize("known", [False, True], ids=["free", "observed"])
@pytest.mark.parametrize("solver", ["mirror", "gradient", "projected"])
def test_line_search_converges_where_whole_steps_do_not(solver, known):
    energy, observed = _stiff(), _known() if known else None
    context = energy.condition(_features())
    options = {"mirror": {"step_size": 4.0}, "gradient": {"step_size": 30.0}, "projected": {"step_size": 0.3}}[solver]
    exact = infer(
        energy, context, solver=MirrorDescent(4_000, step_size=0.02), gradient=NoGradient(), observed=observed
    ).energy
    whole = infer(energy, context, solver=SOLVERS[solver](**options), gradient=NoGradient(), observed=observed).energy
    searched = infer(
        energy,
        context,
        solver=SOLVERS[solver](line_search=True, tolerance=1e-7, **options),
        gradient=NoGradient(),
        observed=observed,
    ).energy
    assert (whole - exact).max() > 0.1
    assert ((searched - exact).abs() < 1e-3).all()


@pytest.mark.parametrize("domain", [None, Simplex(3), Euclidean()], ids=["box", "simplex", "euclidean"])
@pytest.mark.parametrize("kind", [MirrorDescent, GradientDescent])
def test_energy_never_rises_along_a_line_search(kind, domain):
    energy = Pairs(domain).double()
    with torch.no_grad():
        energy.pairs.mul_(8)
    context = energy.condition(_features())
    last = energy(energy.initial_logits(context), context)
    for steps in range(1, 12):
        solver = kind(steps, step_size=5.0, line_search=True)
        found = infer(energy, context, solver=solver, gradient=NoGradient()).energy
        assert (found <= last + 1e-12 * (1 + last.abs())).all()
        last = found


def test_line_search_asks_only_about_documents_that_still_search():
    energy = Pairs().double()
    with torch.no_grad():
        energy.pairs.mul_(5)
    context = energy.condition(_features())
    energy.energies.clear()
    MirrorDescent(1, step_size=2.0, line_search=True).run(energy, context, gradient=NoGradient())
    start, *trials = energy.energies
    assert start == trials[0] == 6
    assert len(trials) > 1
    assert trials == sorted(trials, reverse=True)
    assert trials[-1] < 6


def test_rounding_of_the_energy_does_not_end_a_line_search_short():
    """In float32 steps smaller than 1e-3 change no energy: they are taken, as the slope still points down."""
    energy = _stiff().float()
    context = energy.condition(_features().float())
    solver = MirrorDescent(300, step_size=1.0, line_search=True, tolerance=1e-5)
    found = infer(energy, context, solver=solver, gradient=NoGradient(), tolerance=1e-5)
    assert found.steps.max() < 300
    assert found.converged.all()


def test_a_document_without_a_step_down_leaves():
    """Here because its energy is not finite; the others go on as without it."""
    energy = ENERGIES["pairs"]()
    features = _features()
    solver = MirrorDescent(100, step_size=1.0, line_search=True, tolerance=1e-4)
    expected = infer(energy, energy.condition(features), solver=solver, gradient=NoGradient())
    features[1] = torch.inf
    found = infer(energy, energy.condition(features), solver=solver, gradient=NoGradient())
    assert found.finite.tolist() == [True, False, True, True, True, True]
    assert found.steps[1] == 0
    kept = torch.tensor([0, 2, 3, 4, 5])
    assert torch.equal(found.steps[kept], expected.steps[kept])
    torch.testing.assert_close(found.y[kept], expected.y[kept])


@pytest.mark.parametrize("options", [{"tolerance": 1e-3}, {"line_search": True}, {"line_search": True, "tolerance": 1}])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("labels", [1, 3])
def test_edge_sizes(options, solver, batch, steps, labels):
    energy = SPEN(F, labels, num_measurements=6)
    context = energy.condition(torch.randn(batch, F))
    result = infer(energy, context, solver=SOLVERS[solver](steps=steps, **options), gradient=NoGradient())
    assert result.logits.shape == (batch, labels)
    assert (result.steps <= steps).all()
    assert result.finite.all()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_prediction_works_without_gradients(guard):
    energy = ICNN(F, L, hidden=(3, 4), dropout=0.3).train()
    features = torch.randn(3, F)
    with guard():
        solver = MirrorDescent(100, step_size=0.5, tolerance=1e-5, line_search=True)
        result = infer(energy, energy.condition(features), solver=solver, gradient=NoGradient())
    assert result.converged.all()
    assert result.steps.max() < 100


def test_learned_step_sizes_are_where_the_search_starts():
    energy = ENERGIES["icnn"]()
    context = energy.condition(_features())
    solver = MirrorDescent(60, step_size=0.5, learn_step_sizes=True, tolerance=1e-4, line_search=True).double()
    found = infer(energy, context, solver=solver, gradient=NoGradient())
    assert found.converged.all()
    assert not found.logits.requires_grad


def test_a_context_whose_rows_are_unclear_is_named():
    class Shared(Pairs):
        def condition(self, features):
            return super().condition(features) | {"shared": torch.zeros(L + 2)}

    energy = Shared().double()
    with pytest.raises(ShapeError, match=r"Shared.select: the context's tensors have \[6, 8\] rows.*override `select`"):
        infer(energy, energy.condition(_features()), solver=SOLVERS["mirror"](tolerance=0.1), gradient=NoGradient())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tolerance": -0.1}, "solver.tolerance"), ({"line_search": True, "momentum": 0.5}, "momentum 0")],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MirrorDescent(**options)


def test_a_start_beyond_the_margin_does_not_end_the_search():
    """Inside the margin all may be higher than where an unprojected start would be."""
    energy = ICNN(F, L, hidden=(4, 4)).double()
    with torch.no_grad():
        energy.measure.normal_()
    context = energy.condition(5 * torch.randn(8, F, dtype=torch.float64))
    solver = ProjectedGradient(20, step_size=0.01, margin=0.05, line_search=True)
    assert solver.run(energy, context, gradient=NoGradient()).steps.tolist() == [20] * 8
