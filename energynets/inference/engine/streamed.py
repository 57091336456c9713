"""Mirror descent, its loss and their gradients a chunk of labels at a time: nothing of size (B, L) ever exists.

The equations are those of `mirror`, where z_0 is phi or 0, so that z_t = c_t phi + n_t A with phi = f U^T + u0: a chunk
of C labels makes its z_t from its own rows of U and columns of A and from n_t (B, K), which all chunks share. Passes
over the chunks:

    T       m_t += y_t A^T                                   t = 0 .. T-1
    1       the loss; dn_T += dz_T A^T                       dz_T = sigmoid(z_T) - targets
    T - 1   dn_t += dz_t A^T                                 dz_t = y_t (1 - y_t) (dm_t A), t = T-1 .. 1
    1       every dz_t again, all steps stacked:
            dA = sum_t n_t^T dz_t + dm_t^T y_t               dphi = sum_t c_t dz_t
            dU = dphi^T f, du0 = sum_B dphi, df += dphi U

The unstreamed descent computes phi once, and this one 2 T + 1 times, unless it is told to keep phi, the one tensor of
size (B, L) then. Besides the weights and their gradients it holds, whatever L is, at most

    (7 T + 1) B K  that all chunks share, and of one chunk phi, y_0, every z_t and dm_t A, and its A:
    (max(2 T + 2, 3) B + K) C  numbers.

Each pass reads A once, and has z_t and y_t of a chunk in a CPU's cache, where the unstreamed descent reads A for either
product.

A pass over a chunk, or over all labels where phi is kept, is one call where something makes it so (`label_passes`):
native code on a CPU; on a GPU, with bf16 products and phi kept, a kernel. Of a chunk only phi and dphi are held then,
and where phi is kept, dphi is a second (B, L) tensor. Native code then keeps y_t and dz_t as well, 2 T such tensors, if
those take no more than the weights do: 6 T products with A instead of 9 T - 2.

Where each of several processes has a shard of the labels, these sums over labels are sums over the shards too: 2 T
of B x K numbers a step and one of B x F, whatever L is. All else is computed alike by every shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from energynets.inference.engine import row_products
from energynets.inference.engine.heads import MakeSlope
from energynets.inference.engine.label_passes import LabelPasses, Packed
from energynets.inference.engine.once import once
from energynets.inference.engine.pages import new_empty
from energynets.parallel import WHOLE, LabelShard
from energynets.products import Precision, addmm, mm, rounded

if TYPE_CHECKING:
    from energynets.data.batches import SparseBatch

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_LITTLE = 1e-4  # of what a loss is the difference of: float64 leaves it twelve digits, float32 three


class KeepsGradient(Protocol):
    """A layer f U^T + u0 that descends on U and u0 without their gradient."""

    def check_free(self) -> None:
        """Raise `TrainingError` where a gradient still waits for its step."""

    def keep(self, features: Tensor, slopes: Tensor, of_weight: bool, of_bias: bool) -> None:
        """f (B, F) and dphi (B, L), of which the gradient is made."""


class Inputs(NamedTuple):
    """What is differentiated besides the head's weights: f (B, F), U (L, F), u0 (L,), A (K, L), (K,) or (B, K).

    And not differentiated: phi (B, L), where it is kept, made of the first three; with it A, as one call reads it.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    rows: Tensor
    offset: Tensor
    unary: Tensor | None = None
    packed: Packed | None = None

    def logits(self, labels: slice) -> Tensor:
        """phi (B, C) of a chunk."""
        return row_products.logits(self.features, self.weight[labels], None if self.bias is None else self.bias[labels])

    def with_unary(self, passes: LabelPasses | None, steps: int = 0) -> Inputs:
        """phi and A of all labels at hand, and a place for `steps`; a phi that is there already is taken."""
        unary = self.unary
        if unary is None and self.features.is_cuda:
            unary = row_products.aligned_logits(self.features, self.weight, self.bias)
        elif unary is None:
            unary = self.logits(slice(None))
        return self._replace(unary=unary, packed=passes.pack(unary, self.rows, steps) if passes else None)


class Part(NamedTuple):
    """The targets of a chunk that are given: rows, labels counted from its first, values, each place once."""

    rows: Tensor
    columns: Tensor
    values: Tensor


