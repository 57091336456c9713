"""optimistix: mirror descent as a fixed-point iteration of T steps, differentiated through its loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.rivals.jax_energy import JaxContestant


class Optimistix(JaxContestant):
    """`optimistix.fixed_point`, no step of which is ever small enough to stop: all T are taken.

    A tolerance of 0 would not do: once a step changes no bit, the difference is 0 too.
    """

    name = "optimistix"
    packages = ("jax", "optimistix")

    def loop(self, phi: Any, parameters: Mapping[str, Any]) -> Any:
        import jax
        import optimistix

        return optimistix.fixed_point(
            lambda z, given: self.step(z, *given),
            optimistix.FixedPointIteration(rtol=0.0, atol=0.0, norm=lambda _: jax.numpy.full((), jax.numpy.inf)),
            phi,
            args=(phi, parameters),
            max_steps=self.problem.steps,
            adjoint=optimistix.RecursiveCheckpointAdjoint(),
            throw=False,
        ).value
