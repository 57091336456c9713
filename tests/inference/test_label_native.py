"""Passes over labels in native code against their formulas, and products with the rows of an output layer."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_streamed import F, make_batch, network
from torch import Tensor

from energynets import SPEN, EndToEnd, MirrorDescent, products
from energynets.inference import streaming
from energynets.inference.engine import label_native, native, row_products

pytestmark = pytest.mark.skipif(
    isinstance(native.library(torch.float64), str), reason=f"no native code: {native.library(torch.float64)}"
)
DTYPES = {torch.float64: 1e-13, torch.float32: 2e-6}
SHAPES = [  # B, K, L, T: parts of tiles, of blocks and of groups; more documents, measurements and steps than one has
    (1, 1, 1, 1),
    (5, 7, 37, 2),
    (16, 128, 300, 3),
    (70, 20, 333, 2),
    (3, 2100, 40, 1),
    (14, 3, 1200, 40),
]


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).norm() <= tolerance * (expected.norm() + 1e-3), (found, expected)


def numbers(batch: int, width: int, labels: int, steps: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """phi and A with rows apart in memory, n_t and dm_t; sigmoids are neither flat nor all alike."""
    torch.manual_seed(0)
    phi, rows = torch.randn(batch, labels + 5)[:, 2:-3] * 2 - 1, torch.randn(width, labels + 3)[:, 1:-2] / width**0.5
    return tuple(x.to(dtype) for x in (phi, rows, torch.randn(steps, batch, width), torch.randn(steps, batch, width)))


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_their_formulas(shape: tuple[int, ...], dtype: torch.dtype, threads: None) -> None:
    phi, rows, n, bars = numbers(*shape, dtype)
    given, tolerance = label_native.pack(phi, rows), DTYPES[dtype]
    phi, rows, n_0, bars_0 = (x.double() for x in (phi, rows, n[0], bars[0]))
    for factor, with_n in itertools.product((1.0, 0.7), (True, False)):
        z = factor * phi + (n_0 @ rows if with_n else 0)
        y = z.sigmoid()
        close(label_native.measure(given, factor, n[0] if with_n else None).double(), y @ rows.T, tolerance)
        if with_n:
            m, losses = label_native.measure_and_loss(given, factor, n[0])
            close(m.double(), y @ rows.T, tolerance)
            close(losses, torch.nn.functional.softplus(z, threshold=40).sum(1), tolerance)
            close(
                label_native.pull(given, factor, n[0], bars[0]).double(),
                (y * (1 - y) * (bars_0 @ rows)) @ rows.T,
                tolerance,
            )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_their_formulas(shape: tuple[int, ...], dtype: torch.dtype, threads: None) -> None:
    phi, rows, n, bars = numbers(*shape, dtype)
    steps, tolerance = shape[-1], DTYPES[dtype]
    factors, scale = [0.9**t for t in range(steps + 1)], torch.tensor(0.3, dtype=dtype)
    given, place = label_native.pack(phi, rows), torch.full((len(rows), rows.shape[1] + 4), 7.0, dtype=dtype)
    dphi, shares = label_native.gradients(given, factors, n, bars, scale, place[:, 1:-3], wants_shares=True)
    phi, rows, n, bars = (x.double() for x in (phi, rows, n, bars))
    rows_bar, total, expected = torch.zeros_like(rows), torch.zeros_like(phi), []
    for t in range(steps + 1):
        y = (factors[t] * phi + (n[t - 1] @ rows if t else 0)).sigmoid()
        dz = y * (1 - y) * (bars[t] @ rows) if t < steps else scale.double() * y
        rows_bar += (n[t - 1].T @ dz if t else 0) + (bars[t].T @ y if t < steps else 0)
        total += factors[t] * dz
        expected.append((dz * phi).sum())
    close(place[:, 1:-3].double(), rows_bar, tolerance)
    assert (place[:, :1] == 7).all()
    assert (place[:, -3:] == 7).all()
    close(dphi.double(), total, tolerance)
    assert shares is not None
    close(shares.double(), torch.stack(expected), 50 * tolerance)
    again = label_native.gradients(given, factors, n.to(dtype), bars.to(dtype), scale, None, wants_shares=False)
    assert again[1] is None
    assert torch.equal(again[0], dphi)


@pytest.mark.parametrize("shape", [*SHAPES, (40, 9, 70, 12)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_kept_is_what_is_made_again(shape: tuple[int, ...], dtype: torch.dtype, threads: None) -> None:
    phi, rows, n, bars = numbers(*shape, dtype)
    steps, factors, scale = shape[-1], [0.9**t for t in range(shape[-1] + 1)], torch.tensor(0.3, dtype=dtype)
    found: list[list[Tensor]] = []
    for given in (label_native.pack(phi, rows, steps), label_native.pack(phi, rows)):
        made = [label_native.measure(given, factors[t], n[t - 1] if t else None, t) for t in range(steps)]
        made += label_native.measure_and_loss(given, factors[-1], n[-1])
        made += [label_native.pull(given, factors[t], n[t - 1], bars[t], t) for t in range(steps - 1, 0, -1)]
        if given.kept is not None:  # phi is not wanted again, only for the factors' own gradients
            given = given._replace(phi=torch.full_like(given.phi, float("nan")))
        place = torch.zeros_like(rows)
        dphi, _ = label_native.gradients(given, factors, n, bars, scale, place, wants_shares=False)
        given = given._replace(phi=phi if phi.stride(1) == 1 else phi.contiguous())
        again, shares = label_native.gradients(given, factors, n, bars, scale, None, wants_shares=True)
        assert torch.equal(again, dphi)
        found.append([*made, place, dphi, shares if shares is not None else dphi.sum()])
    for kept, without in zip(*found, strict=True):
        close(kept.double(), without.double(), 20 * DTYPES[dtype])


def test_two_runs_give_the_same_bits(threads: None) -> None:
    phi, rows, n, bars = numbers(9, 17, 5000, 1, torch.float32)
    given = label_native.pack(phi, rows)
    for found in (lambda: label_native.measure(given, 1.0, n[0]), lambda: label_native.pull(given, 1.0, n[0], bars[0])):
        assert torch.equal(found(), found())


def test_who_makes_a_pass() -> None:
    energy, features = SPEN(F, 7), torch.zeros(2, F)

    def passes(solver: MirrorDescent, *, keep_unary: bool = False) -> object:
        return streaming.energy_stream(solver, energy, features, 3, keep_unary=keep_unary).plan.passes

    for keep_unary in (False, True):
        assert passes(MirrorDescent(2), keep_unary=keep_unary) is label_native
    assert passes(MirrorDescent(2, precision="bf16")) is None
    assert passes(MirrorDescent(0)) is None
    with products.plain_operations():
        assert passes(MirrorDescent(2)) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not label_native.take(features, energy.measure)
    assert not label_native.take(features.double(), energy.measure)
    assert not label_native.take(features.half(), energy.measure.half())


@pytest.mark.parametrize(("batch", "keeps"), [(2, True), (3, False)])
def test_steps_are_kept_where_they_are_no_larger_than_the_weights(batch: int, keeps: bool) -> None:
    """2 T B <= F + K, and for a loss alone that is differentiated."""
    energy = SPEN(F, 7, num_measurements=12 - F)
    for keep_unary, pull in itertools.product((True, False), repeat=2):
        stream = streaming.energy_stream(MirrorDescent(3), energy, torch.zeros(batch, F), 3, keep_unary=keep_unary)
        with torch.no_grad():  # as within the function that differentiates itself
            packed = stream.plan.given(stream.inputs, pull=pull).packed
        assert (packed is not None and packed.kept is not None) == (keeps and keep_unary and pull)


def test_native_passes_are_the_passes_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and with many labels: test_streamed compares both with the unstreamed model in float64."""
    model = network(
        SPEN(F, 3000, num_measurements=20), MirrorDescent(3, step_size=0.7, learn_step_sizes=True), chunk=700
    )
    batch, found = make_batch(5, 3000), []
    for take in (True, False):
        monkeypatch.setattr(label_native, "take", lambda *given, take=take: take)
        for model.keep_unary in (False, True):
            model.zero_grad()
            loss = EndToEnd()(model, batch)
            loss.backward()
            found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            close(mine, theirs, 1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 32), (5, 37, 64), (16, 1000, 96), (130, 50, 32), (30, 3000, 32)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_rows(
    shape: tuple[int, ...], dtype: torch.dtype, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_products, "_FROM", 0)
    batch, labels, width = shape
    torch.manual_seed(0)
    slopes, weight = torch.randn(batch, labels + 3, dtype=dtype)[:, 1:-2], torch.randn(labels, width, dtype=dtype)
    features, sums = torch.randn(batch, width, dtype=dtype), torch.randn(batch, width, dtype=dtype)
    expected = sums.double() + slopes.double() @ weight.double()
    moved = 0.9 * weight.double() - 0.1 * slopes.double().T @ features.double()
    bias, products_ = torch.randn(labels, dtype=dtype), ["row_logits", "row_logits", "row_slopes", "row_descent"]
    phi = features.double() @ weight.double().T
    calls = []
    run = row_products._run
    monkeypatch.setattr(row_products, "_run", lambda *given, **more: calls.append(given[0]) or run(*given, **more))
    close(row_products.logits(features, weight, None).double(), phi, DTYPES[dtype])
    close(row_products.logits(features, weight, bias).double(), phi + bias.double(), DTYPES[dtype])
    row_products.add_slopes(sums, slopes, weight)
    close(sums.double(), expected, DTYPES[dtype])
    row_products.descend(weight, slopes, features, 0.9, -0.1)
    close(weight.double(), moved, DTYPES[dtype])
    assert calls == (products_ if batch <= 128 else [])
    calls.clear()
    row_products.add_slopes(sums[:, :-1].contiguous(), slopes, weight[:, :-1].contiguous())
    row_products.add_slopes(sums[:0], slopes[:0], weight)
    row_products.logits(features[:0], weight, bias)
    assert not calls
