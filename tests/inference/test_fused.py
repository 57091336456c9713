"""The native descent against the general path, and what happens where it cannot be had."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from energynets.energies import ICNN, SPEN, ConvexHead, Euclidean, MeasuredEnergy, SoftplusHead
from energynets.energies.measured import MeasuredContext
from energynets.errors import ShapeError
from energynets.inference import GradientDescent, MirrorDescent, NoGradient, Observed, general_path, infer, path
from energynets.inference.engine import fused, native

F = 6
pytestmark = pytest.mark.skipif(
    isinstance(native.library(torch.float64), str), reason=f"no native code: {native.library(torch.float64)}"
)
ENERGIES = {
    "spen": lambda labels: SPEN(F, labels, num_measurements=16),
    "conditioned": lambda labels: SPEN(
        F, labels, num_measurements=5, condition_measurements=True, tau=0.7, learn_tau=True
    ),
    "deep": lambda labels: SPEN(F, labels, num_measurements=7, hidden=(9, 4)),
    "dropout": lambda labels: SPEN(F, labels, num_measurements=20, dropout=0.4),
    "icnn": lambda labels: ICNN(F, labels, hidden=(9, 4)),
    "three layers": lambda labels: ICNN(F, labels, hidden=(17, 8, 5), nonnegativity="reparametrization", dropout=0.3),
}
SOLVERS = {
    "one step": lambda: MirrorDescent(1),
    "mean field": lambda: MirrorDescent(4),
    "momentum": lambda: MirrorDescent(5, step_size=0.4, momentum=0.3),
    "learned": lambda: MirrorDescent(3, step_size=0.6, momentum=0.2, learn_step_sizes=True),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def everything(energy, solver, features, initial, observed):
    """Logits and the gradients of every parameter, of the features and of z_0."""
    torch.manual_seed(1)  # one dropout mask
    features, initial = features.clone().requires_grad_(), initial and initial[0].clone().requires_grad_()
    logits = solver.solve(energy, energy.condition(features), initial, observed=observed)
    wanted = [*energy.parameters(), *solver.parameters(), features, *([] if initial is None else [initial])]
    loss = (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum()
    return logits.detach(), *torch.autograd.grad(loss + logits.sigmoid().square().sum(), wanted, materialize_grads=True)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 33), (17, 159), (61, 40)], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("energy", ENERGIES)
def test_equals_the_general_path(energy, solver, size):
    batch, labels = size
    energy, solver = ENERGIES[energy](labels).double(), SOLVERS[solver]().double()
    assert path(energy, solver).reason.endswith("native code")
    for setting in ({"tolerance": 1e-3}, {"line_search": True}):
        assert (
            f"with {next(iter(setting))} prediction is torch operations"
            in path(energy, MirrorDescent(2, **setting)).reason
        )
    features = torch.randn(batch, F).double()
    known = Observed(torch.randint(2, (batch, labels)).double(), torch.rand(batch, labels) < 0.3)
    for initial in (None, (torch.randn(batch, labels).double(),)):
        for observed in (None, known):
            found = everything(energy, solver, features, initial, observed)
            with general_path():
                expected = everything(energy, solver, features, initial, observed)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("energy", ENERGIES)
def test_float32_is_as_exact_as_torchs_operations(energy, monkeypatch):
    energy, solver = ENERGIES[energy](40), MirrorDescent(10)
    features, energy = torch.randn(64, F), energy.eval()
    exact = everything(energy.double(), solver, features.double(), None, None)
    energy.float()
    found = everything(energy, solver, features, None, None)
    monkeypatch.setattr(fused, "LARGEST", 0)
    assert "native code:" in path(energy, solver).reason
    rival = everything(energy, solver, features, None, None)

    def error(tensors):
        return max(float((a - b).norm() / b.norm()) for a, b in zip(tensors, exact, strict=True))

    assert error(found) < 3e-6
    assert error(found) < 4 * error(rival) + 1e-6


def test_same_bits_every_time_and_whether_or_not_gradients_are_kept():
    energy, solver = ICNN(F, 50, hidden=(8, 8)), MirrorDescent(6)
    features = torch.randn(100, F)
    first, second = (everything(energy, solver, features, None, None) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    result = infer(energy, energy.condition(features), solver=solver, gradient=NoGradient())
    assert torch.equal(result.logits, first[0])


def test_documents_do_not_depend_on_their_neighbours_in_a_block():
    energy, solver = SPEN(F, 21), MirrorDescent(4)
    features = torch.randn(11, F)
    together = solver.solve(energy, energy.condition(features))
    context = energy.condition(features)  # products of the unary depend on the batch, these must not
    alone = [solver.solve(energy, context._replace(unary=context.unary[i : i + 1])) for i in range(11)]
    assert torch.equal(together, torch.cat(alone))


def test_extreme_logits_stay_finite_and_non_finite_ones_are_seen():
    energy, solver = SPEN(F, 5), MirrorDescent(2)
    context = energy.condition(torch.randn(4, F))
    unary = torch.tensor([1e4, -1e4, math.inf, math.nan]).repeat_interleave(5).view(4, 5)
    logits = solver.solve(energy, context._replace(unary=unary))
    assert logits[:2].isfinite().all()
    assert not logits[2].isfinite().any()
    assert logits[3].isnan().all()


def test_elementary_functions_reach_into_the_tails():
    """One step of size 1 with h = softplus of one label shows softplus' slope, sigmoid, at any logit."""
    energy = SPEN(F, 1, num_measurements=1).double()
    with torch.no_grad():
        energy.measure.fill_(1.0)
        energy.head.output.fill_(1.0)
    z = torch.linspace(-40, 40, 801, dtype=torch.float64)[:, None]
    context = energy.condition(torch.zeros(801, F).double())._replace(unary=z)
    found = MirrorDescent(1).solve(energy, context)
    torch.testing.assert_close(z - found, torch.sigmoid(torch.sigmoid(z)), rtol=1e-13, atol=2e-14)


