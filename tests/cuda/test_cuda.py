"""What must hold on a CUDA device: the same numbers as on the CPU in float64."""

from __future__ import annotations

import pytest
import torch

from energynets import ICNN, SPEN, GradientDescent, MirrorDescent, ProjectedGradient
from energynets.objectives.losses import bce

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ENERGIES = {
    "spen": lambda: SPEN(16, 50, num_measurements=8, condition_measurements=True, learn_tau=True),
    "icnn": lambda: ICNN(16, 50, hidden=(6, 4), gate=True),
}
SOLVERS = {
    "mirror_descent": lambda: MirrorDescent(5, momentum=0.3, learn_step_sizes=True),
    "gradient_descent": lambda: GradientDescent(5, step_size=2.0),
    "projected_gradient": lambda: ProjectedGradient(5),
}


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_training_step_equals_cpu_float64(energy, solver):
    torch.manual_seed(0)
    energy, solver = ENERGIES[energy](), SOLVERS[solver]()
    features, targets = torch.randn(12, 16), torch.randint(2, (12, 50)).float()

    def step(device, dtype):
        energy.to(device, dtype)
        solver.to(device, dtype)
        logits = solver.solve(energy, energy.condition(features.to(device, dtype)))
        parameters = [*energy.parameters(), *solver.parameters()]
        gradients = torch.autograd.grad(bce(logits, targets.to(device, dtype)), parameters)
        return [tensor.detach().cpu().double() for tensor in (logits, *gradients)]

    exact = step("cpu", torch.float64)
    for found, expected in zip(step("cuda", torch.float64), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for found, expected in zip(step("cuda", torch.float32), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)
