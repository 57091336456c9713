"""Products: every kernel against torch.matmul, and what bf16 factors cost in accuracy."""

from __future__ import annotations

import pytest
import torch

from energynets import ICNN, SPEN, Energy, GradientDescent, MirrorDescent, ProjectedGradient, products
from energynets.errors import ConfigError
from energynets.inference import general_path

FORMS = {
    "y A^T": lambda rows, inner, columns: (torch.randn(rows, inner), torch.randn(columns, inner).T),
    "m A": lambda rows, inner, columns: (torch.randn(rows, inner), torch.randn(inner, columns)),
    "M^T X": lambda rows, inner, columns: (torch.randn(inner, rows).T, torch.randn(inner, columns)),
}
SHAPES = [(3, 5, 7), (128, 40, 70), (256, 300, 301)]


def same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected.to(found.dtype), **tolerance)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_matmul_by_either_library(form, shape, onednn, monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda x, y: onednn and products._HAS_ONEDNN)
    torch.manual_seed(0)
    x, y = FORMS[form](*shape)
    exact = x.double() @ y.double()
    place, base, bias = torch.empty(exact.shape), torch.randn(exact.shape), torch.randn(exact.shape[1])
    tolerance = {"rtol": 1e-5, "atol": 1e-4}
    same(products.mm(x, y), exact, **tolerance)
    same(products.mm(x, y, out=place), exact, **tolerance)
    same(products.addmm(bias, x, y, out=place), exact + bias, **tolerance)
    same(products.addmm(base, x, y, out=place), exact + base, **tolerance)
    expected = exact + base
    same(products.addmm(base, x, y, out=base), expected, **tolerance)


@pytest.mark.skipif(not products._HAS_ONEDNN, reason="this torch has no oneDNN")
def test_a_product_is_added_in_place_part_by_part(monkeypatch):
    torch.manual_seed(0)
    x, y = FORMS["M^T X"](70, 30, 50)
    place = torch.randn(70, 50)
    expected, made = place.double() + x.double() @ y.double(), []
    linear = products._linear
    monkeypatch.setattr(products, "_onednn", lambda x, y: True)
    monkeypatch.setattr(products, "_PART", 32 * 50)
    monkeypatch.setattr(products, "_linear", lambda *args: made.append(linear(*args)) or made[-1])
    assert products.addmm(place, x, y, out=place) is place
    same(place, expected, rtol=1e-5, atol=1e-4)
    assert [len(part) for part in made] == [32, 32, 6]


def cpuinfo(vendor, family, flags="fpu avx2 avx512f"):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"
    return f"{one}\n{one}\n"


@pytest.mark.parametrize(
    ("text", "halved"),
    [
        (cpuinfo("AuthenticAMD", 26), True),
        (cpuinfo("AuthenticAMD", 25), False),
        (cpuinfo("AuthenticAMD", 26, "fpu avx2"), False),
        (cpuinfo("GenuineIntel", 6), False),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n\n", False),
    ],
    ids=["Zen 5", "Zen 4", "no AVX-512", "Intel", "Arm"],
)
def test_processors_of_which_mkl_uses_half(text, halved):
    assert products._is_wide_amd(text) == halved


@pytest.mark.skipif(not products._HAS_ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    ("form", "shape", "onednn"),
    [
        # (R, N, C); the library on a processor MKL uses whole, and on one it uses half of.
        ("y A^T", (128, 500, 512), (True, True)),
        ("y A^T", (128, 500, 128), (False, True)),
        ("m A", (128, 512, 500), (True, True)),
        ("m A", (128, 128, 4000), (False, True)),
        ("M^T X", (512, 256, 4000), (False, True)),
        ("M^T X", (512, 512, 4000), (True, True)),
        ("y A^T", (128, 159, 64), (False, False)),
        ("M^T X", (64, 256, 159), (False, False)),
    ],
)
def test_which_library_multiplies(form, shape, onednn, monkeypatch):
    for halved, expected in zip((False, True), onednn, strict=True):
        monkeypatch.setattr(products, "_mkl_is_halved", lambda halved=halved: halved)
        assert products._onednn(*FORMS[form](*shape)) == expected


