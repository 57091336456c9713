"""Mirror descent of small models in native code: all T steps of a few documents at a time, in cache.

The equations are those of `mirror`, whose place this takes where it applies: there, of the time of a step most goes to
starting operations and to carrying z and y through memory. The C code is `fused.c`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from array import array
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor

from energynets.energies import Box, ConvexHead, MeasuredEnergy, SoftplusHead
from energynets.energies.measured import MeasuredContext
from energynets.inference.engine.mirror import MirrorPlan
from energynets.inference.engine.native import Double, Long, Pointer, library
from energynets.inference.engine.once import once

# Bytes of A and of the head's matrices up to which this wins (measured, one Zen 3 core of two threads and 512 KiB of
# second-level cache): 1.6 times as fast at 512 x 159, 1.7 times at 64 x 8,311, a tenth to a quarter at 512 x 983; at
# 4 MB it is level or loses.
LARGEST = 5 << 19
# And of the gradients that all threads have of them together.
_LARGEST_GRADIENTS = 1 << 23
_MAX_LAYERS = 8
_stands_for: ContextVar[int | None] = ContextVar("stands_for_labels", default=None)


class _Problem(ctypes.Structure):
    """`Problem` of fused.c."""

    _fields_ = (
        *((name, Long) for name in ("batch", "labels", "measurements", "steps", "layers", "passthrough")),
        *((name, Long) for name in ("bases", "offset_rows", "threads")),
        *((name, Pointer) for name in ("widths", "rows", "offset", "base_0", "base_1", "dropout", "known")),
        *((name, Pointer) for name in ("known_mask", "output", "matrices", "biases", "step_sizes")),
        *((name, Pointer) for name in ("factors_0", "factors_1")),
        ("tau", Double),
        ("momentum", Double),
        ("saved", Pointer),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of fused.c."""

    _fields_ = tuple(
        (name, Pointer)
        for name in (
            *("logits", "rows", "offset", "base_0", "base_1", "output", "matrices", "biases", "numbers"),
            *("factors_0", "factors_1"),
        )
    )


@contextlib.contextmanager
def standing_for(labels: int) -> Iterator[None]:
    """Whether a descent is done here is decided as for so many labels: a small energy shows what a large one does."""
    token = _stands_for.set(labels)
    try:
        yield
    finally:
        _stands_for.reset(token)


def refusal(energy: MeasuredEnergy) -> str | None:
    """Why an energy's descent is not done in native code, whatever the batch; None where it is."""
    head, rows = energy.head, energy.measure
    if not rows.is_cpu:
        return f"on {rows.device.type}"
    if type(energy.domain) is not Box or energy.gate_widths:
        return "gated" if energy.gate_widths else f"{type(energy.domain).__name__} domain"
    if type(head) not in (SoftplusHead, ConvexHead):
        return f"{type(head).__name__} is not built in"
    widths = _widths(head, rows)
    if len(widths) > _MAX_LAYERS:
        return f"more than {_MAX_LAYERS} layers"
    labels = _stands_for.get() or rows.shape[1]
    size = rows.element_size() * (rows.shape[0] * labels + sum(a * b for a, b in itertools.pairwise(widths)))
    if size > LARGEST or size * torch.get_num_threads() > _LARGEST_GRADIENTS:
        return "so many weights, or threads with a gradient each of them, that products of whole batches are as fast"
    found = library(rows.dtype)
    return found if isinstance(found, str) else None


