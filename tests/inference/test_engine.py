from __future__ import annotations

import weakref

import pytest
import torch
from engine_contract import (
    MODES,
    SOLVERS,
    EngineContract,
    F,
    L,
    check_against_the_general_path,
    inputs_of,
    some_known,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from energynets import products
from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.energies import ICNN, SPEN, Box, Euclidean, MeasuredEnergy, Simplex, SoftplusHead
from energynets.errors import ConfigError, InferenceError
from energynets.inference import (
    GradientDescent,
    Implicit,
    MirrorDescent,
    NoGradient,
    ProjectedGradient,
    Solver,
    Truncated,
    general_path,
    path,
)
from energynets.inference.engine import elementwise, fused, measurements, mirror
from energynets.inference.engine.mirror import MirrorFunction, MirrorPlan
from energynets.models import EnergyNetwork
from energynets.objectives import EndToEnd


class PlainHead(nn.Module):
    """A user's head: no closed form of anything."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 7) / 3)

    def forward(self, m):
        return (torch.tanh(m @ self.weight) ** 2).sum(-1)


class ConditionedHead(nn.Module):
    """A user's head that sees x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, F) / 2)
        self.scale = nn.Parameter(torch.randn(7))

    def condition(self, features):
        return {"pull": torch.tanh(features @ self.weight.T), "kind": "softplus"}

    def forward(self, m, context):
        return (torch.nn.functional.softplus(m * self.scale) * context["pull"]).sum(-1)


class TestSPEN(EngineContract):
    def make(self, num_labels):
        return SPEN(F, num_labels, num_measurements=3)


class TestDeepConditionedSPEN(EngineContract):
    def make(self, num_labels):
        options = {"condition_measurements": True, "learn_tau": True, "tau": 0.7, "dropout": 0.3}
        return SPEN(F, num_labels, num_measurements=7, hidden=(5, 3), **options)


class TestICNN(EngineContract):
    def make(self, num_labels):
        return ICNN(F, num_labels, hidden=(3, 4, 2))


class TestGatedICNN(EngineContract):
    def make(self, num_labels):
        return ICNN(F, num_labels, hidden=(3, 2), gate=True, dropout=0.3)


class TestReparametrisedICNN(EngineContract):
    def make(self, num_labels):
        options = {"nonnegativity": "reparametrization", "condition_measurements": True}
        return ICNN(F, num_labels, hidden=(3, 4), **options)


class TestUsersHead(EngineContract):
    def make(self, num_labels):
        return MeasuredEnergy(F, num_labels, 7, PlainHead(), dropout=0.3)


class TestUsersConditionedHead(EngineContract):
    def make(self, num_labels):
        return MeasuredEnergy(F, num_labels, 7, ConditionedHead(), learn_tau=True)


ENERGIES = {
    "spen": lambda **options: SPEN(F, 6, num_measurements=3, **options),
    "gated": lambda **options: ICNN(F, 6, hidden=(3, 2), gate=True, learn_tau=True, tau=0.8, **options),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _torch_operations(monkeypatch):
    """Native code has tests of its own; here it would stand before what is tested."""
    monkeypatch.setattr(fused, "LARGEST", 0)


@pytest.mark.parametrize("known", [False, True], ids=["", "known"])
@pytest.mark.parametrize("domain", [Simplex(3), Euclidean()], ids=lambda domain: type(domain).__name__)
@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mode", ["unroll", "truncated"])
def test_other_domains_equal_the_general_path(domain, energy, solver, mode, known):
    energy = ENERGIES[energy](domain=domain)
    observed = some_known(energy, 3) if known else None
    check_against_the_general_path(
        energy, SOLVERS[solver](3), MODES[mode], observed=observed, step_loss=mode == "unroll"
    )


@pytest.mark.parametrize("memory", [1, 2, 3, 7, 9, None])
@pytest.mark.parametrize("kind", [MirrorDescent, GradientDescent, ProjectedGradient])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["unroll", "truncated"])
def test_iterates_made_again_give_the_same_bits(memory, kind, momentum, mode):
    energy = ENERGIES["gated"]().double()
    nn.init.normal_(energy.measure)
    features, initial = inputs_of(energy, 3)

    def gradients(memory):
        solver = kind(7, step_size=0.1, momentum=momentum, memory=memory)
        logits = solver.solve(energy, energy.condition(features), initial, gradient=MODES[mode])
        return torch.autograd.grad(logits.square().sum(), [*energy.parameters(), features])

    for a, b in zip(gradients(memory), gradients(None), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("memory", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.4}, {"momentum": 0.3, "learn_step_sizes": True}], ids=str)
