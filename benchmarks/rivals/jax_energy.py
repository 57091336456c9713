"""What the jax rivals share: the same energy, the same training step, compiled as one function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from benchmarks.rivals.contestant import Contestant, Problem


class JaxContestant(Contestant):
    """`jax.jit` of the whole task; compiled ahead, for its compiler's memory is no part of a step's."""

    packages: tuple[str, ...] = ("jax",)
    devices = ("cpu",)

    def __init__(self, problem: Problem, task: str, device: str = "cpu") -> None:
        super().__init__(problem, task, device)
        import jax

        self._arrays = jax.tree.map(jax.numpy.asarray, (dict(problem.parameters), problem.features, problem.targets))
        self._wait = jax.block_until_ready
        function = jax.grad(self._loss) if task == "training" else self._logits
        self._compiled = jax.jit(function).lower(*self._arrays).compile()

    @abstractmethod
    def loop(self, phi: Any, parameters: Mapping[str, Any]) -> Any:
        """phi (B, L) -> z_T (B, L), traced by jax."""

    def run(self) -> Mapping[str, Any]:
        found = self._wait(self._compiled(*self._arrays))
        return found if self.task == "training" else {"logits": found}

    def _logits(self, p: Mapping[str, Any], features: Any, targets: Any) -> Any:
        return self.loop(features @ p["unary.weight"].T + p["unary.bias"], p)

    def _loss(self, p: Mapping[str, Any], features: Any, targets: Any) -> Any:
        from jax.nn import softplus

        logits = self._logits(p, features, targets)
        return (softplus(logits) - targets * logits).sum() / len(logits)

    def step(self, z: Any, phi: Any, p: Mapping[str, Any]) -> Any:
        """z - eta (g + tau z), g by `jax.grad`."""
        import jax

        gradient = jax.grad(self._potential)(jax.nn.sigmoid(z), phi, p)
        return z - self.problem.step_size * (gradient + self.problem.tau * z)

    def _potential(self, y: Any, phi: Any, p: Mapping[str, Any]) -> Any:
        from jax.nn import softplus

        m = y @ p["measure"].T + p["offset"]
        if self.problem.energy == "icnn":
            width = m.shape[1] // 2
            m = m[:, width:] + softplus(m[:, :width]) @ p["head.hidden_weights.0"].T
        return (softplus(m) @ p["head.output"]).sum() - (phi * y).sum()
