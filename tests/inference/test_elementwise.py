"""The fused passes: what they mean, and the kernels in C and Triton against the torch operations."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from interpreted import AGREED, count_launches, run_interpreted

from energynets import products
from energynets.inference.engine import elementwise, native

call = elementwise._call

FACTORS = [(), (1.0,), (0.3, -1.7)]


def problem(dtype: torch.dtype, factors: tuple[float, ...], shape: tuple[int, int] = (3, 7)):
    torch.manual_seed(0)
    product, gradient = torch.randn(2, *shape, dtype=dtype)
    terms = [(factor, torch.randn(*shape, dtype=dtype)) for factor in factors]
    bars = [(factor / 2, torch.randn(*shape, dtype=dtype)) for factor in factors]
    return product, terms, gradient, bars


def copies(terms):
    return [(factor, tensor.clone()) for factor, tensor in terms]


def compare(dtype: torch.dtype, shape: tuple[int, int], **tolerance: float) -> None:
    """Every function, in place and not, against its equations."""
    for factors in FACTORS:
        product, terms, gradient, bars = problem(dtype, factors, shape)
        z = product + sum((factor * x for factor, x in terms), torch.zeros(shape, dtype=dtype))
        y = 1 / (1 + (-z).exp())
        dz = y * (1 - y) * gradient
        shares = [bar + factor * dz for factor, bar in bars]

        place = product.clone()
        assert elementwise.labels(place, terms, place) is place
        torch.testing.assert_close(place, y, **tolerance)

        place, own_bars = gradient.clone(), copies(bars)
        elementwise.pullback(y, place, own_bars, place)
        torch.testing.assert_close([place, *(bar for _, bar in own_bars)], [dz, *shares], **tolerance)

        labels, place, own_bars = product.clone(), gradient.clone(), copies(bars)
        elementwise.labels_and_pullback(labels, terms, place, own_bars, labels, place)
        torch.testing.assert_close([labels, place, *(bar for _, bar in own_bars)], [y, dz, *shares], **tolerance)


def test_functions_are_their_equations():
    compare(torch.float64, (3, 7))


def test_learned_factors_are_tensors():
    product, terms, gradient, bars = problem(torch.float64, (0.3, -1.7))
    learned = [(torch.tensor(factor, dtype=torch.float64), x) for factor, x in terms]
    expected = elementwise.labels(product, terms, torch.empty_like(product))
    torch.testing.assert_close(elementwise.labels(product, learned, torch.empty_like(product)), expected)
    as_tensors = [(torch.tensor(factor, dtype=torch.float64), bar.clone()) for factor, bar in bars]
    elementwise.share(gradient, as_tensors)
    elementwise.share(gradient, bars)
    torch.testing.assert_close([bar for _, bar in as_tensors], [bar for _, bar in bars])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, {"rtol": 1e-5, "atol": 1e-6}), (torch.float64, {"rtol": 1e-13, "atol": 1e-14})],
)
def test_passes_in_c_are_their_equations(dtype, tolerance, threads, monkeypatch):
    if isinstance(native.library(dtype), str):
        pytest.skip(f"no native code: {native.library(dtype)}")
    called = []
    monkeypatch.setattr(elementwise, "_call", lambda *given: called.append(1) or call(*given))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for numbers in (1, 7, 64, 1000, 4099):  # fewer than a vector, whole ones, a rest
            monkeypatch.setattr(elementwise, "_C_FROM", numbers)
            compare(dtype, (1, numbers), **tolerance)
    finally:
        torch.set_num_threads(before)
    assert len(called) == 5 * len(FACTORS) * 3


def test_passes_in_c_need_no_alignment_and_keep_what_is_extreme(monkeypatch):
    if isinstance(native.library(torch.float32), str):
        pytest.skip(f"no native code: {native.library(torch.float32)}")
    monkeypatch.setattr(elementwise, "_C_FROM", 1)
    z = torch.tensor([0.0, float("nan"), float("inf"), -float("inf"), 200.0, -200.0, 20.0, -20.0] * 5)[1:]
    assert z.data_ptr() % 64
    assert elementwise.fuses(z)
    found = elementwise.labels(z, (), torch.empty_like(z))
    torch.testing.assert_close(found, torch.sigmoid(z), equal_nan=True, atol=1e-37, rtol=1e-5)


def test_what_is_fused():
    small, large = torch.zeros(2, 3), torch.zeros(128, 1000)
    assert not elementwise.fuses(small)
    assert elementwise.fuses(large) is not isinstance(native.library(torch.float32), str)
    assert not elementwise.fuses(large.half())
    assert not elementwise.fuses(large.T)
    assert not elementwise.fuses(large, [(torch.tensor(1.0), large)])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernels_equal_torch_in_its_interpreter():
    run_interpreted(__file__, ENERGYNETS_NATIVE="0")


def _interpreted() -> None:
    """Kernels alone, with a last block that is not full; then through the engine, against the general path."""
    from energynets import SPEN, MirrorDescent
    from energynets.inference import general_path

    launched = count_launches(elementwise, "_labels_kernel", "_adjoint_kernel")
    for shape in ((3, 7), (5, 1000)):
        compare(torch.float32, shape)
    assert {"_labels_kernel", "_adjoint_kernel"} == set(launched)
    with products.plain_operations():
        assert not elementwise.fuses(torch.zeros(2, 3))
    strided = torch.zeros(3, 2).T
    assert not elementwise.fuses(strided)
    assert not elementwise.fuses(torch.zeros(2, 3), [(1.0, strided)])

    for options, start in ({}, None), ({"step_size": 0.5, "momentum": 0.4}, None), ({"step_size": 0.5}, 1):
        energy, solver = SPEN(6, 37, num_measurements=4, dropout=0.2), MirrorDescent(4, **options)
        features = torch.randn(5, 6, requires_grad=True)
        initial = None if start is None else torch.randn(5, 37, requires_grad=True)
        inputs = [features, *energy.parameters(), *([] if initial is None else [initial])]

        def run(energy=energy, solver=solver, features=features, initial=initial, inputs=inputs):
            torch.manual_seed(1)
            logits = solver.solve(energy, energy.condition(features), initial)
            return [logits.detach(), *torch.autograd.grad(logits.square().sum(), inputs)]

        launched.clear()
        found = run()
        # One pass a step: T of y forwards, T of y and dz backwards.
        assert (launched.count("_labels_kernel"), launched.count("_adjoint_kernel")) == (4, 4), launched
        with general_path():
            expected = run()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    print(AGREED)


if __name__ == "__main__":
    _interpreted()


def test_places_with_strides_are_left_to_torch():
    shape = (1 << 7, 1 << 8)  # large enough for native code
    product, _, gradient, _ = problem(torch.float32, (), shape)
    y, place = torch.sigmoid(product), torch.empty(shape[::-1]).T
    torch.testing.assert_close(elementwise.labels(product, (), place), y)
    strided, dz = gradient.T.contiguous().T, y * (1 - y) * gradient
    for given, out in ((gradient, place), (strided, torch.empty(shape)), (strided, strided.clone())):
        torch.testing.assert_close(elementwise.pullback(y, given, (), out), dz)
        torch.testing.assert_close(
            elementwise.labels_and_pullback(product, (), given, (), torch.empty(shape), out.clone()), dz
        )
    found = torch.empty(shape[::-1]).T
    elementwise.labels_and_pullback(product, (), gradient, (), found, torch.empty(shape))
    torch.testing.assert_close(found, y)
