"""What the engine promises for every measured energy; a new energy's or head's tests subclass this and give `make`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from energynets.energies import MeasuredEnergy
from energynets.inference import (
    Descent,
    GradientDescent,
    GradientMode,
    MirrorDescent,
    NoGradient,
    Observed,
    ProjectedGradient,
    Truncated,
    Unroll,
    general_path,
    path,
)

F, L = 4, 5
SOLVERS = {
    "mirror": lambda steps: MirrorDescent(steps, step_size=0.7),
    "mean field": lambda steps: MirrorDescent(steps),
    "mirror momentum": lambda steps: MirrorDescent(steps, step_size=0.7, momentum=0.4, learn_step_sizes=True),
    "gradient": lambda steps: GradientDescent(steps, step_size=1.3),
    "gradient momentum": lambda steps: GradientDescent(steps, momentum=0.4, learn_step_sizes=True, memory=2),
    "projected": lambda steps: ProjectedGradient(steps, step_size=0.1),
    "projected momentum": lambda steps: ProjectedGradient(
        steps, step_size=0.1, momentum=0.4, learn_step_sizes=True, memory=2
    ),
}
MODES = {"unroll": Unroll(), "truncated": Truncated(2), "no gradient": NoGradient()}


def inputs_of(energy: MeasuredEnergy, batch: int) -> tuple[Tensor, Tensor]:
    """Features and z_0."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(batch, energy.num_features, dtype=torch.float64, generator=generator)
    initial = torch.randn(batch, energy.num_labels, dtype=torch.float64, generator=generator)
    return features.requires_grad_(), initial.requires_grad_()


def some_known(energy: MeasuredEnergy, batch: int) -> Observed:
    """The first half of the labels, of every other document, one of them holding."""
    mask = torch.zeros(batch, energy.num_labels, dtype=torch.bool)
    mask[::2, : max(energy.num_labels // 2, 1)] = True
    values = torch.zeros(batch, energy.num_labels, dtype=torch.float64)
    values[:, 0] = 1
    return Observed(values, mask)


def check_against_the_general_path(
    energy: MeasuredEnergy,
    solver: Descent,
    mode: GradientMode | None = None,
    *,
    batch: int = 3,
    observed: Observed | None = None,
    from_unary: bool = False,
    step_loss: bool = False,
) -> None:
    """Logits, losses and every gradient agree to 1e-10 of their size."""
    energy, solver = energy.double(), solver.double()
    features, initial = inputs_of(energy, batch)
    context = energy.condition(features)  # once: both paths see one dropout mask
    start = None if from_unary else initial
    wanted = [*energy.parameters(), *solver.parameters(), features, initial]
    names = [*(name for name, _ in energy.named_parameters()), "step sizes", "features", "initial"]
    weights = torch.randn(batch, energy.num_labels, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def loss(step: int, logits: Tensor) -> Tensor:
        return (1 + step) * (torch.sigmoid(logits) * weights).sum()

    def run() -> list[Tensor | None]:
        if step_loss:
            logits, total = solver.solve_with_losses(energy, context, loss, start, gradient=mode, observed=observed)
            target = total + (logits * weights).sum()
        else:
            logits = solver.solve(energy, context, start, gradient=mode, observed=observed)
            target = (logits * weights).sum()
        if isinstance(mode, NoGradient):
            assert not target.requires_grad
            return [logits, target]
        found = torch.autograd.grad(target, wanted, allow_unused=True, retain_graph=True)
        return [logits.detach(), target.detach(), *found]

    assert path(energy, solver).fast
    fast = run()
    with general_path():
        slow = run()
    for name, a, b in zip(["logits", "value", *names], fast, slow, strict=False):
        a, b = (torch.zeros(()) if tensor is None else tensor for tensor in (a, b))
        error = (a - b).abs().max() if (a - b).numel() else 0
        assert error <= 1e-10 * b.abs().max().clamp(min=1e-3) if b.numel() else True, name


class EngineContract:
    """Subclass, and return an energy over F features and `num_labels` labels from `make`."""

    def make(self, num_labels: int) -> MeasuredEnergy:
        raise NotImplementedError

    def energy(self, num_labels: int = L) -> MeasuredEnergy:
        torch.manual_seed(0)
        energy = self.make(num_labels)
        nn.init.normal_(energy.measure)  # far from linear
        if energy.condition_weight is not None:
            nn.init.normal_(energy.condition_weight)
        return energy.double()

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_equals_the_general_path(self, solver, mode):
        check_against_the_general_path(self.energy(), SOLVERS[solver](4), MODES[mode])

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_with_dropout_off_from_the_unary(self, solver):
        check_against_the_general_path(self.energy().eval(), SOLVERS[solver](4), from_unary=True)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_with_known_labels(self, solver, mode):
        energy = self.energy()
        check_against_the_general_path(energy, SOLVERS[solver](4), MODES[mode], observed=some_known(energy, 3))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_losses_of_every_step(self, solver, mode):
        energy = self.energy()
        known = some_known(energy, 3)
        check_against_the_general_path(energy, SOLVERS[solver](4), MODES[mode], observed=known, step_loss=True)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize(("batch", "steps", "labels"), [(0, 4, L), (1, 1, 1), (1, 4, 1), (3, 0, L), (3, 1, L)])
    def test_edge_sizes(self, solver, batch, steps, labels):
        check_against_the_general_path(self.energy(labels), SOLVERS[solver](steps), batch=batch)
        check_against_the_general_path(self.energy(labels), SOLVERS[solver](steps), batch=batch, step_loss=True)
