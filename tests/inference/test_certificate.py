"""The certificate against the true gap."""

from __future__ import annotations

import pytest
import torch
from exact_minimum import doubled, minimum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from energynets.energies import ICNN, SPEN, Euclidean, Simplex
from energynets.errors import InferenceError, ShapeError
from energynets.inference import (
    NO_CERTIFICATE,
    GradientDescent,
    MirrorDescent,
    NoGradient,
    Observed,
    certificate,
    infer,
)

F, B = 4, 12


def convex_energy(seed, labels, *, tau=1.0, scale=1.0, gate=False, domain=None, dtype=torch.float64):
    """A random ICNN whose potential is far from modular, its context and a generator."""
    torch.manual_seed(seed)
    energy = ICNN(F, labels, hidden=(3, 4), gate=gate, tau=tau, domain=domain, condition_measurements=True)
    with torch.no_grad():
        energy.measure.normal_(std=scale)
        energy.condition_weight.normal_()
        energy.head.output.uniform_(0, scale)
        for gate_layer in energy.gates:
            gate_layer.weight.normal_()
    energy = energy.to(dtype)
    return energy, energy.condition((2 * torch.randn(B, F)).to(dtype))


def true_gaps(energy, context, answers, observed=None):
    """E(y) - min E of each answer (B, L), and the rounding of that difference, in float64."""
    energy, context = doubled(energy, context)
    answers = [logits.double() for logits in answers]
    if observed is not None:
        observed = Observed(observed.values.double(), observed.mask)
        answers = [observed.logits(logits, energy.domain) for logits in answers]
    with torch.no_grad():
        best = energy(minimum(energy, context, answers[-1], observed), context)
        energies = torch.stack([energy(logits, context) for logits in answers])
        return energies - best, 1e-13 * (1 + energies.abs() + best.abs())


DOMAINS = {"box": None, "simplex": Simplex(3), "euclidean": Euclidean()}


