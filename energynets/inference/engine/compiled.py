"""The engine through `torch.compile`: two pure functions, one for each direction, traced whole.

`descend` and `descend_backward` are traced to graphs of tensor operations in which every tensor is an input, made free
of writes, and compiled with fullgraph and static shapes. What is not a tensor (steps, numbers, widths, which inputs
want gradients) is the key a graph is kept under, with the shapes: a graph never sees another setting than its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from energynets.energies import Box, Euclidean, Simplex
from energynets.errors import NotCompiledWarning
from energynets.inference.engine.mirror import (
    EAGER,
    Directions,
    Kept,
    MirrorGradients,
    MirrorPlan,
    MirrorRun,
    Needed,
    descend,
    descend_backward,
)
from energynets.products import plain_operations

Flat = Callable[..., tuple[Tensor | None, ...]]

BACKEND = "inductor"
KEPT = 8
"""Graphs kept of each direction; further settings and shapes run uncompiled."""

_wanted: ContextVar[bool] = ContextVar("compiled_engine", default=False)
_graphs: dict[Hashable, Flat | None] = {}
_told: set[str] = set()


@contextlib.contextmanager
def compiled_engine(wanted: bool = True) -> Iterator[None]:
    """Within it, descents of the engine are compiled; what cannot be runs as ever, and one warning says why.

    Each shape and setting compiles once in a process, half a minute at T = 10. On a CPU it is slower afterwards than
    uncompiled torch operations (0.7 times at 159 x 16, 0.95 at 159 x 512); on an H200 1.05 to 1.2 times as fast, where
    replaying a CUDA graph is 2.7 to 7.7 times. Under `torch.no_grad` nothing is compiled: the batches of an evaluation
    have many shapes.

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent
        >>> from energynets.inference import compiled_engine
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> with compiled_engine(), torch.no_grad():
        ...     MirrorDescent().solve(energy, energy.condition(torch.randn(3, 8))).shape
        torch.Size([3, 5])
    """
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def compiling() -> bool:
    """Whether descents are to be compiled here."""
    return _wanted.get()


def directions(plan: MirrorPlan) -> Directions:
    """What computes this descent; where it was to be compiled and cannot be, a warning says why."""
    if not compiling():
        return EAGER
    if plan.step_loss is not None:
        not_compiled("a loss that reads every step")
    elif plan.memory is not None and plan.memory < plan.steps:
        not_compiled("a solver with `memory`")
    elif type(plan.domain) not in (Box, Euclidean, Simplex):
        not_compiled(f"the domain {type(plan.domain).__name__}, which is none of this package")
    elif not isinstance(plan.make_slope, types.FunctionType) or plan.make_slope.__closure__:
        not_compiled("a head without a closed form")
    else:
        return COMPILED
    return EAGER


def not_compiled(reason: str) -> None:
    """Say once that something runs uncompiled."""
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"not compiled, runs as it is: {reason}", NotCompiledWarning, stacklevel=2)


def compiled_descend(
    plan: MirrorPlan,
    rows: Tensor,
    offset: Tensor,
    bases: Sequence[Tensor],
    gates: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    *,
    keep: bool,
) -> MirrorRun:
    """`descend`."""
    assert keep

    def run(plan: MirrorPlan, *tensors: Any) -> tuple[Tensor | None, ...]:
        found = descend(plan, *tensors, keep=True)
        return (found.logits, found.last.states, *(found.last.coordinates or ()))

    logits, states, *history = _call(run, plan, (rows, offset, tuple(bases), gates, weights), ())
    assert logits is not None
    assert states is not None
    return MirrorRun(logits, Kept(0, (), states, [n for n in history if n is not None] or None), [], None, None)


def compiled_backward(
    plan: MirrorPlan,
    rows: Tensor,
    offset: Tensor,
    bases: Sequence[Tensor],
    gates: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    run: MirrorRun,
    logits_bar: Tensor,
    loss_bar: Tensor | None,
    needed: Needed,
) -> MirrorGradients:
    """`descend_backward`."""
    assert loss_bar is None

    def back(plan: MirrorPlan, *tensors: Any) -> tuple[Tensor | None, ...]:
        rows, offset, bases, gates, weights, states, history, bar = tensors
        run = MirrorRun(bar, Kept(0, (), states, history), [], None, None)
        found = descend_backward(plan, rows, offset, bases, gates, weights, run, bar, None, needed)
        singles = (found.rows, found.offset, found.factors, found.numbers)
        return (*singles, *found.bases, *found.gates, *found.weights)

    inputs = (
        rows,
        offset,
        tuple(bases),
        gates,
        weights,
        run.last.states,
        run.last.coordinates,
        logits_bar.contiguous(),
    )
    by_rows, by_offset, by_factors, by_numbers, *rest = _call(back, plan, inputs, needed)
    ends = (len(bases), len(bases) + len(gates))
    by_gates = [gradient for gradient in rest[ends[0] : ends[1]] if gradient is not None]
    assert by_offset is not None
    return MirrorGradients(by_rows, by_offset, rest[: ends[0]], by_gates, rest[ends[1] :], by_factors, by_numbers)


COMPILED = Directions(compiled_descend, compiled_backward)


def _call(function: Callable[..., Any], plan: MirrorPlan, inputs: Any, setting: Hashable) -> tuple[Tensor | None, ...]:
    """function(plan, *inputs), by its graph where there is one or one can be made."""
    parts = (plan.mask, plan.observed, list(plan.step_sizes), plan.tau, [list(row) for row in plan.factors])
    leaves, structure = pytree.tree_flatten((parts, inputs))
    tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]  # a graph knows no autograd
    numbers = tuple(Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    shapes = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    rest = (plan.domain, plan.make_slope, plan.widths, plan.momentum, plan.learned, plan.precision)
    settings = (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
    key = (function.__code__, setting, numbers, str(structure), shapes, rest, settings)

    def flat(*tensors: Tensor) -> tuple[Tensor | None, ...]:
        given = iter(tensors)
        filled = [next(given) if number is Tensor else number for number in numbers]
        (mask, observed, sizes, tau, factors), own = pytree.tree_unflatten(filled, structure)
        own_plan = dataclasses.replace(
            plan, mask=mask, observed=observed, step_sizes=sizes, tau=tau, factors=factors, memory=plan.steps
        )
        return function(own_plan, *own)

    if key not in _graphs:
        if sum(other[0] is function.__code__ for other in _graphs) >= KEPT:  # type: ignore[index]
            not_compiled(f"more than {KEPT} shapes or settings of one process")
            return flat(*tensors)
        _graphs[key] = _compile(flat, tensors)
    graph = _graphs[key]
    return flat(*tensors) if graph is None else graph(*tensors)


def _compile(flat: Flat, tensors: Sequence[Tensor]) -> Flat | None:
    """The graph of a function, compiled and run once; None, with a warning, where that cannot be."""
    try:
        with torch.no_grad(), plain_operations():
            graph = make_fx(torch.func.functionalize(flat))(*tensors)
            constants = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
            if constants:
                raise RuntimeError(f"{len(constants)} tensors that are no inputs")
            found = torch.compile(graph, backend=BACKEND, fullgraph=True, dynamic=False)
            found(*tensors)
    except Exception as error:  # a compiler can fail in any way, and every one of them is answered alike
        not_compiled(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
        return None
    return found