class Chunk(NamedTuple):
    """Labels in a row, with their phi (B, C) and columns of A (K, C)."""

    labels: slice
    phi: Tensor
    rows: Tensor


def cut(targets: SparseBatch, chunk: int, like: Tensor) -> list[Part]:
    """The targets that are given, sorted by label and cut where chunks are; those given twice are added up."""
    size = max(len(targets), 1)
    places, which = torch.unique(targets.columns * size + targets.row_indices(), return_inverse=True)
    values = like.new_zeros(len(places)).index_add_(0, which, targets.values.to(like.dtype))
    rows, columns = places % size, places // size
    starts = torch.arange(0, targets.num_columns + chunk, chunk, device=columns.device)
    bounds = torch.searchsorted(columns, starts).tolist()
    return [
        Part(rows[i:j], columns[i:j] - number * chunk, values[i:j])
        for number, (i, j) in enumerate(itertools.pairwise(bounds))
    ]


def in_chunks(inputs: Inputs, size: int, precision: Precision = "float32") -> Iterator[Chunk]:
    """All labels, `size` at a time."""
    for start in range(0, len(inputs.weight), size):
        labels = slice(start, start + size)
        if inputs.unary is not None:
            phi = inputs.unary[:, labels].clone(memory_format=torch.contiguous_format)
        else:
            phi = inputs.logits(labels)
        rows = rounded(inputs.rows[:, labels], precision)
        # oneDNN's y A^T takes a thousand times as long where the columns of A are not by themselves in memory.
        yield Chunk(labels, phi, rows if rows.is_cuda else rows.contiguous())


@dataclass(frozen=True)
class StreamPlan:
    """Everything of one descent that is not differentiated.

    Args:
        chunk: C.
        make_slope: weights -> s = dh/dm and its backward.
        mask: dropout of the measurements (B, K), or None.
        step_sizes, tau, momentum: values.
        factors: c_0 .. c_T.
        precision: of the products with A.
        keep_unary: phi is computed once and kept.
        shard: which labels the chunks are of.
        output: keeps the gradient in U and u0 to itself.
        passes: what makes a pass over labels as one call, or None.
    """

    chunk: int
    make_slope: MakeSlope
    mask: Tensor | None
    step_sizes: Sequence[float]
    tau: float
    momentum: float
    factors: Sequence[float]
    precision: Precision
    keep_unary: bool = False
    shard: LabelShard = WHOLE
    output: KeepsGradient | None = None
    passes: LabelPasses | None = None

    def given(self, inputs: Inputs, *, pull: bool = False) -> Inputs:
        """What the passes read; `pull`: there will be gradients."""
        if not self.keep_unary:
            return inputs
        # No more than the weights of the labels take: 2 T batches of logits.
        small = 2 * self.steps * len(inputs.features) <= inputs.weight.shape[1] + len(inputs.rows)
        return inputs.with_unary(self.passes, self.steps if pull and small else 0)

    def cut(self, targets: SparseBatch, like: Tensor) -> list[Part]:
        """Targets as the passes want them: of each chunk, or of all labels."""
        whole = self.passes is not None and self.keep_unary
        return cut(targets, max(targets.num_columns, 1) if whole else self.chunk, like)

    def packed(self, inputs: Inputs) -> Iterator[tuple[slice, Packed]]:
        """All labels of the shard as `passes` wants them: at once, where phi is kept, or C at a time."""
        assert self.passes is not None
        if inputs.packed is not None:
            yield slice(None), inputs.packed
            return
        for start in range(0, len(inputs.weight), self.chunk):
            labels = slice(start, start + self.chunk)
            yield labels, self.passes.pack(inputs.logits(labels), inputs.rows[:, labels])

    @property
    def steps(self) -> int:
        """T."""
        return len(self.step_sizes)

    def chunks(self, inputs: Inputs) -> Iterator[Chunk]:
        """All labels of the shard, C at a time."""
        return in_chunks(inputs, self.chunk, self.precision)

    def logits(self, chunk: Chunk, step: int, coordinates: Tensor) -> Tensor:
        """z_t (B, C), written over phi; coordinates are n_1 .. n_T."""
        base = chunk.phi if self.factors[step] == 1 else chunk.phi.mul_(self.factors[step])
        return base if step == 0 else addmm(base, coordinates[step - 1], chunk.rows, out=base)

    def masked(self, measurements: Tensor) -> Tensor:
        """Dropout, in place."""
        return measurements if self.mask is None else measurements.mul_(self.mask)