@pytest.mark.parametrize("form", FORMS)
def test_bf16_products_sum_rounded_factors_in_float32(form):
    torch.manual_seed(0)
    x, y = FORMS[form](16, 4000, 24)
    rounded = x.bfloat16().double() @ y.bfloat16().double()
    found = products.mm(x, products.rounded(y, "bf16"))
    assert found.dtype == torch.float32
    # Each sum is rounded once; 4,000 sums in bfloat16 would be off by a tenth and more.
    torch.testing.assert_close(found.double(), rounded, rtol=2**-8, atol=1e-2)
    base = torch.randn(found.shape)
    same(products.addmm(base, x, y.bfloat16(), out=base.clone()), found + base)
    assert products.rounded(y, "float32") is y


def relative_errors(energy: Energy, labels: int) -> dict[str, float]:
    """Of the logits and each gradient through 10 steps, bf16 against float32: norm of the difference over the norm."""
    torch.manual_seed(1)
    features = torch.randn(128, 32)
    targets = (torch.rand(128, labels) < 5 / labels).float()
    found = {}
    for precision in ("float32", "bf16"):
        solver = MirrorDescent(10, precision=precision)
        energy.zero_grad()
        logits = solver.solve(energy, energy.condition(features))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum").backward()
        gradients = {name: weight.grad.clone() for name, weight in energy.named_parameters()}
        found[precision] = {"logits": logits.detach(), **gradients}
    exact, rough = found["float32"], found["bf16"]
    return {name: float((rough[name] - exact[name]).norm() / exact[name].norm()) for name in exact}


@pytest.mark.parametrize(
    "make",
    [
        lambda: SPEN(32, 159, num_measurements=16),
        lambda: SPEN(32, 159, num_measurements=64, hidden=(8,)),
        lambda: ICNN(32, 159, hidden=(16, 16)),
        lambda: ICNN(32, 159, hidden=(8, 8), gate=True),
    ],
    ids=["spen", "deep", "icnn", "gated"],
)
def test_error_of_bf16_is_there_and_small(make):
    torch.manual_seed(0)
    errors = relative_errors(make(), 159)
    assert all(error < 2e-2 for error in errors.values()), errors
    assert errors["measure"] > 1e-5  # else nothing was rounded


def test_unknown_precision_is_named():
    with pytest.raises(ConfigError, match=r"solver\.precision 'fp16' .*valid: bf16, float32"):
        MirrorDescent(precision="fp16")


def test_bf16_is_refused_with_what_computes_in_float32():
    for options in ({"tolerance": 1e-3}, {"line_search": True}):
        with pytest.raises(ConfigError, match="bf16 goes with neither tolerance nor line_search"):
            MirrorDescent(precision="bf16", **options)


class Quadratic(Energy):
    """On the general path."""

    def condition(self, features):
        return features

    def potential(self, y, context):
        return -(y * context).sum(-1)


def test_bf16_is_refused_where_it_would_change_nothing():
    context = torch.randn(3, 5)
    with pytest.raises(ConfigError, match=r"solver\.precision: bf16 needs the engine's path \(Quadratic is no"):
        MirrorDescent(precision="bf16").solve(Quadratic(5), context)
    energy = SPEN(8, 5)
    with general_path():  # asked for by name: the oracle computes as exactly as it can
        solver = MirrorDescent(precision="bf16")
        exact = solver.solve(energy, energy.condition(torch.ones(3, 8)))
    torch.testing.assert_close(exact, MirrorDescent().solve(energy, energy.condition(torch.ones(3, 8))))


def test_other_solvers_round_too():
    energy = SPEN(8, 5)
    for method in (GradientDescent, ProjectedGradient):
        exact, rough = (
            method(precision=precision).solve(energy, energy.condition(torch.ones(3, 8)))
            for precision in ("float32", "bf16")
        )
        assert not torch.equal(exact, rough)
        torch.testing.assert_close(exact, rough, rtol=1e-2, atol=1e-2)