class Quadratic(torch.nn.Module):
    def forward(self, m):
        return m.square().sum(-1)


@pytest.mark.parametrize(
    ("energy", "reason"),
    [
        (lambda: ICNN(F, 5, gate=True), "gated"),
        (lambda: SPEN(F, 5, domain=Euclidean()), "Euclidean domain"),
        (lambda: MeasuredEnergy(F, 5, 3, Quadratic()), "Quadratic is not built in"),
        (lambda: SPEN(F, 8_000, num_measurements=128), "so many weights"),
        (lambda: SPEN(F, 5).bfloat16(), "bfloat16"),
    ],
)
def test_what_it_does_not_take_says_why(energy, reason):
    assert reason in str(fused.refusal(energy()))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"ENERGYNETS_NATIVE": "0"}, "ENERGYNETS_NATIVE=0"),
        ({"CC": "no-such-compiler"}, "no-such-compiler"),
        ({"CC": "false"}, "failed"),
        ({"PATH": "/nowhere"}, "no C compiler"),
    ],
)
def test_without_a_compiler_torch_operations_take_its_place(environment, reason, tmp_path):
    code = (
        "import torch; from energynets import SPEN, MirrorDescent; from energynets.inference import path\n"
        "energy = SPEN(4, 3); print(path(energy, MirrorDescent()).reason)\n"
        "MirrorDescent().solve(energy, energy.condition(torch.randn(2, 4))).sum().backward()"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "CC"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(
    ("stale", "message"),
    [
        (lambda context: {"offset": context.offset[:2]}, r"offset .* \(2, 4\)"),
        (lambda context: {"offset": torch.zeros(6, 3)}, r"offset .* \(6, 3\)"),
        (lambda context: {"offset": torch.zeros(4000)}, r"offset .* \(4000,\)"),
        (lambda context: {"unary": context.unary[:, :3]}, r"\(6, 3\)"),
        (lambda context: {"unary": torch.zeros(6, 9)}, r"phi \(B, 5\) .* \(6, 9\)"),
        (lambda context: {"mask": torch.ones(6, 5)}, r"mask .* \(6, 5\)"),
        (lambda context: {"mask": torch.ones(2, 4)}, r"mask .* \(2, 4\)"),
        (lambda context: {"gates": (context.unary,)}, "expected 0 gates"),
    ],
)
@pytest.mark.parametrize("solver", [MirrorDescent(2), GradientDescent(2)])
def test_a_context_that_does_not_fit_is_refused(solver, stale, message):
    """C takes the number of documents from one tensor, and would read past the end of another."""
    energy = SPEN(F, 5, num_measurements=4, condition_measurements=True)
    context = energy.condition(torch.randn(6, F))
    with pytest.raises(ShapeError, match=message):
        solver.solve(energy, context._replace(**stale(context)), torch.zeros(6, 5))


def test_a_context_of_another_energy_is_refused():
    small, large = (SPEN(F, 5, num_measurements=size) for size in (4, 4000))
    with pytest.raises(ShapeError, match="this energy's `condition`"):
        MirrorDescent(3).solve(large, small.condition(torch.randn(3, F)))


@pytest.mark.parametrize("head", [ConvexHead((2, 2)), SoftplusHead(4), SoftplusHead(4, (6,))], ids=str)
def test_a_head_of_another_width_is_refused(head):
    with pytest.raises(ShapeError, match=r"expected one of num_measurements=3, got a .*Head of 4"):
        MeasuredEnergy(F, 6, 3, head)
    energy = MeasuredEnergy(F, 6, 4, head)
    energy.measure, energy.offset = torch.nn.Parameter(torch.randn(3, 6)), torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ShapeError, match="expected one of 3 measurements"):
        MirrorDescent(3).solve(energy, energy.condition(torch.randn(3, F)))


