"""What every energy promises; a new energy's tests subclass this and give `make`."""

from __future__ import annotations

import pytest
import torch

from energynets.energies import Energy

B, F, L = 3, 6, 5


class EnergyContract:
    """Subclass, and return an energy over L labels and F features from `make`."""

    def make(self) -> Energy:
        raise NotImplementedError

    @pytest.fixture
    def energy(self) -> Energy:
        torch.manual_seed(0)
        return self.make().double()

    @pytest.fixture
    def features(self) -> torch.Tensor:
        return torch.randn(B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def y(self) -> torch.Tensor:
        return torch.rand(B, L, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def test_one_energy_per_document(self, energy, features, y):
        context = energy.condition(features)
        assert energy.potential(y, context).shape == (B,)
        assert energy(torch.logit(y), context).shape == (B,)

    def test_documents_do_not_see_each_other(self, energy, features, y):
        together = energy.potential(y, energy.condition(features))
        alone = torch.cat([energy.potential(y[i : i + 1], energy.condition(features[i : i + 1])) for i in range(B)])
        torch.testing.assert_close(together, alone)

    def test_gradient_is_the_derivative_of_the_potential(self, energy, features, y):
        context = energy.condition(features)
        point = y.clone().requires_grad_()
        (expected,) = torch.autograd.grad(energy.potential(point, context).sum(), point)
        torch.testing.assert_close(energy.gradient(y, context), expected, rtol=1e-12, atol=1e-13)

    def test_gradient_is_differentiable_in_y_and_every_parameter(self, energy, features, y):
        names = [name for name, _ in energy.named_parameters()]

        def gradient(y, features, *values):
            return torch.func.functional_call(_Gradient(energy), _prefixed(names, values), (y, features))

        values = [p.detach().clone().requires_grad_() for p in energy.parameters()]
        assert torch.autograd.gradcheck(gradient, (y.requires_grad_(), features.requires_grad_(), *values))

    def test_selected_context_is_that_of_those_documents(self, energy, features, y):
        rows = torch.tensor([2, 0])
        context = energy.condition(features)
        selected = energy.select(context, rows)
        torch.testing.assert_close(energy.potential(y[rows], selected), energy.potential(y, context)[rows])
        torch.testing.assert_close(energy.gradient(y[rows], selected), energy.gradient(y, context)[rows])

    def test_empty_batch(self, energy, features):
        context = energy.condition(features[:0])
        assert energy(torch.zeros(0, L, dtype=torch.float64), context).shape == (0,)
        assert energy.gradient(torch.zeros(0, L, dtype=torch.float64), context).shape == (0, L)


class ConvexEnergyContract(EnergyContract):
    """What an energy that says it is convex in y promises besides."""

    def test_convex_along_segments(self, energy, features):
        assert energy.convex
        context = energy.condition(features)
        generator = torch.Generator().manual_seed(3)
        for _ in range(50):
            a, b = torch.rand(2, B, L, dtype=torch.float64, generator=generator)
            share = torch.rand((), dtype=torch.float64, generator=generator)
            middle = energy.potential(share * a + (1 - share) * b, context)
            chord = share * energy.potential(a, context) + (1 - share) * energy.potential(b, context)
            assert (middle <= chord + 1e-12).all()


class _Gradient(torch.nn.Module):
    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, y, features):
        return self.energy.gradient(y, self.energy.condition(features))


def _prefixed(names, values):
    return {f"energy.{name}": value for name, value in zip(names, values, strict=True)}
