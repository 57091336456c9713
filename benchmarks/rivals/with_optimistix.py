"""optimistix: mirror descent as a fixed-point iteration of T steps, differentiated through its loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.rivals.jax_energy import JaxContestant


class Optimistix(JaxContestant):
    """`optimistix.fixed_point`, its tolerance out of reach so that all T steps are taken."""

    name = "optimistix"
    packages = ("jax", "optimistix")

    def loop(self, phi: Any, parameters: Mapping[str, Any]) -> Any:
        import optimistix

        return optimistix.fixed_point(
            lambda z, given: self.step(z, *given),
            optimistix.FixedPointIteration(rtol=0.0, atol=0.0),
            phi,
            args=(phi, parameters),
            max_steps=self.problem.steps,
            adjoint=optimistix.RecursiveCheckpointAdjoint(),
            throw=False,
        ).value
