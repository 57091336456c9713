"""The compiled engine: the same numbers as uncompiled, and a word where something stays uncompiled."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from torch import nn

from energynets import ICNN, SPEN, GradientDescent, MirrorDescent
from energynets.energies import Box, Euclidean, MeasuredEnergy
from energynets.errors import NotCompiledWarning
from energynets.inference import Observed, compiled_engine, general_path
from energynets.inference.engine import compiled, mirror_descent, solve

F, L, B = 6, 11, 5
CASES = {
    "spen": (lambda: SPEN(F, L, num_measurements=4), {}),
    "deep": (lambda: SPEN(F, L, num_measurements=4, hidden=(3,), condition_measurements=True, dropout=0.3), {}),
    "icnn": (lambda: ICNN(F, L, hidden=(3, 4)), {"step_size": 0.5, "momentum": 0.4}),
    "gated": (lambda: ICNN(F, L, hidden=(3, 4), gate=True), {"learn_step_sizes": True}),
    "learned": (lambda: SPEN(F, L, learn_tau=True), {"learn_step_sizes": True, "momentum": 0.4, "initial": "uniform"}),
    "euclidean": (lambda: SPEN(F, L, num_measurements=4, domain=Euclidean()), {"step_size": 0.1}),
    "bf16": (lambda: SPEN(F, L, num_measurements=4), {"precision": "bf16"}),
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Its own graphs and its own warnings, and torch operations to compare with: native code sums in another order."""
    monkeypatch.setattr(solve, "takes", lambda *_: False)
    torch.manual_seed(0)
    monkeypatch.setattr(compiled, "_graphs", {})
    monkeypatch.setattr(compiled, "_told", set())
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced and run, but not turned into machine code, which is what takes long."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")


def step(energy, solver, features, wanted, observed=None):
    """Logits and all gradients."""
    torch.manual_seed(1)
    with compiled_engine(wanted):
        logits = solver.solve(energy, energy.condition(features), observed=observed)
        parameters = [features, *energy.parameters(), *solver.parameters()]
        gradients = torch.autograd.grad(logits.square().sum(), parameters)
    return [logits.detach(), *gradients]


def agree(name, dtype, observed=None, **tolerance):
    make, options = CASES[name]
    energy, solver = make().to(dtype), MirrorDescent(2, **options).to(dtype)
    for _ in range(2):  # the second call is one of the graph alone
        features = torch.randn(B, F, dtype=dtype, requires_grad=True)
        found = step(energy, solver, features, True, observed)
        torch.testing.assert_close(found, step(energy, solver, features, False, observed), **tolerance)
        with torch.no_grad():  # what a training step changes must not be part of a graph
            for parameter in (*energy.parameters(), *solver.parameters()):
                parameter.mul_(0.9)
    assert len(compiled._graphs) == 2
    assert None not in compiled._graphs.values()


@pytest.mark.parametrize("name", CASES)
def test_traced_engine_equals_the_engine(name, traced):
    agree(name, torch.float64, rtol=1e-10, atol=1e-12)


def test_known_labels_are_inputs_of_the_graph(traced):
    energy, solver = SPEN(F, L), MirrorDescent(2)
    features = torch.randn(B, F, requires_grad=True)
    for _ in range(2):
        known = Observed(torch.randint(2, (B, L)).float(), torch.rand(B, L) < 0.3)
        found = step(energy, solver, features, True, known)
        torch.testing.assert_close(found, step(energy, solver, features, False, known))
    assert len(compiled._graphs) == 2


def test_another_setting_or_shape_is_another_graph(traced):
    energy = SPEN(F, L)
    for rows, options in ((B, {}), (B + 1, {}), (B, {"step_size": 0.5})):
        features, solver = torch.randn(rows, F, requires_grad=True), MirrorDescent(2, **options)
        torch.testing.assert_close(
            step(energy, solver, features, True), step(energy, solver, features, False), rtol=1e-4, atol=1e-6
        )
    assert len(compiled._graphs) == 6


def test_beyond_the_graphs_kept_the_engine_runs_uncompiled_and_says_so_once(traced, monkeypatch):
    monkeypatch.setattr(compiled, "KEPT", 1)
    energy, solver = SPEN(F, L), MirrorDescent(2)
    step(energy, solver, torch.randn(B, F, requires_grad=True), True)
    features = torch.randn(B + 1, F, requires_grad=True)
    with pytest.warns(NotCompiledWarning, match="more than 1 shapes"):
        found = step(energy, solver, features, True)
    torch.testing.assert_close(found, step(energy, solver, features, False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(energy, solver, features, True)


def test_without_a_compiler_the_engine_runs_uncompiled_and_says_so_once(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    energy, solver, features = SPEN(F, L), MirrorDescent(2), torch.randn(B, F, requires_grad=True)
    with pytest.warns(NotCompiledWarning) as caught:
        found = step(energy, solver, features, True)
    assert [str(w.message) for w in caught] == ["not compiled, runs as it is: RuntimeError: no C++ compiler"]
    torch.testing.assert_close(found, step(energy, solver, features, False))
    step(energy, solver, features, True)  # silent now


class OwnBox(Box):
    pass


class OwnHead(nn.Module):
    def forward(self, measurements):
        return measurements.tanh().sum(-1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MeasuredEnergy(F, L, 3, OwnHead()), "a head without a closed form"),
        (lambda: SPEN(F, L, domain=OwnBox()), "the domain OwnBox"),
    ],
)
def test_what_cannot_be_compiled_is_named(make, reason):
    energy, solver, features = make(), MirrorDescent(3), torch.randn(B, F, requires_grad=True)
    with pytest.warns(NotCompiledWarning, match=reason):
        found = step(energy, solver, features, True)
    torch.testing.assert_close(found, step(energy, solver, features, False))


def test_losses_of_every_step_stay_uncompiled():
    energy, solver = SPEN(F, L), MirrorDescent(2)
    context = energy.condition(torch.randn(B, F))
    with compiled_engine(), pytest.warns(NotCompiledWarning, match="reads every step"):
        _, loss = mirror_descent(solver, energy, context, context.unary, None, lambda _, z: z.square().sum())
    loss.backward()
    assert compiled._graphs == {}


@pytest.mark.parametrize(
    ("solver", "reason"),
    [(GradientDescent(2), "GradientDescent, whose"), (MirrorDescent(2), "the general path of SPEN")],
)
def test_other_solvers_and_the_general_path_say_so(solver, reason):
    energy, features = SPEN(F, L), torch.randn(B, F, requires_grad=True)
    with general_path() if isinstance(solver, MirrorDescent) else contextlib.nullcontext():
        with pytest.warns(NotCompiledWarning, match=reason):
            found = step(energy, solver, features, True)
        torch.testing.assert_close(found, step(energy, solver, features, False))


def test_prediction_compiles_nothing():
    energy = SPEN(F, L)
    with compiled_engine(), torch.no_grad():
        MirrorDescent(3).solve(energy, energy.condition(torch.randn(B, F)))
    assert compiled._graphs == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["spen", "deep", "icnn", "gated"])
def test_compiled_engine_equals_the_engine(name, dtype):
    double = dtype == torch.float64
    agree(name, dtype, **({"rtol": 1e-10, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-5}))
