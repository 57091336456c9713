"""How gradients flow through inference: a value, not a flag."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from energynets.errors import ConfigError, counts


@dataclass(frozen=True)
class Unroll:
    """Differentiate through all T steps, exactly.

    Source: Domke, Generic methods for optimization-based modeling (2012), section 4.

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent, Unroll, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> context = energy.condition(torch.randn(2, 8))
        >>> infer(energy, context, solver=MirrorDescent(steps=10), gradient=Unroll()).y.sum().backward()
        >>> energy.unary.weight.grad.shape
        torch.Size([5, 8])
    """


@dataclass(frozen=True)
class Truncated:
    """Differentiate through the last k steps; what came before them counts as constant.

    Args:
        steps: k >= 1. With k >= T it is `Unroll()`.

    Raises:
        ConfigError: k < 1.

    Source: Shaban et al., Truncated back-propagation for bilevel optimization (2019), section 2.

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent, Truncated, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> context = energy.condition(torch.randn(2, 8))
        >>> infer(energy, context, solver=MirrorDescent(steps=10), gradient=Truncated(3)).y.sum().backward()
        >>> energy.unary.weight.grad.shape
        torch.Size([5, 8])
    """

    steps: int = 1

    def __post_init__(self) -> None:
        if not counts(self.steps):
            raise ConfigError(f"truncated: expected one step or more, a whole number, got {self.steps!r}")


@dataclass(frozen=True)
class Implicit:
    """Differentiate the fixed point that inference converged to, by the implicit function theorem.

    Wrong where inference has not converged, so both residuals are checked: that of the fixed point and that of the
    linear system of the adjoint; a `NotConvergedWarning` says which, how far and for how many documents. A fixed point
    does not depend on where inference starts: z_0 gets no gradient.

    Args:
        tolerance: largest residual, relative for the adjoint, that counts as converged.
        max_iterations: of the adjoint's linear solver.

    Source: Bai, Kolter & Koltun, Deep equilibrium models (2019), theorem 1.

    Example:
        >>> import torch
        >>> from energynets import SPEN, Implicit, MirrorDescent, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> context = energy.condition(torch.randn(2, 8))
        >>> infer(energy, context, solver=MirrorDescent(steps=50), gradient=Implicit(tolerance=1e-3)).y.sum().backward()
        >>> energy.unary.weight.grad.shape
        torch.Size([5, 8])
    """

    tolerance: float = 1e-4
    max_iterations: int = 50

    def __post_init__(self) -> None:
        if not self.tolerance > 0 or not counts(self.max_iterations):
            raise ConfigError(
                "implicit: expected a positive tolerance and one iteration or more, "
                f"got {self.tolerance} and {self.max_iterations}"
            )


@dataclass(frozen=True)
class NoGradient:
    """Keep no graph: for prediction. Works under `torch.no_grad` and `torch.inference_mode` too.

    Example:
        >>> import torch
        >>> from energynets import SPEN, NoGradient, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> infer(energy, energy.condition(torch.randn(2, 8)), gradient=NoGradient()).y.requires_grad
        False
    """


GradientMode = Unroll | Truncated | Implicit | NoGradient
_MODES = (Unroll, Truncated, Implicit, NoGradient)


def gradient_mode(given: object) -> GradientMode:
    """The mode that is given, `Unroll()` where none is.

    Raises:
        ConfigError: something else, the class of a mode for one: it would count as `Unroll()`.
    """
    if given is None:
        return Unroll()
    if isinstance(given, _MODES):
        return given
    raise ConfigError(f"gradient: expected Unroll(), Truncated(k), Implicit() or NoGradient(), got {_said(given)}")


def _said(given: object) -> str:
    return f"the class {given.__name__}: call it, {given.__name__}()" if isinstance(given, type) else repr(given)


def keeping_graph(gradient: GradientMode | None) -> AbstractContextManager[None]:
    """Within it operations keep a graph as the mode has it: none under `NoGradient`."""
    return torch.no_grad() if isinstance(gradient, NoGradient) else contextlib.nullcontext()
