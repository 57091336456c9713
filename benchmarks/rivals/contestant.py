"""What is timed: one training step or one inference, of one energy, on the same numbers for every contestant."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray
TASKS = ("training", "inference")


@dataclass(frozen=True)
class Problem:
    """T steps of mirror descent, z_{t+1} = z_t - eta (dE/dy + tau z_t), from z_0 = phi, and the loss of z_T.

    Args:
        energy: `spen`, E = -<phi, y> + <c, softplus(y A^T + a0)> - tau H(y), or `icnn` with two convex layers.
        parameters: by the names of `energynets`: unary.weight U (L, F), unary.bias u0 (L,), measure A (K, L), offset a0
            (K,), head.output c (K,) or (K/2,), and for the ICNN head.hidden_weights.0 (K/2, K/2).
        features: (B, F).
        targets: 0 or 1, (B, L). The loss is binary cross-entropy summed over labels, averaged over documents.
        steps: T.
    """

    energy: str
    parameters: Mapping[str, Array]
    features: Array
    targets: Array
    steps: int
    step_size: float = 1.0
    tau: float = 1.0

    def astype(self, dtype: Any) -> Problem:
        """The same numbers at another precision."""
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        return replace(
            self, parameters=parameters, features=self.features.astype(dtype), targets=self.targets.astype(dtype)
        )


class Contestant(ABC):
    """A way to compute one task of one problem.

    Args:
        problem: the numbers.
        task: `training` or `inference`.
        device: where torch computes.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """What it needs besides torch and numpy."""
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    tasks: ClassVar[tuple[str, ...]] = TASKS
    tolerance: ClassVar[float] = 1e-4
    """Largest relative difference from ours, of any parameter's gradient, that it is timed with."""
    rounding: ClassVar[float] = 2.0**-24
    """Largest relative error of one factor of its products."""
    has_peak: ClassVar[bool] = True
    """Whether a run takes memory that it gives back, so that there is a peak to read."""

    def __init__(self, problem: Problem, task: str, device: str = "cpu") -> None:
        self.problem, self.task, self.device = problem, task, device

    @classmethod
    def missing(cls, device: str = "cpu") -> str | None:
        """Why it cannot take part here, or None."""
        absent = [package for package in cls.packages if importlib.util.find_spec(package) is None]
        if absent:
            return f"{', '.join(absent)} not installed"
        kind = device.partition(":")[0]
        return None if kind in cls.devices else f"runs on {', '.join(cls.devices)}, not {kind}"

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of its packages."""
        return {package: metadata.version(package) for package in cls.packages}

    @abstractmethod
    def run(self) -> Mapping[str, Any]:
        """A training step's gradients by parameter, or {"logits": z_T} of an inference.

        It is done when this returns, or, on CUDA, when the device's queue is drained.
        """

    def numbers(self) -> dict[str, Array]:
        """What `run` returns, as numpy arrays."""
        return {name: np.array(to_numpy(value)) for name, value in self.run().items()}


def to_numpy(value: Any) -> Array:
    """A tensor or an array, on the host."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
