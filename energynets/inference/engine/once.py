"""First derivatives only, and an error instead of half a second one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from energynets.errors import InferenceError


def once(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A hand-derived backward that refuses to be differentiated itself.

    `torch.autograd.function.once_differentiable` lets a second derivative pass, without the terms through this
    operation, wherever the gradient asked for can be reached another way.

    Raises:
        InferenceError: at `create_graph=True`.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *bars: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise InferenceError(
                "create_graph=True: the engine's backward pass is hand-derived and has no second derivative; "
                "run inference under `with energynets.inference.general_path():`"
            )
        return backward(ctx, *bars)

    return checked
