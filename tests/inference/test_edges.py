"""What is easily taken for something else: heads that override, that draw, an autocast, what a trace is of."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from energynets import (
    ICNN,
    SPEN,
    Anderson,
    BundleEntropy,
    Classifier,
    EndToEnd,
    EnergyNetwork,
    GradientDescent,
    MeasuredEnergy,
    MirrorDescent,
    NoGradient,
    infer,
)
from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.energies import Euclidean, SoftplusHead
from energynets.errors import ConfigError, InferenceError, ShapeError
from energynets.inference import GradientMode, Implicit, Observed, Solver, Truncated, Unroll, general_path, path
from energynets.inference.engine import label_native
from energynets.output import ChunkedLinear


class _WithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(6, 4), nn.Dropout(0.5)
        self.output = nn.Parameter(torch.randn(4))

    def forward(self, measurements: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.linear(measurements))) @ self.output


def test_a_head_with_dropout_takes_the_general_path_in_training() -> None:
    """Its slope is made again in the backward pass, and would be of another mask."""
    energy = MeasuredEnergy(4, 5, 6, _WithDropout())
    assert "has dropout" in path(energy, MirrorDescent(3)).reason
    assert path(energy.eval(), MirrorDescent(3)).fast


@pytest.mark.parametrize("keep_unary", [False, True])
def test_a_head_whose_dropout_comes_on_later_has_no_labels_in_chunks(keep_unary: bool) -> None:
    energy = MeasuredEnergy(4, 7, 6, _WithDropout()).eval()
    model = EnergyNetwork(_Layer(5, 4), energy, MirrorDescent(3), label_chunk=3, keep_unary=keep_unary)
    batch = Batch(torch.randn(3, 5), _labels(), torch.arange(3))
    model.train()
    with pytest.raises(ConfigError, match="label_chunk: needs the engine's path, and _WithDropout has dropout"):
        EndToEnd()(model, batch)
    model.eval()
    EndToEnd()(model, batch).backward()


def test_a_head_whose_dropout_comes_on_later_moves_a_shortlist() -> None:
    """By plain steps, whose masks autograd keeps: the gradient is that of what was drawn."""
    torch.manual_seed(0)
    energy = MeasuredEnergy(4, 7, 6, _WithDropout()).eval()
    model = EnergyNetwork(_Layer(5, 4), energy, MirrorDescent(3), shortlist=4).double().train()
    batch = Batch(torch.randn(3, 5).double(), _labels(), torch.arange(3))

    def loss() -> Tensor:
        torch.manual_seed(1)
        return EndToEnd()(model, batch)

    (gradient,) = torch.autograd.grad(loss(), energy.measure)
    step = 1e-6 * torch.randn_like(gradient)
    with torch.no_grad():
        energy.measure += step
        more = loss()
        energy.measure -= 2 * step
        expected = more - loss()
    torch.testing.assert_close(2 * (gradient * step).sum(), expected, rtol=1e-5, atol=1e-10)


class _Steeper(SoftplusHead):
    def forward(self, measurements: Tensor) -> Tensor:
        return super().forward(measurements) + measurements.square().sum(-1) / 2


class _SteeperToo(_Steeper):
    def gradient(self, measurements: Tensor) -> Tensor:
        return super().gradient(measurements) + measurements


@pytest.mark.parametrize("head", [_Steeper, _SteeperToo])
def test_a_head_that_overrides_is_not_taken_for_its_base(head: type[SoftplusHead]) -> None:
    torch.manual_seed(0)
    energy = MeasuredEnergy(4, 5, 6, head(6)).double()
    context = energy.condition(torch.randn(3, 4, dtype=torch.float64))
    y = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(energy.potential(y, context).sum(), y)
    torch.testing.assert_close(energy.gradient(y, context), expected)
    with general_path():
        slow = MirrorDescent(4).solve(energy, context)
    torch.testing.assert_close(MirrorDescent(4).solve(energy, context), slow)


def test_an_autocast_takes_the_general_path() -> None:
    energy = SPEN(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in path(energy, MirrorDescent(4)).reason
        found = MirrorDescent(4).solve(energy, energy.condition(torch.randn(3, 4)))
    assert found.isfinite().all()


class _Layer(nn.Linear):
    num_features = 4


def _labels() -> SparseBatch:
    return SparseBatch(torch.tensor([1, 4, 0]), torch.ones(3), torch.tensor([0, 2, 2, 3]), 7)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda features: EnergyNetwork(features, SPEN(4, 7), MirrorDescent(3), label_chunk=3),
        lambda features: EnergyNetwork(features, SPEN(4, 7), MirrorDescent(3), label_chunk=3, keep_unary=True),
        lambda features: EnergyNetwork(features, SPEN(4, 7), MirrorDescent(3), shortlist=4),
        lambda features: EnergyNetwork(features, SPEN(4, 7), MirrorDescent(3), label_chunk=3, shortlist=4),
        lambda features: Classifier(features, 7, output=ChunkedLinear(4, 7, chunk=3)),
        lambda features: Classifier(features, 7, output=ChunkedLinear(4, 7, chunk=3, weights="bf16", bias=False)),
    ],
    ids=["chunks", "kept unary", "shortlist", "shortlist in chunks", "chunked output", "bf16 weights"],
)
def test_an_autocast_ends_where_features_do(make: Any, within: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what has its labels in chunks; `within`: the backward pass, of torch operations, is under it too."""
    if within:
        monkeypatch.setattr(label_native, "take", lambda *given: False)
    torch.manual_seed(0)
    x, autocast = torch.randn(3, 5), torch.autocast("cpu", torch.bfloat16)
    with autocast:
        model = make(_Layer(5, 4))
        f = CachedFeatures(model.features(x).detach().float())
        loss = EndToEnd()(model, Batch(x, _labels(), torch.arange(3)))
        if within:
            loss.backward()
        found = model.top_k(x, 3)
        for chunk in model.logits_in_chunks(x):
            assert chunk.dtype == torch.float32
            assert torch.is_autocast_enabled("cpu")
    if not within:
        loss.backward()
    assert all(weight.grad is not None for weight in model.features.parameters())
    own = [weight for name, weight in model.named_parameters() if not name.startswith("features")]
    expected = EndToEnd()(model, Batch(f, _labels(), torch.arange(3)))
    assert torch.equal(loss, expected)
    # A shortlist's steps are torch's own, whose backward pass takes what autocast there is.
    bound = 2e-2 if within and getattr(model, "shortlist", None) else 1e-6
    for weight, gradient in zip(own, torch.autograd.grad(expected, own), strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=bound, atol=bound)
    best = model.top_k(f, 3)
    assert torch.equal(found.labels, best.labels)
    assert torch.equal(found.logits, best.logits)