@pytest.mark.parametrize("make", [lambda: SPEN(F, 200, learn_tau=True, tau=0.8), lambda: SPEN(F, 200, dropout=0.3)])
@pytest.mark.parametrize("step_loss", [False, True], ids=["last", "all"])
def test_segments_of_mirror_descent_give_the_same_gradients(make, options, memory, step_loss, monkeypatch):
    """Learned numbers, dropout, losses of every step, and steps in one pass of C: all across the segments' borders."""
    monkeypatch.setattr(elementwise, "_C_FROM", 1)
    torch.manual_seed(0)
    energy = make().double()
    features, _ = inputs_of(energy, 3)

    def gradients(memory):
        torch.manual_seed(1)
        solver, context = MirrorDescent(9, memory=memory, **options).double(), energy.condition(features)
        if step_loss:
            loss = solver.solve_with_losses(energy, context, lambda t, z: t * z.sigmoid().square().sum())[1]
        else:
            loss = solver.solve(energy, context).sigmoid().square().sum()
        return torch.autograd.grad(loss, [*energy.parameters(), *solver.parameters(), features])

    for a, b in zip(gradients(memory), gradients(9), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("step_loss", [False, True], ids=["last", "all"])
def test_gradcheck(solver, step_loss):
    energy = ENERGIES["gated"]().double()
    nn.init.normal_(energy.measure)
    solver = SOLVERS[solver](3).double()
    modules = nn.ModuleDict({"energy": energy, "solver": solver})
    names = [name for name, _ in modules.named_parameters()]

    def loop(features, initial, *values):
        # functional_call is a plain swap of attributes: the engine sees the values.
        with torch.nn.utils.stateless._reparametrize_module(modules, dict(zip(names, values, strict=True))):
            assert path(energy, solver).fast
            context = energy.condition(features)
            if step_loss:
                return solver.solve_with_losses(energy, context, lambda t, z: (z.tanh() ** t).sum(), initial)
            return solver.solve(energy, context, initial)

    values = [p.detach().clone().requires_grad_() for p in modules.parameters()]
    assert torch.autograd.gradcheck(loop, (*inputs_of(energy, 2), *values), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("solver", ["mirror", "mean field", "mirror momentum"])
def test_modes_equal_the_general_path_in_native_code(solver, mode, monkeypatch):
    monkeypatch.undo()
    energy = ENERGIES["spen"]()
    check_against_the_general_path(energy, SOLVERS[solver](4), MODES[mode], observed=some_known(energy, 3))
    check_against_the_general_path(energy, SOLVERS[solver](4), MODES[mode], step_loss=True)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gate", [False, True], ids=["", "gated"])
def test_float32_by_the_fastest_product_is_as_exact_as_the_general_path(solver, gate):
    """Shapes at which products may come back in memory of their own."""
    energy = ICNN(F, 1200, hidden=(128, 128), gate=gate) if gate else SPEN(F, 1200, num_measurements=256)
    assert products._onednn(torch.empty(128, 1200), energy.measure[:128].T)
    features, solver = torch.randn(128, F), SOLVERS[solver](3)

    def gradients(dtype):
        energy.to(dtype)
        solver.to(dtype)
        logits = solver.solve(energy, energy.condition(features.to(dtype)))
        found = torch.autograd.grad(logits.sigmoid().sum(), [*energy.parameters(), *solver.parameters()])
        return [logits.detach(), *found]

    with general_path():
        exact, general = gradients(torch.float64), gradients(torch.float32)
    for a, b, c in zip(exact, general, gradients(torch.float32), strict=True):
        assert (c - a).abs().max() <= 3 * (b - a).abs().max() + 1e-6 * a.abs().max()


def test_truncated_lets_no_gradient_through_the_first_steps():
    energy = SPEN(F, L).double()
    features, initial = inputs_of(energy, 3)
    for solver in (make(4).double() for make in SOLVERS.values()):
        for steps, reaches in [(3, False), (4, True), (9, True)]:
            logits = solver.solve(energy, energy.condition(features), initial, gradient=Truncated(steps))
            unary, start = torch.autograd.grad(logits.sum(), [energy.unary.weight, initial], allow_unused=True)
            assert unary.abs().sum() > 0
            # the mean-field update forgets z_0 but for the one that y(z_0) leaves
            assert (start is not None and bool(start.abs().sum() > 0)) == reaches


# ------------------------------------------------------------------------------------------------- cost


class Products(TorchDispatchMode):
    """Multiplications in products with a factor of `labels` rows or columns, in units of B K L."""

    def __init__(self, energy, batch):
        super().__init__()
        self.labels, self.unit, self.count = energy.num_labels, batch * energy.num_measurements * energy.num_labels, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            x, y = args[-2:]
            if self.labels in (*x.shape, *y.shape):
                self.count += x.shape[0] * x.shape[1] * y.shape[1] / self.unit
        return function(*args, **(kwargs or {}))


BIG = 101  # labels, unlike every other size
COSTS = {
    "mirror": (5, MirrorDescent, {"step_size": 0.7}),
    "mean field": (5, MirrorDescent, {}),
    "mirror momentum": (5, MirrorDescent, {"momentum": 0.5, "learn_step_sizes": True}),
    "gradient": (4, GradientDescent, {}),
    "projected": (4, ProjectedGradient, {}),
    "projected learned": (4, ProjectedGradient, {"learn_step_sizes": True}),
}


@pytest.mark.parametrize("make", [lambda: SPEN(F, BIG), lambda: ICNN(F, BIG, hidden=(6, 5), gate=True)])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("steps", [1, 6])
def test_products_are_as_many_as_the_page_says(make, cost, steps):
    """2 a step forward, 5 or fewer backward."""
    energy = make()
    backward, kind, options = COSTS[cost]
    solver = kind(steps, **options)
    context = energy.condition(torch.randn(7, F))
    with Products(energy, 7) as forward:
        logits = solver.solve(energy, context)
    context_inputs = [context.unary, energy.measure]
    with Products(energy, 7) as back:
        torch.autograd.grad(logits.sum(), context_inputs)
    assert forward.count == pytest.approx(2 * steps)
    gated = isinstance(energy, ICNN)
    if kind is MirrorDescent:
        # z_0 is no product; a gate's gradient wants n_T A by itself
        assert back.count == pytest.approx(5 * steps - (0 if gated else 1))
    else:
        assert back.count == pytest.approx((5 if gated else backward) * steps)


def test_iterates_made_again_cost_one_product_each():
    energy = SPEN(F, BIG)
    # gradient descent reads w_t of every step again, projected gradient x_t of all but three
    for kind, again in [(GradientDescent, 9), (ProjectedGradient, 6)]:
        logits = kind(9, memory=3).solve(energy, energy.condition(torch.randn(7, F)))
        with Products(energy, 7) as back:
            torch.autograd.grad(logits.sum(), energy.measure)
        assert back.count == pytest.approx(4 * 9 + again)


def saved_bytes(energy, solver, *, mode=None, step_loss=False):
    """Bytes that the backward pass of a descent waits with, each storage once."""
    context = energy.condition(torch.randn(7, F))
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if step_loss:
            solver.solve_with_losses(energy, context, lambda t, z: (t * z.sigmoid()).sum(), gradient=mode)
        else:
            solver.solve(energy, context, gradient=mode)
    return sum(storages.values())


@pytest.mark.parametrize("make", [lambda: SPEN(F, 1_000), lambda: ICNN(F, 1_000, hidden=(6, 5), gate=True)])
@pytest.mark.parametrize("step_loss", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "learn_step_sizes": True}], ids=["plain", "momentum"])
def test_mirror_descent_keeps_nothing_of_size_l_per_step(make, step_loss, options):
    energy = make()
    few, many = (
        saved_bytes(energy, MirrorDescent(steps, step_size=0.3, **options), step_loss=step_loss) for steps in (5, 40)
    )
    numbers = 35 * 7 * energy.num_measurements * 2  # m_t and n_t, (B, K) each
    assert many - few <= 4 * (numbers + 5 * 35)
    with general_path():
        few, many = (saved_bytes(energy, MirrorDescent(steps, step_size=0.3, **options)) for steps in (5, 40))
        assert many - few > 4 * 35 * 7 * 1_000