def test_gates_of_another_width_are_refused():
    with pytest.raises(ShapeError, match="add up to num_measurements=4, got"):
        MeasuredEnergy(F, 6, 4, ConvexHead((2, 2)), gate_widths=(2, 3))


def test_a_mask_that_documents_share_is_not_read_past_its_end():
    energy = SPEN(F, 5, num_measurements=4)
    for mask in (torch.tensor([2.0, 0, 2, 0]), torch.tensor([[2.0, 0, 2, 0]])):
        for context in (energy.condition(torch.randn(4, F)), energy.condition(torch.randn(1, F))):
            found = MirrorDescent(3).solve(energy, context._replace(mask=mask))
            expected = MirrorDescent(3).solve(energy, context._replace(mask=mask.expand(len(context.unary), 4)))
            torch.testing.assert_close(found, expected)


def transposed(tensor):
    """The same numbers, apart in memory."""
    return tensor.T.contiguous().T if tensor.ndim == 2 else torch.stack((tensor, tensor), -1)[..., 0]


WHAT = ("values", "known", "initial", "unary", "offset", "mask", "rows", "weights")


@pytest.mark.parametrize("energy", ["conditioned", "deep", "icnn"])
@pytest.mark.parametrize("what", WHAT)
def test_how_tensors_lie_in_memory_changes_nothing(what, energy):
    energy, solver = ENERGIES[energy](33).double(), MirrorDescent(4, step_size=0.7)
    width = energy.num_measurements
    tensors = {
        "values": torch.randint(2, (9, 33)).double(),
        "known": torch.rand(9, 33) < 0.3,
        "initial": torch.randn(9, 33).double(),
        "unary": torch.randn(9, 33).double(),
        "offset": torch.randn(9, width).double(),
        "mask": torch.bernoulli(torch.full((9, width), 0.5)).double() * 2,
    }

    def solve(apart):
        given = {name: transposed(x) if name == apart else x.clone() for name, x in tensors.items()}
        given = {name: x.requires_grad_(name in ("initial", "unary", "offset")) for name, x in given.items()}
        context = MeasuredContext(given["unary"], given["offset"], (), given["mask"])
        known = Observed(given["values"], given["known"])
        logits = solver.solve(energy, context, given["initial"], observed=known)
        wanted = [energy.measure, *energy.head.parameters(), given["unary"], given["offset"], given["initial"]]
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward(inputs=wanted)
        bars = [x.grad.clone() for x in wanted]
        energy.zero_grad()
        return logits.detach(), *bars

    assert not any(transposed(tensor).is_contiguous() for tensor in tensors.values())
    expected = solve(None)
    if what == "rows":
        energy.measure.data = transposed(energy.measure.data)
    elif what == "weights":
        for weight in energy.head.parameters():
            weight.data = transposed(weight.data)
    for found, wanted in zip(solve(what), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
