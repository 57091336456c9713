"""jax.jit over the loop, unrolled by Python or scanned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.rivals.jax_energy import JaxContestant


class JaxUnrolled(JaxContestant):
    """T steps in the compiled function, one after another."""

    name = "jax unrolled"

    def loop(self, phi: Any, parameters: Mapping[str, Any]) -> Any:
        z = phi
        for _ in range(self.problem.steps):
            z = self.step(z, phi, parameters)
        return z


class JaxScan(JaxContestant):
    """One step in `jax.lax.scan`."""

    name = "jax scan"

    def loop(self, phi: Any, parameters: Mapping[str, Any]) -> Any:
        import jax

        return jax.lax.scan(lambda z, _: (self.step(z, phi, parameters), None), phi, length=self.problem.steps)[0]
