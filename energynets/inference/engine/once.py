"""First derivatives only, and an error instead of half a second one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from energynets.errors import InferenceError
from energynets.inference.engine.autocast import full_precision

Backward = Callable[..., tuple[Any, ...]]

_ENGINE = (
    "the engine's backward pass is hand-derived and has no second derivative; "
    "run inference under `with energynets.inference.general_path():`"
)


def once(backward: Backward, why: str = _ENGINE) -> Backward:
    """A hand-derived backward that refuses to be differentiated itself; no autocast is on in it, as in its forward.

    Args:
        backward: of a `torch.autograd.Function`.
        why: there is no second derivative, and what has one.

    `torch.autograd.function.once_differentiable` lets a second derivative pass, without the terms through this
    operation, wherever the gradient asked for can be reached another way.

    Raises:
        InferenceError: at `create_graph=True`.
    """

    exact = full_precision(backward)

    @functools.wraps(backward)
    def checked(ctx: Any, *bars: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise InferenceError(f"create_graph=True: {why}")
        return exact(ctx, *bars)

    return checked
