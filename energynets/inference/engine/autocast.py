"""What computes in the precision of its tensors, under an autocast too."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_DEVICES = ("cpu", "cuda")
_END = object()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """A function, or a generator, within which no autocast is on.

    Hand-derived passes write into tensors they made, and hand factors on to kernels: an autocast would round some of
    these and not their partners. A generator's consumer keeps the autocast it has.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not any(map(torch.is_autocast_enabled, _DEVICES)):
            return function(*args, **kwargs)
        with _no_autocast():
            return function(*args, **kwargs)

    @functools.wraps(function)
    def generated(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        found: Any = function(*args, **kwargs)
        while True:
            with _no_autocast():
                one = next(found, _END)
            if one is _END:
                return
            yield one

    return generated if inspect.isgeneratorfunction(function) else called  # type: ignore[return-value]


def _no_autocast() -> contextlib.ExitStack:
    within = contextlib.ExitStack()
    for device in _DEVICES:
        if torch.is_autocast_enabled(device):
            within.enter_context(torch.autocast(device, enabled=False))
    return within