class StreamRun(NamedTuple):
    """What all chunks share, (T, B, K) each: what the slope wants of m_t, and n_1 .. n_T."""

    states: Tensor
    coordinates: Tensor


def descend(plan: StreamPlan, inputs: Inputs, weights: tuple[Tensor, ...]) -> StreamRun:
    """T passes over the labels."""
    slope, transposed = plan.make_slope(weights), (len(inputs.features), len(inputs.rows))
    states, coordinates = inputs.features.new_empty(2, plan.steps, *transposed).unbind()
    n = velocity = inputs.features.new_zeros(transposed)
    for step, size in enumerate(plan.step_sizes):
        m = _measure(plan, inputs, step, coordinates, states[step])
        m = plan.masked(torch.add(plan.shard.sum(m), inputs.offset, out=states[step]))
        update = plan.masked(slope.forward(m, -size, torch.empty_like(n)))
        velocity = update.add_(velocity, alpha=plan.momentum).sub_(n, alpha=size * plan.tau)
        n = torch.add(n, velocity, out=coordinates[step])
    return StreamRun(states, coordinates)


def _measure(plan: StreamPlan, inputs: Inputs, step: int, coordinates: Tensor, out: Tensor) -> Tensor:
    """y_t A^T (B, K); `out` is only a place."""
    m = out.zero_()
    if plan.passes is not None:
        n = coordinates[step - 1] if step else None
        for _, given in plan.packed(inputs):
            m += plan.passes.measure(given, plan.factors[step], n, step)
        return m
    for chunk in plan.chunks(inputs):
        y = plan.logits(chunk, step, coordinates).sigmoid_()
        m = addmm(m, y, chunk.rows.T, out=m)
    return m


def _pull(plan: StreamPlan, inputs: Inputs, step: int, coordinates: Tensor, dm: Tensor, dn: Tensor) -> Tensor:
    """dn + dz_t A^T (B, K), written to dn or to what is returned."""
    if plan.passes is not None:
        for _, given in plan.packed(inputs):
            dn += plan.passes.pull(given, plan.factors[step], coordinates[step - 1], dm, step)
        return dn
    for chunk in plan.chunks(inputs):
        y = plan.logits(chunk, step, coordinates).sigmoid_()
        dz = _sigmoid_backward(mm(dm, chunk.rows), y)
        dn = addmm(dn, dz, chunk.rows.T, out=dn)
    return dn


def final_logits(plan: StreamPlan, inputs: Inputs, run: StreamRun) -> Iterator[tuple[Chunk, Tensor]]:
    """z_T (B, C) of chunk after chunk."""
    for chunk in plan.chunks(inputs):
        yield chunk, plan.logits(chunk, plan.steps, run.coordinates)


def loss_sum(logits: Tensor, part: Part) -> Tensor:
    """The loss of a chunk, summed: softplus(z) where the target is 0. From 20 on torch's own is off by up to 2e-9."""
    losses = functional.softplus(logits, threshold=40)
    given = functional.binary_cross_entropy_with_logits(logits[part.rows, part.columns], part.values, reduction="none")
    return losses.index_put_((part.rows, part.columns), given).sum()


def loss_slope(logits: Tensor, part: Part) -> Tensor:
    """dz_T of the summed loss, written over z_T."""
    return logits.sigmoid_().index_put_((part.rows, part.columns), -part.values, accumulate=True)