@pytest.mark.parametrize("kind", [GradientDescent, ProjectedGradient])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("step_loss", [False, True], ids=["last", "all"])
def test_memory_bounds_what_is_saved(kind, momentum, step_loss):
    energy = SPEN(F, 1_000)
    each, states = 4 * 7 * 1_000, 4 * 7 * 16
    saved = {
        (steps, memory): saved_bytes(energy, kind(steps, momentum=momentum, memory=memory), step_loss=step_loss)
        for steps, memory in [(40, None), (10, 3), (40, 3), (40, 1)]
    }
    per_iterate = each * (2 if momentum else 1)
    assert saved[40, 3] - saved[40, 1] == 2 * per_iterate
    assert saved[40, 3] - saved[10, 3] == 30 * states
    # Nothing is made again: w_t is kept where it is read, and no velocity.
    assert saved[40, None] - saved[40, 1] == (39 + 40 * (kind is GradientDescent)) * each


@pytest.mark.parametrize("step_loss", [False, True], ids=["last", "all"])
@pytest.mark.parametrize(
    ("options", "numbers"),
    [({}, 1), ({"step_size": 0.3}, 2), ({"momentum": 0.5}, 2)],
    ids=["mean field", "plain", "momentum"],
)
def test_memory_bounds_what_mirror_descent_keeps(options, numbers, step_loss):
    """M starts, and the segment of T / M steps that is gone through first."""
    energy = SPEN(F, 1_000)
    saved = {
        (steps, memory): saved_bytes(energy, MirrorDescent(steps, memory=memory, **options), step_loss=step_loss)
        for steps, memory in [(40, 40), (40, 8), (80, 16)]
    }
    state = 4 * 7 * 16 * numbers  # numbers of (B, K)
    assert saved[40, 40] - saved[40, 8] >= (40 - 8 - 5) * state
    assert saved[80, 16] - saved[40, 8] <= 8 * state