def takes(
    energy: MeasuredEnergy,
    plan: MirrorPlan,
    context: MeasuredContext,
    bases: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> bool:
    """Whether this descent can be done here."""
    dtype, batch = inputs[0].dtype, context.unary.shape[0]
    return (
        plan.step_loss is None
        and context.head is None
        and batch > 0
        and all(tensor.ndim == 2 and tensor.shape[0] == batch for tensor in _of_documents(plan, context, bases))
        and all(tensor.dtype == dtype and tensor.is_cpu for tensor in inputs)
        and (plan.mask is None or (plan.mask.dtype == dtype and plan.mask.is_cpu))
        and not torch.is_autocast_enabled("cpu")
        and refusal(energy) is None
    )


def _of_documents(plan: MirrorPlan, context: MeasuredContext, bases: Sequence[Tensor]) -> list[Tensor]:
    """What has a row a document: C takes their number from one of them."""
    offset = () if context.offset.ndim == 1 else (context.offset,)
    others = (plan.mask, None if plan.observed is None else plan.observed.mask)
    return [*bases, *offset, *(tensor for tensor in others if tensor is not None)]


def _widths(head: Any, rows: Tensor) -> tuple[int, ...]:
    if isinstance(head, ConvexHead):
        return head.widths
    return (rows.shape[0], *(layer.out_features for layer in head.layers))


class Fused:
    """One descent: its numbers, and its tensors as C wants them."""

    def __init__(self, energy: MeasuredEnergy, plan: MirrorPlan, num_bases: int) -> None:
        self.plan, self.num_bases = plan, num_bases
        head, rows = energy.head, energy.measure
        self.widths = _widths(head, rows)
        self.passthrough = isinstance(head, ConvexHead)
        self.library: Any = library(rows.dtype)
        # On the CPU the plan's numbers are floats, learned or not. ctypes would make a type for each length of array,
        # again and again.
        self._widths = array("q", self.widths)
        self._sizes = array("d", cast(Sequence[float], plan.step_sizes))
        self._factors = [array("d", cast(Sequence[float], row)) for row in plan.factors]

    def problem(self, tensors: Sequence[Tensor], saved: Tensor | None) -> tuple[_Problem, Any]:
        """The C structure over rows, offset, bases and head weights, and what must live as long as it does."""
        rows, offset, *rest = tensors
        bases, (output, *layers) = rest[: self.num_bases], rest[self.num_bases :]
        matrices, biases = (layers, []) if self.passthrough else (layers[::2], layers[1::2])
        plan = self.plan
        extra: list[Tensor | None] = [None if plan.mask is None else plan.mask.contiguous(), None, None]
        if plan.observed is not None:
            extra[1:] = [plan.observed.values.contiguous(), plan.observed.mask.to(rows.dtype).contiguous()]
        lists = [_pointers(matrices), _pointers(biases)]
        problem = _Problem(
            *(bases[0].shape[0], rows.shape[1], rows.shape[0], plan.steps, len(self.widths), self.passthrough),
            *(self.num_bases, 1 if offset.ndim == 1 else offset.shape[0], torch.get_num_threads()),
            *(_at(self._widths), rows.data_ptr(), offset.data_ptr(), bases[0].data_ptr(), bases[-1].data_ptr()),
            *(None if tensor is None else tensor.data_ptr() for tensor in extra),
            *(output.data_ptr(), _at(lists[0]), _at(lists[1]), _at(self._sizes)),
            *(_at(self._factors[0]), _at(self._factors[-1]), plan.tau, plan.momentum),
            None if saved is None else saved.data_ptr(),
        )
        return problem, (extra, lists)

    def forward(self, tensors: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, Tensor | None]:
        """z_T (B, L), and what `backward` wants to know of the steps."""
        problem, alive = self.problem(tensors, None)
        logits, saved = torch.empty_like(tensors[2]), None
        if keep:
            saved = logits.new_empty(self.library.saved_size(ctypes.byref(problem)))
            problem.saved = saved.data_ptr()
        self._call(self.library.forward, ctypes.byref(problem), Pointer(logits.data_ptr()))
        del alive
        return self.plan.visible(logits), saved

    def backward(
        self, tensors: Sequence[Tensor], saved: Tensor, logits_bar: Tensor, wants: Sequence[bool], numbers: bool
    ) -> tuple[list[Tensor | None], Tensor | None, Tensor | None]:
        """Gradients of the tensors, and of the factors and the numbers where they are learned."""
        problem, alive = self.problem(tensors, saved)
        rows, *rest = tensors
        rows_bar = torch.empty_like(rows) if wants[0] else None
        offset_bar, *bars = (torch.empty_like(tensor) for tensor in rest)
        bases, (output, *layers) = bars[: self.num_bases], bars[self.num_bases :]
        lists = [_pointers(layers if self.passthrough else layers[::2]), _pointers(layers[1::2])]
        steps = self.plan.steps
        numbers_bar = torch.empty(steps + 2, dtype=torch.float64) if numbers else None
        factors_bar = torch.empty(self.num_bases, steps + 1, dtype=torch.float64) if numbers else None
        gradients = _Gradients(
            *(logits_bar.data_ptr(), None if rows_bar is None else rows_bar.data_ptr(), offset_bar.data_ptr()),
            *(bases[0].data_ptr(), bases[-1].data_ptr(), output.data_ptr()),
            *(_at(lists[0]), _at(lists[1])),
            *(None if tensor is None else tensor.data_ptr() for tensor in (numbers_bar, *_rows(factors_bar))),
        )
        self._call(self.library.backward, ctypes.byref(problem), ctypes.byref(gradients))
        del alive
        found = [rows_bar, offset_bar, *bars]
        kinds = [None if bar is None else bar.to(rows.dtype) for bar in (factors_bar, numbers_bar)]
        return [bar if wanted else None for bar, wanted in zip(found, wants, strict=True)], kinds[0], kinds[1]

    @staticmethod
    def _call(function: Any, *arguments: Any) -> None:
        if function(*arguments):
            raise MemoryError("native descent: no memory for a block of documents")


class FusedFunction(torch.autograd.Function):
    """`Fused` as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, fused: Fused, factors: Tensor | None, numbers: Tensor | None, *tensors: Tensor) -> Tensor:
        tensors = tuple(tensor.contiguous() for tensor in tensors)
        logits, saved = fused.forward(tensors, keep=True)
        ctx.fused = fused
        ctx.save_for_backward(saved, *tensors)
        return logits

    @staticmethod
    @once
    def backward(ctx: Any, logits_bar: Tensor) -> tuple[Any, ...]:
        saved, *tensors = ctx.saved_tensors
        _, factors, numbers, *wants = ctx.needs_input_grad
        bars, factors_bar, numbers_bar = ctx.fused.backward(
            tensors, saved, logits_bar.contiguous(), wants, factors or numbers
        )
        return None, factors_bar if factors else None, numbers_bar if numbers else None, *bars


def _at(numbers: array[Any]) -> int:
    return numbers.buffer_info()[0]


def _pointers(tensors: Sequence[Tensor]) -> array[int]:
    return array("Q", [tensor.data_ptr() for tensor in tensors])


def _rows(factors: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if factors is None else (factors[0], factors[-1])