def test_not_below_the_true_gap_where_the_curvature_underflows():
    """In float32 sigmoid(-92) is 0, and y (1 - y) with it."""
    energy = ICNN(2, 1, hidden=(1, 1), tau=0.1)
    with torch.no_grad():
        energy.head.output.zero_()
    context = energy.condition(torch.zeros(1, 2))._replace(unary=torch.full((1, 1), 1.576))
    answers = [torch.full((1, 1), z) for z in (92.0, 105.0, -92.0)]
    gaps, rounding = true_gaps(energy, context, answers)
    bounds = torch.stack([certificate(energy, logits, context) for logits in answers])
    assert gaps[0] > 1e-8
    assert (bounds.double() >= gaps - rounding).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 4),
    tau=st.sampled_from([0.1, 1.0, 3.0]),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
    gate=st.booleans(),
    observe=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    domain=st.sampled_from(sorted(DOMAINS)),
)
def test_never_below_the_true_gap(seed, groups, tau, scale, gate, observe, dtype, domain):
    """Of starts, saturated answers and answers at every stage of inference: B x 7 of them an example."""
    labels = 3 * groups
    energy, context = convex_energy(seed, labels, tau=tau, scale=scale, gate=gate, domain=DOMAINS[domain], dtype=dtype)
    observed = None
    if observe:
        mask = (torch.rand(B, groups) < 0.4).repeat_interleave(3, 1)
        values = nn.functional.one_hot(torch.randint(3, (B, groups)), 3).flatten(1).to(dtype)
        observed = Observed(values, mask)
    answers = [torch.randn(B, labels, dtype=dtype) * spread for spread in (1.0, 60.0)]
    for steps in (0, 3, 30, 300, 1_000):
        solver = MirrorDescent(steps, step_size=min(0.5 / tau, 0.3 / (1 + scale**3 * labels)))
        answers.append(solver.solve(energy, context, gradient=NoGradient(), observed=observed))
    gaps, rounding = true_gaps(energy, context, answers, observed)
    bounds = torch.stack([certificate(energy, logits, context, observed) for logits in answers])
    assert (bounds.double() >= gaps - rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_not_below_the_true_gap_of_many_saturated_answers(dtype):
    """Thousands near the minimum of a modular energy, where the bound's terms are the tightest: closed form."""
    energy, _ = convex_energy(0, 12, dtype=dtype)
    nn.init.zeros_(energy.head.output)
    context = energy.condition(torch.randn(4_000, F, dtype=dtype))
    spread = torch.logspace(-9, 1, 4_000, dtype=dtype)[:, None]
    context = context._replace(unary=torch.randn(4_000, 12, dtype=dtype) * 30)
    logits = context.unary + spread * torch.randn(4_000, 12, dtype=dtype)
    exact, start = logits.double(), context.unary.double()
    softplus = lambda z: torch.logaddexp(z, torch.zeros_like(z))  # noqa: E731 - exact beyond 20, unlike torch's own
    gap = softplus(start) - softplus(exact) + torch.sigmoid(exact) * (exact - start)  # KL(y, sigmoid(phi))
    bound = certificate(energy, logits, context).double()
    assert (bound >= gap.sum(-1) - 1e-12).all()
    near = (spread[:, 0] > 1e-2) & (spread[:, 0] < 0.3)
    assert (bound[near] <= 3 * gap.sum(-1)[near] + 1e-7).all()  # and not far above it, near the minimum


def test_never_above_either_of_its_two_bounds():
    energy, context = convex_energy(1, 9, tau=0.7)
    logits = 3 * torch.randn(B, 9, dtype=torch.float64)
    y = torch.sigmoid(logits)
    slope = energy.gradient(y, context) + energy.tau * logits
    frank_wolfe = torch.maximum(slope * y, -slope * (1 - y)).sum(-1)
    bound = certificate(energy, logits, context)
    assert (bound <= torch.minimum(frank_wolfe, slope.square().sum(-1) / (8 * energy.tau)) * (1 + 1e-9)).all()


@pytest.mark.parametrize("domain", sorted(DOMAINS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tends_to_zero_as_inference_converges(domain, dtype):
    energy, context = convex_energy(2, 6, domain=DOMAINS[domain], dtype=dtype)
    bounds = [
        infer(energy, context, solver=MirrorDescent(steps, step_size=0.1), gradient=NoGradient()).certificate.max()
        for steps in (3, 30, 1_000)
    ]
    assert bounds[0] > 10 * bounds[1] > 50 * bounds[2]
    assert bounds[2] < (1e-8 if dtype == torch.float32 else 1e-20)


def test_observed_labels_count_in_neither_bound():
    energy, context = convex_energy(3, 6)
    known = Observed(torch.ones(B, 6), torch.ones(B, 6, dtype=torch.bool))
    assert torch.equal(certificate(energy, torch.randn(B, 6).double(), context, known), torch.zeros(B).double())
    half = Observed(torch.ones(B, 6), (torch.arange(6) < 3).expand(B, 6))
    result = infer(energy, context, observed=half, solver=MirrorDescent(1_000, step_size=0.1), gradient=NoGradient())
    assert result.certificate.max() < 1e-15


def test_result_says_it_or_says_why_not():
    energy, context = convex_energy(4, 5)
    result = infer(energy, context, solver=GradientDescent(5))
    assert result.certificate.shape == (B,)
    assert not result.certificate.requires_grad
    assert result.certificate_note == f"E(y) - min E <= {result.certificate.max():.2e}"
    torch.testing.assert_close(result.certificate, certificate(energy, result.logits.detach(), context))
    spen = SPEN(F, 5)
    result = infer(spen, spen.condition(torch.randn(3, F)))
    assert result.certificate is None
    assert result.certificate_note == NO_CERTIFICATE == "no certificate: not convex"
    with pytest.raises(InferenceError, match="not convex: SPEN"):
        certificate(spen, torch.zeros(3, 5), spen.condition(torch.randn(3, F)))


def test_edges():
    energy, context = convex_energy(5, 5)
    empty = energy.condition(torch.randn(0, F, dtype=torch.float64))
    result = infer(energy, empty)
    assert result.certificate.shape == (0,)
    assert result.certificate_note.endswith("0.00e+00")
    logits = torch.randn(B, 5).double()
    logits[1, 2] = torch.nan
    assert torch.isinf(certificate(energy, logits, context)).tolist() == [row == 1 for row in range(B)]
    with pytest.raises(ShapeError, match="observed"):
        certificate(energy, logits, context, Observed(torch.ones(B, 2), torch.ones(B, 2, dtype=torch.bool)))


def test_weights_that_were_not_projected_are_not_convex():
    energy, context = convex_energy(0, 5)
    assert infer(energy, context).certificate is not None
    with torch.no_grad():
        energy.head.output[0] = -3.0
    assert infer(energy, context).certificate_note == NO_CERTIFICATE
    with pytest.raises(InferenceError, match=NO_CERTIFICATE):
        certificate(energy, context.unary, context)
    energy.project()
    assert infer(energy, context).certificate is not None


def test_reparametrised_weights_are_convex_whatever_is_stored():
    energy = ICNN(F, 5, hidden=(3, 4), nonnegativity="reparametrization")
    with torch.no_grad():
        energy.head.output.fill_(-3.0)
    assert energy.convex


def test_certificates_of_several_weights_at_once():
    """vmap lets no weight of one model decide what is done to all."""
    energy = ICNN(F, 5, hidden=(3, 4))
    stacked = {name: torch.stack([p, p]).detach() for name, p in energy.named_parameters()}
    features = torch.randn(3, F)

    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, features):
            return infer(self.energy, self.energy.condition(features), gradient=NoGradient()).certificate

    def bound(weights):
        return torch.func.functional_call(Bound(), {f"energy.{k}": v for k, v in weights.items()}, (features,))

    assert torch.vmap(bound)(stacked).shape == (2, 3)
    with torch.device("meta"):
        assert ICNN(F, 5).convex  # no numbers to look at