def plan_of(steps, *, mean_field=True, memory=None):
    return MirrorPlan(
        *(Box(), SoftplusHead.closed_form, (), None, None, [1.0 if mean_field else 0.5] * steps, 1.0, 0.0),
        *([[1.0] * (steps + 1)], False),
        memory=memory,
    )


@pytest.mark.parametrize(
    ("shape", "steps", "segment"),
    [
        # (B, K, L), then T; of T = 100 the least that can be kept, 19 numbers, is more than the sixth
        *[((128, 512, 4_000), steps, segment) for steps, segment in [(5, 5), (10, 10), (20, 15), (40, 14), (100, 10)]],
        *[((128, 16, 159), 40, 40), ((128, 512, 159), 16, 16), ((128, 512, 159), 17, 15)],
        *[((32, 256, 30_000), 100, 100), ((0, 512, 4_000), 40, 40)],
    ],
    ids=str,
)
def test_what_mirror_descent_keeps_by_itself(shape, steps, segment):
    batch, measurements, labels = shape
    rows, base = torch.empty(measurements, labels, device="meta"), torch.empty(batch, labels, device="meta")
    assert plan_of(steps).segment(rows, base) == segment
    assert plan_of(steps, memory=steps).segment(rows, base) == steps


@given(st.integers(0, 200), *(st.integers(1, 2_000) for _ in range(3)), st.booleans())
def test_no_longer_segment_keeps_as_little(steps, batch, measurements, labels, mean_field):
    rows, base = torch.empty(measurements, labels, device="meta"), torch.empty(batch, labels, device="meta")
    found = plan_of(steps, mean_field=mean_field).segment(rows, base)
    each, most = batch * measurements * (2 - mean_field), max(1 << 20, labels * (measurements + 9 * batch) / 6)

    def kept(segment):
        return each * (segment + max(0, -(-steps // segment) - 1)) if steps else 0

    assert found == steps or 1 <= found < steps
    assert kept(found) <= max(most, min((kept(one) for one in range(1, steps + 1)), default=0))
    assert all(kept(longer) > most for longer in range(found + 1, steps + 1))


@pytest.mark.parametrize("options", [{}, {"step_size": 0.4, "momentum": 0.3, "learn_step_sizes": True}], ids=str)
@pytest.mark.parametrize("graph", ["kept", "left"])
def test_steps_gone_through_again_by_default_give_the_same_gradients(options, graph, monkeypatch):
    monkeypatch.setattr(mirror, "_ALWAYS", 0)
    energy = SPEN(F, 40, num_measurements=64).double()
    features, _ = inputs_of(energy, 3)
    segments, again = [], mirror._Walk.again
    monkeypatch.setattr(mirror._Walk, "again", lambda *args: segments.append(args[2:4]) or again(*args))

    def gradients(memory):
        solver, context = MirrorDescent(12, memory=memory, **options).double(), energy.condition(features)
        inputs = [*energy.parameters(), *solver.parameters(), features]
        loss = solver.solve(energy, context).sigmoid().square().sum()
        if graph == "kept":
            torch.autograd.grad(loss, inputs, retain_graph=True)
        return torch.autograd.grad(loss, inputs)

    split = gradients(None)
    assert segments == [(4, 8), (0, 4)] * (2 if graph == "kept" else 1)
    segments.clear()
    for a, b in zip(split, gradients(12), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert not segments


@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "learn_step_sizes": True}], ids=str)
@pytest.mark.parametrize("memory", [None, 3])
def test_checkpoints_and_offloading_around_a_descent(options, memory):
    energy = SPEN(F, BIG)
    features, solver = torch.randn(7, F), MirrorDescent(9, memory=memory, **options)
    inputs = [*energy.parameters(), *solver.parameters()]

    def descend(features):
        return solver.solve(energy, energy.condition(features)).sigmoid().square().sum()

    plain = torch.autograd.grad(descend(features), inputs)
    again = torch.autograd.grad(checkpoint(descend, features, use_reentrant=False), inputs)
    counts = {"packed": 0, "unpacked": 0}

    def count(what, tensor):
        counts[what] += 1
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(lambda x: count("packed", x), lambda x: count("unpacked", x)):
        loss = descend(features)
    copied = torch.autograd.grad(loss, inputs)
    assert counts["packed"] == counts["unpacked"]
    for a, b, c in zip(plain, again, copied, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_room_for_all_iterates_leaves_native_code_on(monkeypatch):
    monkeypatch.undo()
    energy = SPEN(F, 40)
    for solver in (MirrorDescent(10), MirrorDescent(10, memory=10)):
        assert path(energy, solver).reason == path(energy, MirrorDescent(10)).reason
        assert "FusedFunction" in solver.solve(energy, energy.condition(torch.randn(3, F))).grad_fn.name()
    assert (
        "FusedFunction"
        not in MirrorDescent(10, memory=9).solve(energy, energy.condition(torch.randn(3, F))).grad_fn.name()
    )


def test_a_segment_is_let_go_before_the_next_is_gone_through(monkeypatch):
    """Or no less would be held than without segments."""
    energy, alive, run, again = SPEN(F, BIG), [], MirrorFunction._run, mirror._Walk.again

    def watched(*args):
        found = run(*args)
        alive.append(weakref.ref(found.last.states.untyped_storage()))
        return found

    def checked(*args):
        assert [storage() for storage in alive] == [None] * len(alive)
        kept = again(*args)
        alive.append(weakref.ref(kept.states.untyped_storage()))
        return kept

    monkeypatch.setattr(MirrorFunction, "_run", staticmethod(watched))
    monkeypatch.setattr(mirror._Walk, "again", checked)
    MirrorDescent(9, memory=3).solve(energy, energy.condition(torch.randn(7, F))).sum().backward()
    assert len(alive) == 3


def test_segments_of_mirror_descent_cost_two_products_a_step():
    energy = SPEN(F, BIG)
    logits = MirrorDescent(9, memory=3).solve(energy, energy.condition(torch.randn(7, F)))
    with Products(energy, 7) as back:
        torch.autograd.grad(logits.sum(), energy.measure)
    assert back.count == pytest.approx(5 * 9 - 1 + 2 * 6 - 1)  # the last segment is kept, and z_0 is no product


@pytest.mark.parametrize("solver", SOLVERS)
def test_truncated_and_no_gradient_keep_what_their_steps_need(solver):
    energy = SPEN(F, 1_000)
    few, many = (saved_bytes(energy, SOLVERS[solver](steps), mode=Truncated(3)) for steps in (5, 40))
    assert many - few <= 4 * 35  # the step sizes
    assert saved_bytes(energy, SOLVERS[solver](40), mode=NoGradient()) == saved_bytes(
        energy, SOLVERS[solver](5), mode=NoGradient()
    )


def test_truncated_saves_less_than_unroll():
    energy = SPEN(F, 1_000)
    solver = GradientDescent(20)
    assert saved_bytes(energy, solver) - saved_bytes(energy, solver, mode=Truncated(5)) >= 4 * 7 * 1_000 * 14


# ------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_end_to_end_over_all_steps_equals_the_general_path(solver, steps):
    model = EnergyNetwork(nn.Identity(), ENERGIES["gated"](), SOLVERS[solver](steps)).double()
    nn.init.normal_(model.energy.measure)
    labels = SparseBatch(torch.tensor([0, 2, 1]), torch.ones(3), torch.tensor([0, 2, 2, 3]), 6)
    batch = Batch(CachedFeatures(torch.randn(3, F).double()), labels, torch.arange(3))
    objective = EndToEnd(steps="all")

    def run():
        loss = objective(model, batch)
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]

    fast = run()
    with general_path():
        slow = run()
    for a, b in zip(fast, slow, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_losses_of_every_step_want_the_steps():
    energy = SPEN(F, L)
    context = energy.condition(torch.randn(2, F))
    with pytest.raises(InferenceError, match=r"Unroll\(\)"):
        MirrorDescent().solve_with_losses(energy, context, lambda t, z: z.sum(), gradient=Implicit())
    with pytest.raises(InferenceError, match=r"takes Unroll\(\) alone, got Truncated"):
        Solver.solve_with_losses(MirrorDescent(), energy, context, lambda t, z: z.sum(), gradient=Truncated(2))


def test_a_solver_without_an_engine_adds_the_losses_up_by_its_trajectory():
    energy = SPEN(F, L)
    context = energy.condition(torch.randn(2, F))
    solver = MirrorDescent(3)
    expected = solver.solve_with_losses(energy, context, lambda t, z: (t * z).sum())
    found = Solver.solve_with_losses(solver, energy, context, lambda t, z: (t * z).sum())
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------------------------------- path


def test_path_says_which_and_why():
    class Own(MirrorDescent):
        def _direction(self, gradient, labels, energy):
            return 2 * gradient

    class Defaults(MirrorDescent):
        def __init__(self):
            super().__init__(5)

    energy = SPEN(F, L)
    assert path(energy, GradientDescent(10)).reason.endswith(
        "SoftplusHead in closed form; torch operations, all 10 iterates kept"
    )
    assert path(energy, ProjectedGradient(10, memory=4)).reason.endswith("4 of 10 iterates kept")
    assert path(energy, MirrorDescent(10, memory=4)).reason.endswith("4 of 10 iterates kept")
    assert "by autograd on K numbers" in path(MeasuredEnergy(F, L, 7, PlainHead()), MirrorDescent()).reason
    assert path(energy, Defaults()).fast
    fast, reason = path(energy, Own())
    assert not fast
    assert "Own brings its own `_direction`" in reason


def test_a_subclass_of_a_domain_is_not_taken_for_it():
    class Sharp(Box):
        def labels(self, logits):
            return torch.sigmoid(3 * logits)

        def logits(self, labels):
            return torch.logit(labels) / 3

        def pullback(self, labels, gradient):
            return 3 * labels * (1 - labels) * gradient

    for solver in ("gradient", "projected momentum"):
        check_against_the_general_path(ENERGIES["spen"](domain=Sharp()), SOLVERS[solver](3))


@pytest.mark.parametrize("solver", SOLVERS)
def test_second_derivatives_are_an_error_by_the_engine_and_right_by_the_general_path(solver):
    energy, solver = SPEN(F, L).double(), SOLVERS[solver](2).double()
    features, initial = inputs_of(energy, 2)

    def first(features):
        logits = solver.solve(energy, energy.condition(features), initial)
        return torch.autograd.grad(logits.square().sum(), features, create_graph=True)[0]

    with pytest.raises(InferenceError, match="general_path"):
        first(features)
    with general_path():
        assert torch.autograd.gradcheck(first, features)


@pytest.mark.parametrize("kind", [MirrorDescent, GradientDescent, ProjectedGradient])
def test_memory_is_checked(kind):
    with pytest.raises(ConfigError, match="one iterate or more"):
        kind(memory=0)


def test_boundary_of_the_box_is_where_the_general_path_has_it():
    """Labels that sit on the margin and labels the projection holds there, to the last bit."""
    energy = SPEN(F, L, num_measurements=3)
    nn.init.normal_(energy.measure, std=3)
    nn.init.ones_(energy.head.output)
    solver = ProjectedGradient(6, step_size=0.5)
    y = solver.solve(energy, energy.condition(torch.randn(3, F))).sigmoid()
    held = (y < 0.02001) | (y > 0.97999)
    assert bool(held.any())
    assert not bool(held.all())
    check_against_the_general_path(energy, solver)


@pytest.mark.parametrize("segment", [2, 3, 8])
@pytest.mark.parametrize(("steps", "memory"), [(2, None), (5, None), (6, 2)])
def test_products_of_several_steps_as_one(monkeypatch, segment, steps, memory):
    """What GPUs do with small A, on the CPU."""
    torch.manual_seed(0)
    energy = SPEN(6, 37, num_measurements=4).double()
    solver = MirrorDescent(steps, step_size=0.7, momentum=0.2, memory=memory, learn_step_sizes=True).double()
    features = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    wanted = [*energy.parameters(), *solver.parameters(), features]
    monkeypatch.setattr("energynets.inference.engine.fused.LARGEST", 0)

    def step():
        return torch.autograd.grad(solver.solve(energy, energy.condition(features)).square().sum(), wanted)

    expected, made = step(), []

    def stacked(rows, batch, needed, gates, widths, precision="float32", steps=1):
        made.append(needed)
        return measurements.StackedMeasurementsBackward(rows, batch, segment, precision)

    monkeypatch.setattr(mirror, "linear_backward", stacked)
    found = step()
    assert made == [True]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("strided", ["start", "unary"])
def test_strides_of_the_start_and_of_the_unary_change_nothing(strided):
    """At the size where products come back in memory of their own, and passes over them are native code."""
    energy = SPEN(F, 1000, num_measurements=512)
    context, start = energy.condition(torch.randn(64, F)), torch.randn(64, 1000)
    given = {"unary": context.unary.detach()} | ({"start": start} if strided == "start" else {})
    found = []
    for transposed in (False, True):
        tensors = given | ({strided: given[strided].T.contiguous().T} if transposed else {})
        logits = MirrorDescent(3, step_size=0.5).solve(
            energy, context._replace(unary=tensors["unary"]), tensors.get("start")
        )
        found.append((logits, *torch.autograd.grad(logits.square().sum(), energy.measure)))
    torch.testing.assert_close(found[0], found[1])
