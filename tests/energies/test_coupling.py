"""Couplings of labels against finite differences of h and against planted energies."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from energynets.energies import ICNN, SPEN
from energynets.energies.coupling import mean_curvature, strongest_pairs
from energynets.energies.measured import MeasuredEnergy
from energynets.errors import ConfigError

F, L, K, B = 5, 7, 6, 4


def energies() -> list[MeasuredEnergy]:
    torch.manual_seed(0)
    found: list[MeasuredEnergy] = [
        SPEN(F, L, num_measurements=K),
        SPEN(F, L, num_measurements=K, hidden=(5, 4), condition_measurements=True),
        ICNN(F, L, hidden=(3, 3)),
    ]
    for energy in found:
        energy.double().eval()
        with torch.no_grad():
            for parameter in energy.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            energy.project()
    return found


def by_differences(energy: MeasuredEnergy, y: Tensor, context: object, i: int, j: int, step: float = 1e-4) -> float:
    """The mixed second difference of the energy's potential, averaged over documents: phi is linear and drops out."""
    total = 0.0
    for a, b in itertools.product((-1, 1), repeat=2):
        moved = y.clone()
        moved[:, i] += a * step
        moved[:, j] += b * step
        total += a * b * float(energy.potential(moved, context).mean())
    return total / (4 * step**2)


@pytest.mark.parametrize("number", range(3))
def test_pairs_are_those_of_finite_differences(number: int) -> None:
    energy = energies()[number]
    y = torch.rand(B, L, dtype=torch.float64)
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    with torch.no_grad():
        expected = {(i, j): by_differences(energy, y, context, i, j) for i, j in itertools.combinations(range(L), 2)}
    curvature = mean_curvature(energy, y, context)
    attracting, repelling = strongest_pairs(energy.measure.detach(), curvature, L * L)
    for i, j, coupling in attracting + repelling:
        assert coupling == pytest.approx(expected[i, j], rel=1e-4, abs=1e-6)
    assert len(attracting) + len(repelling) == L * (L - 1) // 2
    assert [pair.coupling for pair in attracting] == sorted(value for value in expected_of(attracting))
    assert [pair.coupling for pair in repelling] == sorted(expected_of(repelling), reverse=True)


def expected_of(pairs: list[tuple[int, int, float]]) -> list[float]:
    return [coupling for _, _, coupling in pairs]


def test_planted_ties_are_found_with_their_sign() -> None:
    """h = -softplus(y_0 + y_3) + 2 softplus(y_1 + y_4): the first pair attracts, the second repels, nothing else."""
    energy = SPEN(F, L, num_measurements=2).double().eval()
    with torch.no_grad():
        energy.measure.zero_()
        energy.measure[0, [0, 3]] = 1.0
        energy.measure[1, [1, 4]] = 1.0
        energy.head.output.copy_(torch.tensor([-1.0, 2.0]))  # type: ignore[union-attr, operator]
        y = torch.zeros(B, L, dtype=torch.float64)
        context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    attracting, repelling = strongest_pairs(energy.measure.detach(), mean_curvature(energy, y, context), 10)
    # softplus'' (0) = 1/4
    assert attracting == [(0, 3, pytest.approx(-0.25))]
    assert repelling == [(1, 4, pytest.approx(0.5))]


class PowerOfSum(nn.Module):
    """h = a power of the sum of m, without a closed form of its gradient."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, measurements: Tensor) -> Tensor:
        return measurements.sum(-1) ** self.power


@pytest.mark.parametrize(("power", "expected"), [(1, 0.0), (2, 2.0)])
def test_heads_of_ones_own(power: int, expected: float) -> None:
    """The Hessian of a sum squared is 2 everywhere; that of a sum 0."""
    energy = MeasuredEnergy(F, L, K, PowerOfSum(power)).double().eval()
    context = energy.condition(torch.randn(B, F, dtype=torch.float64))
    curvature = mean_curvature(energy, torch.rand(B, L, dtype=torch.float64), context)
    assert torch.allclose(curvature, torch.full((K, K), expected, dtype=torch.float64))
    if power == 1:
        assert strongest_pairs(energy.measure.detach(), curvature, 5) == ([], [])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    measure, half = torch.randn(K, 40, dtype=torch.float64), torch.randn(K, K, dtype=torch.float64)
    curvature = half + half.T
    coupling = measure.T @ curvature @ measure
    upper = coupling[torch.triu_indices(40, 40, 1).unbind()]
    for block in (1, 170, 10**6):
        monkeypatch.setattr("energynets.energies.coupling._BLOCK", block)
        attracting, repelling = strongest_pairs(measure, curvature, 9)
        assert [p.coupling for p in attracting] == pytest.approx(upper.sort().values[:9].tolist())
        assert [p.coupling for p in repelling] == pytest.approx(upper.sort(descending=True).values[:9].tolist())
        for first, second, value in attracting + repelling:
            assert first < second
            assert value == pytest.approx(float(coupling[first, second]))


def test_a_gated_energy_has_no_one_coupling() -> None:
    energy = ICNN(F, L, hidden=(3, 3), gate=True)
    context = energy.condition(torch.randn(B, F))
    with pytest.raises(ConfigError, match="gated"):
        mean_curvature(energy, torch.rand(B, L), context)
