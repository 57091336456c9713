"""Which path a model takes, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from energynets.energies import Energy, MeasuredEnergy
from energynets.inference.engine.fused import refusal
from energynets.inference.engine.heads import has_closed_form
from energynets.inference.solver import Solver

if TYPE_CHECKING:
    from energynets.inference.descent import Descent, GradientDescent, ProjectedGradient

# What the engine computes in closed form itself: an energy that brings its own version of one of these is not measured
# as the engine thinks it is.
_CLOSED_FORM = (
    *("condition", "potential", "gradient", "measurements", "adjoint", "slope", "head_values"),
    *("forward", "initial_logits"),
)
# The same of a solver's step.
_STEP = (
    "_step",
    "_slope",
    "_move",
    "_direction",
    "_from_logits",
    "_to_logits",
    "_to_labels",
    "_project",
    "_observed_logits",
)
_general_only: ContextVar[bool] = ContextVar("general_path", default=False)


class Path(NamedTuple):
    """How a descent is computed and differentiated.

    Args:
        fast: by the engine; else by plain operations under autograd.
        reason: why.
    """

    fast: bool
    reason: str


@contextlib.contextmanager
def general_path() -> Iterator[None]:
    """Take the general path whatever the model, for second derivatives and as the oracle of the fast one.

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent
        >>> from energynets.inference import general_path, path
        >>> with general_path():
        ...     path(SPEN(8, 5), MirrorDescent()).fast
        False
    """
    token = _general_only.set(True)
    try:
        yield
    finally:
        _general_only.reset(token)


def path(energy: Energy, solver: Solver) -> Path:
    """Which path inference of this energy by this solver takes, and why.

    Args:
        energy: any energy.
        solver: any solver.

    Returns:
        A `Path`.

    Example:
        >>> from energynets import SPEN, MirrorDescent
        >>> from energynets.inference import path
        >>> path(SPEN(8, 5), MirrorDescent()).fast
        True
    """
    from energynets.inference.descent import GradientDescent, ProjectedGradient

    if reason := general_reason(energy, solver):
        return Path(False, reason)
    assert isinstance(energy, MeasuredEnergy)
    head = "in closed form" if has_closed_form(energy.head) else "by autograd on K numbers"
    if isinstance(solver, GradientDescent | ProjectedGradient):
        how = _iterates(solver)
    else:
        how = _operations(energy, solver)  # type: ignore[arg-type]
    return Path(True, f"measured energy, hand-derived backward, {type(energy.head).__name__} {head}; {how}")


def general_reason(energy: Energy, solver: Solver) -> str | None:
    """Why a model takes the general path, or None where the engine takes it."""
    if _general_only.get():
        return "general_path() asks for it"
    if reason := unmeasured(energy):
        return reason
    rows: Any = energy.measure
    if rows.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(rows.device.type):  # meta knows none
        return "an autocast is on, and the engine's products take factors as they are"
    method = type(solver)
    if getattr(solver, "engine", None) is None:
        return f"{method.__name__} is not a loop of steps that the engine unrolls: it differentiates in its own way"
    if "engine" not in vars(method):
        source = next(base for base in method.__mro__ if "engine" in vars(base))
        if name := _differs(method, source, _STEP):
            return f"{method.__name__} brings its own `{name}`, which the closed form knows nothing of"
    return None


def _operations(energy: MeasuredEnergy, solver: Descent) -> str:
    refused = refusal(energy) if solver.precision == "float32" else f"products in {solver.precision}"
    if not solver.keeps_all:
        refused = f"{solver.memory} of {solver.steps} iterates kept"
    if refused is not None:
        return f"torch operations, not native code: {refused}"
    ends = [name for name in ("tolerance", "line_search") if getattr(solver, name)]
    alone = f" where training differentiates them; with {' and '.join(ends)} prediction is torch operations"
    return "all steps in native code" + (alone if ends else "")


def _iterates(solver: GradientDescent | ProjectedGradient) -> str:
    kept = "all" if solver.memory is None else f"{min(solver.memory, solver.steps)} of"
    return f"torch operations, {kept} {solver.steps} iterates kept"


def unmeasured(energy: Energy) -> str | None:
    """Why an energy is not the closed form E = -<phi, y> + h(y A^T + a0) + tau R(y), or None where it is."""
    kind = type(energy)
    if not isinstance(energy, MeasuredEnergy):
        return f"{kind.__name__} is no MeasuredEnergy: its gradient comes from autograd, step by step"
    if name := _differs(kind, MeasuredEnergy, _CLOSED_FORM) or _own(energy, _CLOSED_FORM):
        return f"{kind.__name__} brings its own `{name}`, which the closed form knows nothing of"
    if not has_closed_form(energy.head) and _draws(energy.head):
        return f"{type(energy.head).__name__} has dropout, which a backward pass of its own would draw anew"
    return None


def _differs(kind: type, base: type, names: Sequence[str]) -> str | None:
    """The first of these attributes that a class does not have from `base`. Asked in every step of training."""
    of = attrgetter(*names)
    return None if of(kind) == of(base) else next(n for n in names if getattr(kind, n) is not getattr(base, n))


def _own(energy: Energy, names: Sequence[str]) -> str | None:
    """The first of them that an instance has itself."""
    own = vars(energy)
    return next((name for name in names if name in own), None)


def _draws(head: nn.Module) -> bool:
    modules = (part for part in head.modules() if isinstance(part, nn.modules.dropout._DropoutNd))
    return any(part.training and part.p > 0 for part in modules)


def asked_for_general_path() -> bool:
    """Whether `general_path()` is at work."""
    return _general_only.get()
