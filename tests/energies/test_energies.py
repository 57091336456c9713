from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from energy_contract import ConvexEnergyContract, EnergyContract, F, L
from hypothesis import given, settings
from hypothesis import strategies as st

from energynets.energies import ICNN, SPEN, ConvexHead, Energy, MeasuredEnergy, Simplex, SoftplusHead, binary_entropy
from energynets.errors import ConfigError, InferenceError, ShapeError
from energynets.inference import BundleEntropy, MirrorDescent, NoGradient, infer, path
from energynets.objectives.losses import bce


class ChainEnergy(Energy):
    """A user's energy: neighbours on a chain attract."""

    def __init__(self) -> None:
        super().__init__(num_labels=L)
        self.unary = torch.nn.Linear(F, L)
        self.coupling = torch.nn.Parameter(torch.tensor(0.5))

    def condition(self, features):
        return self.unary(features)

    def potential(self, y, context):
        return -(y * context).sum(-1) - self.coupling * (y[:, 1:] * y[:, :-1]).sum(-1)


class CubicHead(torch.nn.Module):
    """A user's head without a closed-form gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4))

    def forward(self, m):
        return (m**3) @ self.weight


class TestUserEnergy(EnergyContract):
    def make(self):
        return ChainEnergy()


class TestUserHead(EnergyContract):
    def make(self):
        return MeasuredEnergy(F, L, 4, CubicHead())


class TestSPEN(EnergyContract):
    def make(self):
        return SPEN(F, L, num_measurements=4)


class TestDeepConditionedSPEN(EnergyContract):
    def make(self):
        energy = SPEN(F, L, num_measurements=7, hidden=(5, 3), condition_measurements=True, learn_tau=True, tau=0.7)
        torch.nn.init.normal_(energy.condition_weight)
        return energy


class TestICNN(ConvexEnergyContract):
    def make(self):
        return ICNN(F, L, hidden=(3, 4))


class TestGatedICNN(ConvexEnergyContract):
    def make(self):
        return ICNN(F, L, hidden=(3, 2, 4), gate=True, condition_measurements=True)


class TestReparametrizedICNN(ConvexEnergyContract):
    def make(self):
        return ICNN(F, L, hidden=(4, 4), nonnegativity="reparametrization")


@pytest.mark.parametrize(
    "head",
    [
        SoftplusHead(5),
        SoftplusHead(5, (4, 3)),
        ConvexHead((2, 3)),
        ConvexHead((1, 2, 2)),
        ConvexHead((2, 3), "reparametrization"),
    ],
)
def test_closed_form_head_gradient_equals_torch_func(head):
    head = copy.deepcopy(head).double()
    m = torch.randn(7, 5, dtype=torch.float64)
    automatic = torch.func.grad(lambda m: head(m).sum())(m)
    torch.testing.assert_close(head.gradient(m), automatic, rtol=1e-12, atol=1e-14)


def test_measurements_are_spen_equation_by_hand():
    energy = SPEN(F, L, num_measurements=3).double()
    f, y = torch.randn(2, F).double(), torch.rand(2, L).double()
    phi = f @ energy.unary.weight.T + energy.unary.bias
    m = y @ energy.measure.T + energy.offset
    expected = -(phi * y).sum(-1) + torch.log1p(m.exp()) @ energy.head.output
    torch.testing.assert_close(energy.potential(y, energy.condition(f)), expected)


class _Potential(ICNN):
    def potential(self, y, context):
        return super().potential(y, context) - 3 * y.square().sum(-1)


class _Measurements(ICNN):
    def measurements(self, y, context):
        return super().measurements(y.square(), context)


class _HeadValues(ICNN):
    def head_values(self, measurements, context):
        return super().head_values(measurements, context) - measurements.square().sum(-1)


class _Both(_Potential):
    def gradient(self, y, context):
        return super().gradient(y, context) - 6 * y


class _Head(ConvexHead):
    def forward(self, measurements):
        return super().forward(measurements) - measurements.square().sum(-1)


@pytest.mark.parametrize("kind", [_Potential, _Measurements, _HeadValues])
def test_a_subclass_with_another_potential_has_its_gradient_and_is_not_called_convex(kind):
    energy = kind(F, L, hidden=(3, 2)).double()
    context = energy.condition(torch.randn(3, F).double())
    y = torch.rand(3, L, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(energy.potential(y, context).sum(), y)
    torch.testing.assert_close(energy.gradient(y, context), expected)
    assert not energy.convex
    assert "brings its own" in path(energy, MirrorDescent(3)).reason
    result = infer(energy, context, solver=MirrorDescent(3))
    assert result.certificate is None
    with pytest.raises(InferenceError, match="needs a convex energy"):
        BundleEntropy().solve(energy, context)


def test_a_subclass_with_a_gradient_of_its_own_adds_to_the_closed_form():
    energy = _Both(F, L, hidden=(3, 2)).double()
    context = energy.condition(torch.randn(3, F).double())
    y = torch.rand(3, L, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(energy.potential(y, context).sum(), y)
    torch.testing.assert_close(energy.gradient(y, context), expected)
    assert not energy.convex


def test_a_head_that_computes_something_else_makes_no_convex_energy():
    energy = ICNN(F, L, hidden=(3, 2))
    assert energy.convex
    energy.head = _Head((3, 2))
    assert not energy.convex


def test_binary_entropy_is_the_textbook_formula_and_survives_saturation():
    y = torch.rand(4, 6, dtype=torch.float64) * 0.98 + 0.01
    expected = -(y * y.log() + (1 - y) * (1 - y).log()).sum(-1)
    torch.testing.assert_close(binary_entropy(torch.logit(y)), expected)
    assert binary_entropy(torch.tensor([[800.0, -800.0]])).item() == 0
    large = torch.tensor([[21.0], [30.0], [-30.0], [math.inf], [-math.inf]], dtype=torch.float64)
    exact = [1.668163e-8, 2.900863e-12, 2.900863e-12, 0, 0]  # (1 + z) exp(-z)
    torch.testing.assert_close(binary_entropy(large), torch.tensor(exact).double(), rtol=1e-5, atol=2e-14)
    assert binary_entropy(torch.tensor([[math.nan]])).isnan().all()


class _Column(ChainEnergy):
    def potential(self, y, context):
        return super().potential(y, context)[:, None]


class _Total(ChainEnergy):
    def potential(self, y, context):
        return super().potential(y, context).sum()


@pytest.mark.parametrize(("kind", "shape"), [(_Column, r"\(3, 1\)"), (_Total, r"\(\)")])
def test_a_potential_that_is_not_one_number_a_document_is_refused(kind, shape):
    energy = kind()
    context, y = energy.condition(torch.randn(3, F)), torch.rand(3, L)
    energy.convex = True
    for call in (
        lambda: energy(y, context),
        lambda: energy.gradient(y, context),
        lambda: MirrorDescent(2, line_search=True).solve(energy, context, torch.zeros(3, L), gradient=NoGradient()),
        lambda: BundleEntropy(2).solve(energy, context, torch.zeros(3, L)),
    ):
        with pytest.raises(ShapeError, match=rf"potential: expected \(3,\), one number a document, got {shape}"):
            call()


@dataclasses.dataclass(frozen=True)
class _Record:
    unary: torch.Tensor
    rest: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    name: str = "of x"


class _OfRecord(ChainEnergy):
    def condition(self, features):
        phi = super().condition(features)
        return _Record(phi, {"twice": 2 * phi})

    def potential(self, y, context):
        return super().potential(y, context.unary) + (context.rest["twice"] * y).sum(-1) / 9


def test_a_dataclass_is_a_context_like_any_other():
    energy = _OfRecord()
    context, rows = energy.condition(torch.randn(3, F)), torch.tensor([2, 0])
    found = energy.select(context, rows)
    assert torch.equal(found.unary, context.unary[rows])
    assert torch.equal(found.rest["twice"], context.rest["twice"][rows])
    assert found.name == "of x"
    start = torch.randn(3, L)
    every = MirrorDescent(40, step_size=0.1, tolerance=1e-2).solve(energy, context, start, gradient=NoGradient())
    alone = [
        MirrorDescent(40, step_size=0.1, tolerance=1e-2).solve(
            energy, energy.select(context, row), start[row], gradient=NoGradient()
        )
        for row in torch.arange(3).split(1)
    ]
    torch.testing.assert_close(every, torch.cat(alone))


class _Opaque:
    def __init__(self, unary):
        self.unary = unary


@pytest.mark.parametrize("opaque", [_Opaque, lambda phi: (phi, _Opaque(phi)), lambda phi: phi.detach().numpy()])
def test_a_context_whose_rows_are_unknown_is_refused(opaque):
    energy = ChainEnergy()
    with pytest.raises(ShapeError, match=r"got a (_Opaque|ndarray) in it, whose rows are unknown: override `select`"):
        energy.select(opaque(energy.condition(torch.randn(3, F))), torch.tensor([0]))
    assert energy.select(None, torch.tensor([0])) is None
    assert energy.select((1, 2.0, "a"), torch.tensor([0])) == (1, 2.0, "a")


def test_a_head_that_is_not_one_number_a_document_is_refused():
    energy = MeasuredEnergy(F, L, 3, torch.nn.Linear(3, 1))
    context = energy.condition(torch.randn(3, F))
    for call in (
        lambda: energy.potential(torch.rand(3, L), context),
        lambda: energy(torch.randn(3, L), context),
        lambda: infer(energy, context),
    ):
        with pytest.raises(ShapeError, match=r"head: expected \(3,\), one number a document, got \(3, 1\)"):
            call()


def test_wrong_feature_width_is_named():
    with pytest.raises(ShapeError, match=rf"expected features \(B, {F}\), got \(2, 3\)"):
        SPEN(F, L).condition(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": (4,)}, "two or more"),
        ({"nonnegativity": "square"}, "reparametrization"),
        ({"tau": 0.0}, "positive"),
        ({"tau": math.inf}, "finite weight of the regulariser, got inf"),
        ({"tau": math.nan}, "positive"),
        ({"hidden": 16}, r"hidden: expected widths of layers, .*, as \(16, 16\), got 16"),
        ({"hidden": (4, 0)}, r"hidden: .*got \(4, 0\)"),
        ({"hidden": (4, 2.0)}, r"hidden: .*got \(4, 2.0\)"),
        ({"hidden": "44"}, r"hidden: .*got '44'"),
        ({"dropout": 1.0}, r"dropout: .*\[0, 1\)"),
        ({"dropout": float("nan")}, "dropout"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ICNN(F, L, **arguments)


@pytest.mark.parametrize("hidden", [16, (0,), None, (2.5,)])
def test_widths_that_are_none_are_named(hidden):
    with pytest.raises(ConfigError, match="hidden: expected widths of layers"):
        SPEN(F, L, hidden=hidden)


@pytest.mark.parametrize("categories", [0, -2, 2.0, True])
def test_categories_that_cannot_be_counted_are_named(categories):
    with pytest.raises(ConfigError, match=f"simplex: expected num_categories .*, got {categories}"):
        Simplex(categories)


def test_learned_tau_starts_at_its_value_and_stays_positive():
    energy = SPEN(F, L, tau=0.5, learn_tau=True)
    assert energy.tau.item() == pytest.approx(0.5)
    with torch.no_grad():
        energy.log_tau -= 50
    assert energy.tau > 0


def test_dropout_keeps_one_mask_for_all_steps_and_none_in_evaluation():
    torch.manual_seed(0)
    energy = SPEN(F, L, num_measurements=8, dropout=0.5)
    context = energy.condition(torch.randn(4, F))
    y = torch.rand(4, L)
    assert (context.mask == 0).any()
    assert torch.equal(energy.gradient(y, context), energy.gradient(y, context))
    energy.eval()
    assert energy.condition(torch.randn(4, F)).mask is None


@pytest.mark.parametrize("nonnegativity", ["projection", "reparametrization"])
@pytest.mark.parametrize("gate", [False, True])
@given(seed=st.integers(0, 2**16), rate=st.sampled_from([1e-3, 1e-2, 0.3]))
@settings(max_examples=10, deadline=None)
def test_icnn_is_convex_after_every_optimiser_step(nonnegativity, gate, seed, rate):
    """A real training, bce through the unrolled loop; after each step the Hessian has no negative eigenvalue."""
    torch.manual_seed(seed)
    energy = ICNN(F, L, hidden=(3, 4), gate=gate, nonnegativity=nonnegativity).double()
    solver = MirrorDescent(steps=3)
    optimizer = torch.optim.Adam(energy.parameters(), lr=rate)
    features, targets = torch.randn(8, F).double(), torch.randint(2, (8, L)).double()
    for _ in range(8):
        optimizer.zero_grad()
        bce(solver.solve(energy, energy.condition(features)), targets).backward()
        optimizer.step()
        energy.project()
        with torch.no_grad():
            context = energy.condition(features[:1])
            hessian = torch.func.hessian(lambda y, c=context: energy.potential(y[None], c)[0])(torch.rand(L).double())
        assert torch.linalg.eigvalsh(hessian).min() >= -1e-10