@pytest.mark.parametrize("options", [{"line_search": True, "step_size": 4.0}, {"tolerance": 1e-2}])
def test_a_trace_is_of_the_descent_that_was_run(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    energy = SPEN(4, 5)
    nn.init.normal_(energy.measure, std=3.0)
    context, solver = energy.condition(torch.randn(6, 4)), MirrorDescent(10, **options)
    found = infer(energy, context, solver=solver, gradient=NoGradient(), trace=True)
    assert found.trace is not None
    assert found.trace.energies.shape == (11, 6)
    torch.testing.assert_close(found.trace.energies[-1], found.energy)


def test_labels_that_were_known_start_anew() -> None:
    torch.manual_seed(0)
    energy = SPEN(4, 5)
    context, solver = energy.condition(torch.randn(3, 4)), GradientDescent(300, step_size=3.0)
    known = Observed(torch.ones(3, 5), torch.tensor([True, False, False, False, False]).expand(3, 5))
    again = infer(energy, context, solver=solver, initial=infer(energy, context, observed=known))
    torch.testing.assert_close(again.y, infer(energy, context, solver=solver).y, rtol=1e-3, atol=1e-3)


def test_losses_of_every_step_without_a_graph() -> None:
    energy = SPEN(4, 5)
    context = energy.condition(torch.randn(3, 4))

    def loss(step: int, logits: Tensor) -> Tensor:
        return logits.sum()

    for solver in (Anderson(4), MirrorDescent(4)):
        logits, total = solver.solve_with_losses(energy, context, loss, gradient=NoGradient())
        assert not logits.requires_grad
        assert not total.requires_grad


@pytest.mark.parametrize("solver", [MirrorDescent(4, step_size=0.5), MirrorDescent(4, step_size=0.5, momentum=0.3)])
def test_known_numbers_have_their_gradient(solver: MirrorDescent) -> None:
    """The engine takes them for constants."""
    torch.manual_seed(0)
    energy = SPEN(4, 6, num_measurements=3, domain=Euclidean()).double()
    features, mask = torch.randn(5, 4).double(), torch.rand(5, 6) < 0.4

    def energy_of(values: Tensor) -> Tensor:
        return solver.solve(energy, energy.condition(features), observed=Observed(values, mask)).square().sum()

    values = torch.randn(5, 6).double().requires_grad_()
    (gradient,) = torch.autograd.grad(energy_of(values), values)
    step = 1e-6 * torch.randn(5, 6).double()
    with torch.no_grad():
        expected = energy_of(values + step) - energy_of(values - step)
    torch.testing.assert_close(2 * (gradient * step).sum(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("gradient", "said"),
    [
        (NoGradient, r"the class NoGradient: call it, NoGradient\(\)"),
        ("implicit", "got 'implicit'"),
        (False, "got False"),
    ],
)
@pytest.mark.parametrize("solver", [MirrorDescent(2), GradientDescent(2), Anderson(2), BundleEntropy(2)], ids=str)
def test_what_is_no_gradient_mode_does_not_count_as_one(solver: Solver, gradient: Any, said: str) -> None:
    energy = ICNN(4, 5)
    context = energy.condition(torch.randn(3, 4))
    message = rf"gradient: expected Unroll\(\), Truncated\(k\), Implicit\(\) or NoGradient\(\), got .*{said[4:]}"
    for call in (
        lambda: infer(energy, context, solver=solver, gradient=gradient),
        lambda: solver.solve(energy, context, gradient=gradient),
        lambda: solver.run(energy, context, gradient=gradient),
        lambda: solver.solve_with_losses(energy, context, lambda step, z: z.sum(), gradient=gradient),
        lambda: EnergyNetwork(_Layer(5, 4), energy, solver, gradient),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.mark.parametrize(
    ("solver", "said"),
    [(MirrorDescent, r"the class MirrorDescent: call it, MirrorDescent\(\)"), ("anderson", "'anderson'")],
)
def test_what_is_no_solver_is_refused(solver: Any, said: str) -> None:
    energy = SPEN(4, 5)
    with pytest.raises(ConfigError, match=f"solver: expected a Solver, .*, got {said}"):
        infer(energy, energy.condition(torch.randn(3, 4)), solver=solver)
    with pytest.raises(ConfigError, match=f"solver: expected a Solver, .*, got {said}"):
        EnergyNetwork(_Layer(5, 4), energy, solver)


def test_a_model_that_would_not_train_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got NoGradient\(\): nothing would train"):
        EnergyNetwork(_Layer(5, 4), SPEN(4, 5), gradient=NoGradient())  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("options", [{}, {"tolerance": 1e-3}, {"line_search": True}])
def test_known_values_of_another_dtype_are_as_good(other: torch.dtype, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    energy = SPEN(4, 5)
    context = energy.condition(torch.randn(3, 4))
    values, mask = torch.randint(2, (3, 5)).float(), torch.rand(3, 5) < 0.5

    def found(known: Observed) -> list[Tensor]:
        solver = MirrorDescent(3, **options)
        return [
            solver.solve(energy, context, observed=known),
            solver.solve(energy, context, observed=known, gradient=NoGradient()),
            *solver.trajectory(energy, context, observed=known),
            *solver.solve_with_losses(energy, context, lambda step, z: z.sum(), observed=known),
            infer(energy, context, solver=solver, observed=known, trace=True).y,
        ]

    for within in (contextlib.nullcontext, general_path):
        with within():
            pairs = zip(found(Observed(values.to(other), mask)), found(Observed(values, mask)), strict=True)
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


SOLVERS = [MirrorDescent(2), GradientDescent(2), Anderson(2), BundleEntropy(2), MirrorDescent(2, tolerance=1e-3)]


@pytest.mark.parametrize("gradient", [Unroll(), NoGradient()], ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_what_does_not_fit_is_said_in_one_line(solver: Solver, gradient: GradientMode) -> None:
    energy, features = ICNN(4, 5), torch.randn(3, 4)
    context, mask = energy.condition(features), torch.rand(3, 5) < 0.5

    def refused(message: str, *given: Any, **options: Any) -> None:
        with pytest.raises(ShapeError, match=message) as caught:
            infer(energy, *given, solver=solver, gradient=gradient, **options)
        assert "\n" not in str(caught.value)

    refused(r"got a Tensor: pass energy\.condition\(features\)", features)
    refused(r"got a Tensor: pass energy\.condition\(features\)", features, initial=torch.zeros(3, 5))
    for known in (mask, mask[:2], {"values": mask, "mask": mask}, (mask,), True):
        refused(r"observed: expected Observed\(values, mask\), two tensors \(B, L\), got a", context, observed=known)
    refused(r"two tensors \(B, L\), got list and Tensor", context, observed=([0] * 5, mask))
    refused(r"expected torch.float32, as phi is, got torch.float64", context, initial=torch.zeros(3, 5).double())
    refused(r"expected a row for each of the context's 3 documents, got 2", context, initial=torch.zeros(2, 5))
    refused(r"initial logits: expected a tensor \(B, 5\), got a list", context, initial=[[0.0] * 5] * 3)
    infer(energy, context, solver=solver, gradient=gradient, observed=(mask.float(), mask))  # type: ignore[arg-type]


def test_z_0_of_another_dtype_is_what_an_autocast_makes_of_it() -> None:
    energy = SPEN(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        context = energy.condition(torch.randn(3, 4))
        assert context.unary.dtype == torch.bfloat16
        assert MirrorDescent(2).solve(energy, context, torch.zeros(3, 5)).isfinite().all()


BY_THEMSELVES = [Anderson(3), BundleEntropy(3), MirrorDescent(3, tolerance=1e-3), MirrorDescent(3, line_search=True)]


@pytest.mark.parametrize("solver", [*BY_THEMSELVES, MirrorDescent(3)], ids=str)
def test_transforms_that_inference_cannot_go_through_say_what_can(solver: Solver) -> None:
    energy, features = ICNN(4, 5), torch.randn(3, 4)

    def total(x: Tensor, gradient: GradientMode) -> Tensor:
        return solver.solve(energy, energy.condition(x), gradient=gradient).sum()

    func: Any = torch.func
    modes = [Implicit(), Unroll()] if isinstance(solver, BundleEntropy) else [Implicit()]
    for mode in modes:
        of = functools.partial(total, gradient=mode)
        alone = lambda x, of=of: of(x[None])  # noqa: E731
        for call in (
            lambda of=of: func.grad(of)(features),
            lambda of=of: func.jvp(of, (features,), (features,)),
            lambda alone=alone: func.vmap(alone)(features),
            lambda alone=alone: func.vmap(func.grad(alone))(features),
        ):
            with pytest.raises(InferenceError, match=r"torch\.func.*; use MirrorDescent with Unroll\(\)"):
                call()
    none = functools.partial(total, gradient=NoGradient())
    assert func.grad(none)(features).eq(0).all()
    if solver in BY_THEMSELVES:
        for within in (lambda x: none(x[None]), func.grad(lambda x: none(x[None]))):
            with pytest.raises(InferenceError, match=r"vmap.*; use MirrorDescent with Unroll\(\)"):
                func.vmap(within)(features)


@pytest.mark.parametrize("mode", [Unroll(), Truncated(2)], ids=str)
@pytest.mark.parametrize("solver", [MirrorDescent(3), GradientDescent(3), Anderson(3)], ids=str)
def test_transforms_go_through_every_descent(solver: Solver, mode: GradientMode) -> None:
    torch.manual_seed(0)
    energy, features = ICNN(4, 5).double(), torch.randn(3, 4).double().requires_grad_()

    def total(x: Tensor) -> Tensor:
        return solver.solve(energy, energy.condition(x), gradient=mode).square().sum()

    (expected,) = torch.autograd.grad(total(features), features)
    func: Any = torch.func
    found = func.vmap(func.grad(lambda x: total(x[None])))(features.detach())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MirrorDescent(steps=-1), "solver.steps: expected a whole number, 0 or more, got -1"),
        (lambda: MirrorDescent(steps=10.0), "solver.steps: expected a whole number, 0 or more, got 10.0"),  # type: ignore[arg-type]
        (lambda: MirrorDescent(2, step_size="a"), "solver.step_size: expected a number, or one for each step, got 'a'"),  # type: ignore[arg-type]
        (lambda: MirrorDescent(2, step_size=None), "solver.step_size: expected a number"),  # type: ignore[arg-type]
        (lambda: MirrorDescent(2, step_size=torch.ones((), requires_grad=True)), "learn_step_sizes=True"),  # type: ignore[arg-type]
        (lambda: MirrorDescent(3, step_size=(1.0, 1.0)), "expected 3 step sizes, one a step, got 2"),
        (lambda: Anderson(2.5), "steps and window to be whole numbers, 0 or more, got 2.5"),  # type: ignore[arg-type]
        (lambda: Anderson(window=2.5), "steps and window to be whole numbers"),  # type: ignore[arg-type]
        (lambda: BundleEntropy(2.5), "whole steps, 0 or more, and a positive tolerance, got 2.5"),  # type: ignore[arg-type]
        (lambda: Truncated(1.5), "truncated: expected one step or more, a whole number, got 1.5"),  # type: ignore[arg-type]
        (lambda: Implicit(max_iterations=1.5), "implicit: "),  # type: ignore[arg-type]
    ],
)
def test_numbers_that_are_none_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "size", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), [0.5, 0.5], torch.full((2,), 0.5)]
)
def test_a_step_size_is_a_number_of_any_make(size: Any) -> None:
    assert MirrorDescent(np.int64(2), step_size=size).step_sizes() == [0.5, 0.5]  # type: ignore[arg-type]


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("solver", [MirrorDescent(30), Anderson(10), BundleEntropy(30)], ids=str)
@pytest.mark.filterwarnings("ignore::energynets.errors.NotConvergedWarning")
def test_a_fixed_point_under_an_autocast_is_differentiated_in_full_precision(solver: Solver, gate: bool) -> None:
    torch.manual_seed(0)
    energy, features = ICNN(4, 5, gate=gate), torch.randn(3, 4)
    expected = _gradients(energy, solver.solve(energy, energy.condition(features), gradient=Implicit()))
    with torch.autocast("cpu", torch.bfloat16):
        logits = solver.solve(energy, energy.condition(features), gradient=Implicit())
        assert logits.dtype == torch.bfloat16
    for found, exact in zip(_gradients(energy, logits), expected, strict=True):
        assert (found - exact).norm() <= 0.05 * exact.norm() + 1e-3


def _gradients(energy: nn.Module, logits: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(logits.float().sigmoid().square().sum(), list(energy.parameters()))


@pytest.mark.parametrize("gradient", [Unroll(), Implicit(tolerance=0.1), NoGradient()], ids=str)
@pytest.mark.parametrize("solver", [Anderson(6), BundleEntropy(30)], ids=str)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::energynets.errors.NotConvergedWarning")
def test_small_systems_of_half_precision_are_solved(solver: Solver, gradient: GradientMode, seed: int) -> None:
    torch.manual_seed(seed)
    energy, features = ICNN(4, 5), torch.randn(3, 4)
    exact = solver.solve(energy, energy.condition(features), gradient=NoGradient())
    energy.bfloat16()
    found = solver.solve(energy, energy.condition(features.bfloat16()), gradient=gradient)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float().sigmoid(), exact.sigmoid(), rtol=0, atol=0.03)