def loss_pass(
    plan: StreamPlan, inputs: Inputs, run: StreamRun, parts: Sequence[Part], *, pull: bool
) -> tuple[Tensor, Tensor]:
    """The loss summed over documents and labels, and, if `pull`, dz_T A^T (B, K)."""
    total = inputs.features.new_zeros((), dtype=torch.float64)
    dn = inputs.features.new_zeros(len(inputs.features), len(inputs.rows))
    if plan.passes is not None:
        for (_, given), part in zip(plan.packed(inputs), parts, strict=True):
            some, share = _loss_at_once(plan, given, run.coordinates[-1], part)
            total += some
            dn += share
        return plan.shard.sum(total).to(dn.dtype), plan.shard.sum(dn)
    for (chunk, z), part in zip(final_logits(plan, inputs, run), parts, strict=True):
        total += loss_sum(z, part)
        if pull:
            dn = addmm(dn, loss_slope(z, part), chunk.rows.T, out=dn)
    return plan.shard.sum(total).to(dn.dtype), plan.shard.sum(dn) if pull else dn


def _loss_at_once(plan: StreamPlan, given: Packed, n: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """As if no target were given, sum softplus(z_T) and sigmoid(z_T) A^T; then what those given change."""
    assert plan.passes is not None
    factor = plan.factors[-1]
    dn, losses = plan.passes.measure_and_loss(given, factor, n)
    rows = given.rows.T[part.columns].to(n.dtype)
    z = factor * given.phi[part.rows, part.columns] + (n[part.rows] * rows).sum(1)
    taken = (part.values * z).double()
    total = losses.sum() - taken.sum()
    if n.device.type == "cpu" and total < _LITTLE * taken.abs().sum():
        total = _loss_label_by_label(plan, given, n, part)
    return total, dn.index_put_((part.rows,), -part.values[:, None] * rows, accumulate=True)


def _loss_label_by_label(plan: StreamPlan, given: Packed, n: Tensor, part: Part) -> Tensor:
    """Of labels that are nearly all right, the others' losses are lost in what is first added and then taken away."""
    total = n.new_zeros((), dtype=torch.float64)
    for start in range(0, given.phi.shape[1], plan.chunk):
        labels = slice(start, start + plan.chunk)
        z = plan.factors[-1] * given.phi[:, labels] + mm(n, given.rows[:, labels].contiguous())
        here = (part.columns >= start) & (part.columns < start + plan.chunk)
        total += loss_sum(z, Part(part.rows[here], part.columns[here] - start, part.values[here]))
    return total


class SharedBars(NamedTuple):
    """Gradients that take no L: dm_0 .. dm_{T-1} (T, B, K), of the head's weights, and of the numbers."""

    measurements: Tensor
    weights: Sequence[Tensor | None]
    numbers: Tensor


def shared_backward(
    plan: StreamPlan, inputs: Inputs, weights: tuple[Tensor, ...], run: StreamRun, dn: Tensor
) -> SharedBars:
    """From dn_T down to dm_0: T - 1 passes over the labels."""
    states, coordinates = run
    slope, bars = plan.make_slope(weights), torch.empty_like(states)
    numbers = dn.new_zeros(plan.steps + 2)
    zero = torch.zeros_like(dn)
    dv = zero
    for step in range(plan.steps - 1, -1, -1):
        size = plan.step_sizes[step]
        dv = dn + dv * plan.momentum
        earlier, here, later = (coordinates[t] if t >= 0 else zero for t in (step - 2, step - 1, step))
        velocity = here - earlier
        # v_{t+1} = momentum v_t - eta_t (s_t + tau n_t), to eta_t, tau and momentum
        numbers[step] = (dv * (later - here - velocity * plan.momentum)).sum() / size
        numbers[-2] -= (dv * here).sum() * size
        numbers[-1] += (dv * velocity).sum()
        slope.backward(states[step], dv if plan.mask is None else dv * plan.mask, -size, bars[step])
        dm = plan.masked(bars[step])
        dn = dn - dv * (size * plan.tau)
        if step:
            dn = plan.shard.sum(_pull(plan, inputs, step, coordinates, dm, plan.shard.once(dn)))
    return SharedBars(bars, slope.gradients() if plan.steps else [None] * len(weights), numbers)


class Slopes:
    """dphi (B, L), of all labels at once or of a chunk after the other; kept as it comes, in the first case."""

    def __init__(self, documents: int, labels: int) -> None:
        self.shape = documents, labels
        self.whole: Tensor | None = None

    def add(self, labels: slice, dphi: Tensor) -> None:
        """(B, C), which nobody else writes to afterwards if C = L."""
        if dphi.shape == self.shape and dphi.is_contiguous():
            self.whole = dphi
            return
        if self.whole is None:
            self.whole = new_empty(dphi, *self.shape)
        self.whole[:, labels] = dphi


class LabelBars(NamedTuple):
    """Gradients that the last pass gives, None where unwanted; the factors' are (T + 1,)."""

    features: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    rows: Tensor | None
    factors: Tensor | None = None
    slopes: Slopes | None = None
    """dphi, instead of dU and du0."""

    def add(self, labels: slice, dphi: Tensor, inputs: Inputs) -> None:
        """df, dU and du0 of a chunk, from its dphi (B, C)."""
        if self.features is not None:
            row_products.add_slopes(self.features, dphi, inputs.weight[labels])
        if self.slopes is not None:
            self.slopes.add(labels, dphi)
        if self.weight is not None:
            row_products.mm_slopes(dphi, inputs.features, out=self.weight[labels])
        if self.bias is not None:
            torch.sum(dphi, 0, out=self.bias[labels])


@dataclass(frozen=True)
class LabelBackward:
    """The last pass, in which each chunk has all its steps at once.

    Args:
        plan, inputs, run: of the descent.
        bars: dm_0 .. dm_{T-1} (T, B, K).
        scale: d / d loss, summed over documents.
        wanted: places that are written, or zeros that are added to (features, factors).
    """

    plan: StreamPlan
    inputs: Inputs
    run: StreamRun
    bars: Tensor
    scale: Tensor
    wanted: LabelBars

    def over(self, parts: Sequence[Part]) -> None:
        """All chunks."""
        passes = self.plan.passes
        if passes is None:
            self._by_chunk(parts)
        else:
            for (labels, given), part in zip(self.plan.packed(self.inputs), parts, strict=True):
                self._at_once(passes, labels, given, part)
        for found in (self.wanted.features, self.wanted.factors):
            if found is not None:
                self.plan.shard.sum(found)

    def _at_once(self, passes: LabelPasses, labels: slice, given: Packed, part: Part) -> None:
        wanted, factors, n = self.wanted, self.plan.factors, self.run.coordinates
        rows_bar = None if wanted.rows is None else wanted.rows[:, labels]
        dphi, shares = passes.gradients(
            given, factors, n, self.bars, self.scale, rows_bar, wants_shares=wanted.factors is not None
        )
        # What the pass does not know: dz_T = scale (sigmoid(z_T) - targets).
        slope = -part.values * self.scale
        if rows_bar is not None:
            _add_to_columns(rows_bar, part.columns, n[-1][part.rows] * slope[:, None])
        place = part.rows, part.columns  # of which none comes twice
        dphi[place] = dphi[place] + slope * factors[-1]
        if wanted.factors is not None and shares is not None:
            wanted.factors.add_(shares)
            wanted.factors[-1] += torch.dot(slope, given.phi[part.rows, part.columns])
        wanted.add(labels, dphi, self.inputs)

    def _by_chunk(self, parts: Sequence[Part]) -> None:
        n, bars = self.run.coordinates, self.bars
        # In place z_t becomes y_t and dm_t A becomes dz_t, so that each has changed places with its partner in dA.
        before = torch.cat((n, bars)).flatten(0, 1)
        after = torch.cat((bars[1:], n[-1:], bars[:1], n[:-1])).flatten(0, 1)
        factors = before.new_tensor(self.plan.factors)
        for chunk, part in zip(self.plan.chunks(self.inputs), parts, strict=True):
            self._chunk(chunk, part, before, after, factors)

    def _chunk(self, chunk: Chunk, part: Part, before: Tensor, after: Tensor, factors: Tensor) -> None:
        phi, labels, steps, wanted = chunk.phi, chunk.labels, self.plan.steps, self.wanted
        stack = mm(before, chunk.rows)
        z, dz = stack.view(2, steps, *phi.shape)
        z.addcmul_(factors[1:, None, None], phi)
        y_0 = torch.mul(phi, factors[0]).sigmoid_()
        _sigmoid_backward.grad_input(dz[:1], y_0[None], grad_input=dz[:1])
        _sigmoid_backward.grad_input(dz[1:], z[:-1].sigmoid_(), grad_input=dz[1:])
        dz_last = loss_slope(z[-1] if steps else phi * factors[0], part).mul_(self.scale)
        if wanted.factors is not None:
            torch.addmv(wanted.factors[:-1], dz.flatten(1), phi.flatten(), out=wanted.factors[:-1])
            wanted.factors[-1] += torch.dot(dz_last.flatten(), phi.flatten())
        dphi = torch.mul(dz_last, factors[-1], out=phi)
        dphi.view(-1).addmv_(dz.flatten(1).T, factors[:-1])
        dz[:1] = y_0
        if wanted.rows is not None:
            place = wanted.rows[:, labels]
            found = mm(after.T, rounded(stack, self.plan.precision), out=place)
            if found is not place:
                place.copy_(found)
        wanted.add(labels, dphi, self.inputs)


def _add_to_columns(out: Tensor, columns: Tensor, values: Tensor) -> None:
    """out (K, L), its rows far apart: values (N, K) are added to columns (N,), sorted, of which some come twice.

    `index_put_` alone would sum in a fixed order too, but copies all of `out` on CUDA, there and back.
    """
    distinct, which = torch.unique_consecutive(columns, return_inverse=True)
    sums = values.new_zeros(len(distinct), len(out)).index_put_((which,), values, accumulate=True)
    out[:, distinct] = out[:, distinct] + sums.T


class StreamedBCE(torch.autograd.Function):
    """The mean loss as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: StreamPlan,
        parts: Sequence[Part],
        factors: Tensor | None,
        numbers: Tensor | None,
        pull: bool,
        *tensors: Tensor | None,
    ) -> Tensor:
        if plan.output is not None:
            plan.output.check_free()
        inputs, weights = plan.given(Inputs(*tensors[:5]), pull=pull), tensors[5:]  # type: ignore[arg-type]
        run = descend(plan, inputs, weights)  # type: ignore[arg-type]
        total, dn = loss_pass(plan, inputs, run, parts, pull=pull and plan.steps > 0)
        ctx.plan, ctx.parts, ctx.count = plan, parts, max(len(inputs.features), 1)
        packed = (None, None) if inputs.packed is None else inputs.packed[1:]
        ctx.save_for_backward(*tensors, inputs.unary, *packed, *run, dn)
        return total / ctx.count

    @staticmethod
    @once
    def backward(ctx: Any, loss_bar: Tensor) -> tuple[Any, ...]:
        plan: StreamPlan = ctx.plan
        *tensors, unary, rows, kept, states, coordinates, dn = ctx.saved_tensors
        packed = None if rows is None else Packed(unary, rows, kept)
        inputs = Inputs(*tensors[:5])._replace(unary=unary, packed=packed)
        weights, run = tuple(tensors[5:]), StreamRun(states, coordinates)
        needs = Inputs(*ctx.needs_input_grad[5:10])
        scale = loss_bar / ctx.count
        shared = shared_backward(plan, inputs, weights, run, dn * scale)
        deferred = plan.output is not None and (needs.weight or needs.bias)
        wanted = LabelBars(
            torch.zeros_like(inputs.features) if needs.features else None,
            new_empty(inputs.weight, *inputs.weight.shape) if needs.weight and not deferred else None,
            torch.empty_like(inputs.bias) if inputs.bias is not None and needs.bias and not deferred else None,
            new_empty(inputs.rows, *inputs.rows.shape) if needs.rows else None,
            dn.new_zeros(plan.steps + 1) if ctx.needs_input_grad[2] else None,
            Slopes(len(inputs.features), len(inputs.weight)) if deferred else None,
        )
        if any(place is not None for place in wanted):
            LabelBackward(plan, inputs, run, shared.measurements, scale, wanted).over(ctx.parts)
        if wanted.slopes is not None:
            assert plan.output is not None
            assert wanted.slopes.whole is not None
            plan.output.keep(inputs.features, wanted.slopes.whole, bool(needs.weight), bool(needs.bias))
        offset = shared.measurements.sum((0, 1) if inputs.offset.ndim == 1 else 0)
        numbers = shared.numbers if ctx.needs_input_grad[3] else None
        return (
            *(None, None, wanted.factors, numbers, None),
            *(wanted.features, wanted.weight, wanted.bias, wanted.rows, offset, *shared.weights),
        )
