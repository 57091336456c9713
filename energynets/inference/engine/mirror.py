"""Mirror descent over a measured energy as one differentiable operation, flat in memory.

Every step adds to z only multiples of z_0, of phi and of rows of A, so

    z_t = a_t z_0 + b_t phi + n_t A,    n_{t+1} = n_t + v_{t+1},  v_{t+1} = momentum v_t - eta_t (s_t + tau n_t),

with n_t (B, K) and s_t = dh/dm at m_t = y(z_t) A^T + a0. The scalars follow the same recursion, from a_0 = 1, b_0 = 0.
The forward pass keeps m_t and n_t, (B, K) each, and nothing of size L per step; the backward pass rebuilds z_t with one
product. With eta tau = 1 and no momentum n_{t+1} = -eta s_t, and m_t alone is kept. M < T segments keep that of T / M
steps at a time, and n_t (and v_t) where each starts: all but the last are gone through again, two products more a step.

Backward, from dz_T, for t = T-1 .. 0 (d is the gradient of the loss to what it stands before):

    dn_{t+1} += dz_{t+1} A^T       dv = momentum dv + dn_{t+1}    ds_t = -eta_t dv    dn_t = dn_{t+1} - eta_t tau dv
    dm_t = (d^2h/dm^2) ds_t        dz_t = J(y_t) (dm_t A)         dA  += n_{t+1}^T dz_{t+1} + dm_t^T y_t
    dz_0 += a_t dz_t               dphi += b_t dz_t
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.energies import Box, Domain
from energynets.energies.slopes import Slope
from energynets.inference.engine import elementwise
from energynets.inference.engine.elementwise import Terms
from energynets.inference.engine.heads import MakeSlope
from energynets.inference.engine.measurements import Measurements, linear_backward, linear_forward
from energynets.inference.engine.once import once
from energynets.inference.engine.schedule import Number
from energynets.inference.observed import Observed
from energynets.inference.solver import StepLoss
from energynets.products import Precision

NO_TERMS: Terms = ()

# What is kept of the steps may be a sixth of what a pass holds beside it, dA and some nine (B, L): memory grows no more
# with T, until the least that can be kept, of 2 sqrt(T) steps, is more.
_SHARE, _OTHERS = 6, 9
# This many numbers are kept in any case: 4 MiB of float32.
_ALWAYS = 1 << 20


@dataclass
class MirrorPlan:
    """Everything of one descent that is not differentiated.

    Args:
        domain: of y.
        make_slope: weights -> s = dh/dm and its backward.
        widths: of the gated slices of the measurements, or none.
        mask: dropout of the measurements (B, K), or None.
        observed: known labels, or None.
        step_sizes, tau, momentum: numbers, or tensors of one number where they are learned.
        factors: per base (z_0, phi, ...) its factor in z_t for t = 0 .. T.
        learned: whether the numbers want gradients.
        step_loss: of t and z_t, added up over t = 1 .. T; for losses that read every step.
        precision: of the products with A.
        memory: segments, M; T or more: all steps are kept; None: as few as keep little, see `segment`.
    """

    domain: Domain
    make_slope: MakeSlope
    widths: tuple[int, ...]
    mask: Tensor | None
    observed: Observed | None
    step_sizes: Sequence[Number]
    tau: Number
    momentum: Number
    factors: Sequence[Sequence[Number]]
    learned: bool
    step_loss: StepLoss | None = None
    precision: Precision = "float32"
    memory: int | None = None

    def __post_init__(self) -> None:
        self.steps = len(self.step_sizes)
        # n_{t+1} is scale s_t and what is left of n_t.
        self.scales = [-size for size in self.step_sizes]

    @functools.cached_property
    def mean_field(self) -> bool:
        """Whether each step forgets n_t."""
        return (
            not self.learned
            and bool(self.momentum == 0)
            and all(bool(size * self.tau == 1) for size in self.step_sizes)
        )

    def segment(self, rows: Tensor, base: Tensor) -> int:
        """Steps whose numbers are kept at a time, for A (K, L) and a base (B, L); T where all are.

        Segments end at T, so that the first may be short: the last one alone is not gone through again.
        """
        if self.memory is not None:
            return self.steps if self.memory >= self.steps else math.ceil(self.steps / self.memory)
        each = len(base) * len(rows) * (1 if self.mean_field else 2)
        most = max(_ALWAYS, (rows.numel() + _OTHERS * base.numel()) // _SHARE)
        if self.steps * each <= most:
            return self.steps
        # By the steps of a segment: those, and the starts of all segments but the first.
        kept = {steps: steps + math.ceil(self.steps / steps) - 1 for steps in range(self.steps, 0, -1)}
        fitting = (steps for steps, numbers in kept.items() if numbers * each <= most)
        return next(fitting, min(kept, key=kept.__getitem__))

    @functools.cached_property
    def plain(self) -> bool:
        """Whether the one base is in every z_t as it is."""
        return len(self.factors) == 1 and all(_is(factor, 1) for factor in self.factors[0])

    def base(self, step: int, bases: Sequence[Tensor], out: Tensor) -> Tensor:
        """a_t z_0 + b_t phi (B, L): in `out`, or a base itself where that is all there is to it."""
        if self.plain:
            return bases[0]
        terms = self.terms(step, bases)
        if len(terms) == 1 and _is(terms[0][0], 1):
            return terms[0][1]
        if not terms:
            return out.zero_()
        return elementwise.add(torch.mul(terms[0][1], terms[0][0], out=out), terms[1:], out)

    def terms(self, step: int, tensors: Sequence[Tensor | None]) -> Terms:
        """The factors of z_t's bases that are not 0, each with its tensor where there is one."""
        rows = zip(self.factors, tensors, strict=True)
        return [(row[step], tensor) for row, tensor in rows if tensor is not None and not _is(row[step], 0)]

    def fuses(self, *tensors: Sequence[Tensor | None]) -> bool:
        """Whether one kernel adds the bases to a product and goes on from there."""
        like = tensors[0][0]
        assert like is not None
        if not elementwise.fuses(like) or self.observed is not None or type(self.domain) is not Box:
            return False
        return all(elementwise.fuses(like, self.terms(step, some)) for some in tensors for step in range(self.steps))

    def labels(self, logits: Tensor, terms: Terms, out: Tensor) -> Tensor:
        """y(z), known labels in their places; `out` may be the logits, and `terms` are to be added to them first."""
        if type(self.domain) is Box:
            y = elementwise.labels(logits, terms, out)
        else:
            y = out.copy_(self.domain.labels(logits))
        if self.observed is not None:
            self.observed.labels(y, out=y)
        return y

    def start(self, at: At) -> Sequence[Tensor]:
        """What a segment that starts there needs: n_t, and v_t where the next step goes on from it."""
        assert at.n is not None
        assert at.velocity is not None
        return (at.n.clone(),) if self.mean_field else (at.n, at.velocity)  # mean field steps write in place

    def visible(self, logits: Tensor) -> Tensor:
        """z with the logits of known labels in their places."""
        return logits if self.observed is None else self.observed.logits(logits, self.domain)

    def pullback(
        self, logits: Tensor, terms: Terms, gradient: Tensor, bars: Terms, labels: Tensor, out: Tensor
    ) -> None:
        """y(z) in `labels`, J g at y, 0 where y is known, in `out`, and its shares in `bars`."""
        if type(self.domain) is Box and self.observed is None:
            elementwise.labels_and_pullback(logits, terms, gradient, bars, labels, out)
            return
        y = self.labels(logits, terms, labels)
        if type(self.domain) is Box:  # y (1 - y) is 0 where y is known
            elementwise.pullback(y, gradient, bars, out)
            return
        out.copy_(self.domain.pullback(y, gradient))
        if self.observed is not None:
            self.observed.free(out, out=out)
        elementwise.share(out, bars)


class At(NamedTuple):
    """Where a descent stands before step t: z_t is `logits` and `terms`; n_t and v_t are None at t = 0."""

    step: int
    logits: Tensor
    terms: Terms
    n: Tensor | None
    velocity: Tensor | None


@dataclass
class Kept:
    """What is kept of the steps from `first` on.

    Args:
        first: t.
        start: as `MirrorPlan.start`; none at t = 0.
        states: a step (B, K) each, what the slope wants of m.
        coordinates: n_{t+1}, n_{t+2}, ..., or None where n_{t+1} = -eta_t s_t says it.
    """

    first: int
    start: Sequence[Tensor]
    states: Tensor
    coordinates: Sequence[Tensor] | None


@dataclass
class MirrorRun:
    """What the forward pass leaves for the backward, which lets go of it as it comes by.

    Args:
        logits: z_T (B, L).
        last: of the last segment.
        starts: as `MirrorPlan.start`, of all segments but the first.
        velocity: the last v (B, K), or None.
        loss: sum of the step losses.
    """

    logits: Tensor
    last: Kept
    starts: list[Sequence[Tensor]]
    velocity: Tensor | None
    loss: Tensor | None


def descend(
    plan: MirrorPlan,
    rows: Tensor,
    offset: Tensor,
    bases: Sequence[Tensor],
    gates: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    *,
    keep: bool,
) -> MirrorRun:
    """z_T, 2 T products and one pass over (B, L) a step; what the backward pass needs only if `keep`."""
    linear = linear_forward(rows, offset, gates, plan.widths, plan.precision)
    walk = _Walk(plan, linear, plan.make_slope(weights), bases, fused=not gates and plan.fuses(bases))
    starts: list[Sequence[Tensor]] = []
    buffer = torch.empty_like(bases[0], memory_format=torch.contiguous_format)  # kernels write from end to end
    at = At(0, plan.base(0, bases, buffer), NO_TERMS, None, None)
    segment = plan.segment(rows, bases[0]) if keep else plan.steps
    for end in reversed(range(plan.steps - segment, 0, -max(1, segment))):
        at, _ = walk.segment(at, end, buffer, keep=False)
        starts.append(plan.start(at))
    at, kept = walk.segment(at, plan.steps, buffer, keep=keep)
    kept.start = starts[-1] if starts else ()
    return MirrorRun(plan.visible(at.logits), kept, starts, None if plan.mean_field else at.velocity, walk.loss)


class _Walk:
    """Steps of one descent, forwards.

    Args:
        fused: whether one kernel adds the bases to a product.
        with_loss: whether the losses of the steps are added up, in `loss`.
    """

    def __init__(
        self,
        plan: MirrorPlan,
        linear: Measurements,
        slope: Slope,
        bases: Sequence[Tensor],
        *,
        fused: bool,
        with_loss: bool = True,
    ) -> None:
        self.plan, self.linear, self.slope, self.bases = plan, linear, slope, bases
        self.step_loss = plan.step_loss if with_loss else None
        self.fused = fused and self.step_loss is None
        self.loss: Tensor | None = None

    def segment(self, at: At, end: int, buffer: Tensor, *, keep: bool, onwards: bool = True) -> tuple[At, Kept]:
        """From one step to another, the last z being left out unless `onwards`; what `Kept` wants only if `keep`.

        Args:
            buffer: (B, L), where z and y are made.
        """
        plan, linear, slope, mask = self.plan, self.linear, self.slope, self.plan.mask
        first, logits, terms, n, velocity = at
        del at  # the memory of the first logits
        shape = (len(self.bases[0]), len(linear.rows))
        states = self.bases[0].new_empty(end - first if keep else 1, *shape)
        places = states.unbind() if keep else states.unbind() * (end - first)
        history: list[Tensor] | None = [] if keep and not plan.mean_field else None
        for step, place in zip(range(first, end), places, strict=True):
            scale = plan.scales[step]
            m = linear.measure(plan.labels(logits, terms, buffer), place)
            if mask is not None:
                m = torch.mul(m, mask, out=place)
            elif m is not place:
                m = place.copy_(m)
            update = slope.forward(m, scale, torch.empty_like(place) if n is None or not plan.mean_field else n)
            if mask is not None:
                update.mul_(mask)
            if n is None or plan.mean_field:
                n = update
            else:
                assert velocity is not None
                elementwise.share(n, [(scale * plan.tau, update)])
                elementwise.share(velocity, [(plan.momentum, update)])
                n = n + update
            velocity = update
            if history is not None:
                history.append(n)
            if step + 1 == end and not onwards:
                break
            if self.fused and step + 1 < plan.steps:
                logits, terms = linear.spread(None, n, buffer), plan.terms(step + 1, self.bases)
            else:
                logits, terms = linear.spread(plan.base(step + 1, self.bases, buffer), n, buffer), NO_TERMS
            if self.step_loss is not None:
                step_loss = self.step_loss(step + 1, plan.visible(logits))
                self.loss = step_loss if self.loss is None else self.loss + step_loss
        return At(end, logits, terms, n, velocity), Kept(first, (), states, history)

    def _at(self, start: Sequence[Tensor], first: int, buffer: Tensor) -> At:
        plan, bases = self.plan, self.bases
        if not first:
            return At(0, plan.base(0, bases, buffer), NO_TERMS, None, None)
        n = start[0].clone() if plan.mean_field else start[0]
        base, terms = (None, plan.terms(first, bases)) if self.fused else (plan.base(first, bases, buffer), NO_TERMS)
        return At(first, self.linear.spread(base, n, buffer), terms, n, start[-1])

    def again(self, start: Sequence[Tensor], first: int, end: int, buffer: Tensor) -> Kept:
        """The same from the kept n_t and v_t, to be kept whole."""
        _, kept = self.segment(self._at(start, first, buffer), end, buffer, keep=True, onwards=False)
        kept.start = start
        return kept


class Needed(NamedTuple):
    """Which inputs want gradients."""

    rows: bool
    bases: tuple[bool, ...]
    weights: bool
    factors: bool
    numbers: bool


@dataclass
class MirrorGradients:
    """Gradients of the inputs of `descend`, and of the numbers where they are learned."""

    rows: Tensor | None
    offset: Tensor
    bases: list[Tensor | None]
    gates: Sequence[Tensor]
    weights: Sequence[Tensor | None]
    factors: Tensor | None
    numbers: Tensor | None


def descend_backward(
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
    """The equations on top of this file: 5 T - 1 products in 4 T - 1 calls and one pass over (B, L) a step."""
    batch, steps, mask, observed = len(bases[0]), plan.steps, plan.mask, plan.observed
    slope, kept, segment = plan.make_slope(weights), run.last, plan.segment(rows, bases[0])
    del run.last
    linear = linear_backward(rows, batch, needed.rows, gates, plan.widths, plan.precision, steps)
    bases_bar = [torch.zeros_like(x) if wanted else None for x, wanted in zip(bases, needed.bases, strict=True)]
    offset_bar = rows.new_zeros(batch, len(rows))
    factors_bar = rows.new_zeros(len(bases), steps + 1) if needed.factors else None
    numbers_bar = rows.new_zeros(steps + 2) if needed.numbers else None
    fused = loss_bar is None and not gates and plan.fuses(bases, bases_bar)

    def recall(step: int, out: Tensor) -> Tensor:
        """n_t, for t >= 1."""
        index = step - kept.first - 1
        if index < 0:
            return out.copy_(kept.start[0])
        if kept.coordinates is not None:
            return out.copy_(kept.coordinates[index])
        slope.recall(kept.states[index], plan.scales[step - 1], out)
        return out if mask is None else out.mul_(mask)

    walk: _Walk | None = None

    def share_factors(step: int) -> None:
        """dz_t to the factors it came with."""
        if factors_bar is not None:
            for index, base in enumerate(bases):
                factors_bar[index, step] = (linear.logit_bars * base).sum()

    def step_loss_bar(step: int, logits: Tensor) -> Tensor:
        assert plan.step_loss is not None
        with torch.enable_grad():
            leaf = plan.visible(logits).detach().clone().requires_grad_()
            (bar,) = torch.autograd.grad(plan.step_loss(step, leaf), leaf, loss_bar)
        return bar if observed is None else observed.free(bar)

    dz = linear.logit_bars.copy_(logits_bar if observed is None else observed.free(logits_bar))
    n = recall(steps, linear.coordinates)
    if loss_bar is not None:
        dz.add_(step_loss_bar(steps, linear.rebuild(plan.base(steps, bases, linear.labels), n)))
    elementwise.share(dz, plan.terms(steps, bases_bar))
    share_factors(steps)
    dn: Tensor | None = None
    dv: Tensor | None = None
    for step in range(steps - 1, -1, -1):
        labels = linear.labels
        if step < kept.first:  # into another segment: its steps again
            if walk is None:
                forth = linear_forward(rows, offset, gates, plan.widths, plan.precision)
                walk = _Walk(plan, forth, plan.make_slope(weights), bases, fused=fused, with_loss=False)
            first = max(0, step + 1 - segment)
            run.starts.pop()
            del kept  # those of the later segment make room
            kept = walk.again(run.starts[-1] if first else (), first, step + 1, labels)
        state = kept.states[step - kept.first]
        dn = linear.pull(dn)
        dv = dn if dv is None or _is(plan.momentum, 0) else dn + dv * plan.momentum
        if numbers_bar is not None:
            _share_numbers(numbers_bar, plan, kept, step, dv)
        dm = linear.measurement_bars
        slope.backward(state, dv if mask is None else dv * mask, plan.scales[step], dm)
        if mask is not None:
            dm.mul_(mask)
        offset_bar.add_(dm)
        dn = None if plan.mean_field else dn - dv * (plan.step_sizes[step] * plan.tau)
        terms = NO_TERMS
        if step and fused:
            logits = linear.rebuild(None, recall(step, linear.next_coordinates))
            terms = plan.terms(step, bases)
        elif step:
            logits = linear.rebuild(plan.base(step, bases, labels), recall(step, linear.next_coordinates))
        else:
            logits = plan.base(step, bases, labels)
        label_bars, dz, bars = linear.push(), linear.next_logit_bars, plan.terms(step, bases_bar)
        if step and loss_bar is not None:
            extra = step_loss_bar(step, logits)
            plan.pullback(logits, terms, label_bars, NO_TERMS, labels, dz)
            elementwise.share(dz.add_(extra), bars)
        else:
            plan.pullback(logits, terms, label_bars, bars, labels, dz)
        del state, logits, label_bars  # perhaps memory of their own, which the next step can have
        linear.accumulate()
        share_factors(step)
    weights_bar = slope.gradients() if needed.weights else [None] * len(weights)
    offset_bar = offset_bar.sum(0) if offset.ndim == 1 else offset_bar
    return MirrorGradients(
        linear.finish(), offset_bar, bases_bar, linear.gate_gradients, weights_bar, factors_bar, numbers_bar
    )


def _share_numbers(numbers_bar: Tensor, plan: MirrorPlan, kept: Kept, step: int, dv: Tensor) -> None:
    """dv_{t+1} -> eta_t, tau and momentum, from v_{t+1} = momentum v_t - eta_t (s_t + tau n_t)."""
    assert kept.coordinates is not None
    zero = torch.zeros_like(dv)
    index, given = step - kept.first, [*(kept.start[:1] or (zero,)), *kept.coordinates]
    here, later = given[index], given[index + 1]
    if index:
        velocity = here - given[index - 1]
    else:
        velocity = kept.start[1] if kept.start else zero
    size = plan.step_sizes[step]
    numbers_bar[step] = (dv * (later - here - velocity * plan.momentum)).sum() / size
    numbers_bar[-2] -= (dv * here).sum() * size
    numbers_bar[-1] += (dv * velocity).sum()


class Directions(NamedTuple):
    """What computes a descent and its backward pass: `descend` and `descend_backward`, or others of their meaning."""

    forward: Callable[..., MirrorRun]
    backward: Callable[..., MirrorGradients]


EAGER = Directions(descend, descend_backward)


class MirrorFunction(torch.autograd.Function):
    """Both directions as one node of the graph: (z_T, sum of step losses)."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: MirrorPlan,
        directions: Directions,
        counts: tuple[int, int],
        factors: Tensor | None,
        numbers: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        inputs = _unpack(tensors, counts)
        run = directions.forward(plan, *inputs, keep=True)
        ctx.plan, ctx.directions, ctx.counts = plan, directions, counts
        ctx.first, ctx.num_starts = run.last.first, len(run.starts)
        starts = [tensor for start in run.starts for tensor in start]
        ctx.save_for_backward(*tensors, run.last.states, *starts, *(run.last.coordinates or ()))
        ctx.set_materialize_grads(False)
        return run.logits, run.loss

    @staticmethod
    @once
    def backward(ctx: Any, logits_bar: Tensor | None, loss_bar: Tensor | None) -> tuple[Any, ...]:
        plan, (num_bases, num_gates) = ctx.plan, ctx.counts
        *_, factors, numbers = ctx.needs_input_grad[:5]
        wants = ctx.needs_input_grad[5:]
        needed = Needed(
            wants[0], tuple(wants[2 : 2 + num_bases]), any(wants[2 + num_bases + num_gates :]), factors, numbers
        )
        saved = ctx.saved_tensors  # asked for once, for what checkpoints or offloads makes them again each time
        inputs = _unpack(saved[: len(wants)], ctx.counts)
        if logits_bar is None:
            logits_bar = torch.zeros_like(inputs[2][0])
        run = MirrorFunction._run(ctx, saved[len(wants) :], logits_bar)
        del saved
        if clear := getattr(ctx, "maybe_clear_saved_tensors", None):  # unless the graph is kept; no public name
            clear()
        found = ctx.directions.backward(plan, *inputs, run, logits_bar, loss_bar, needed)
        return (
            *(None, None, None, found.factors, found.numbers),
            *(found.rows, found.offset, *found.bases, *found.gates, *found.weights),
        )

    @staticmethod
    def _run(ctx: Any, saved: Sequence[Tensor], logits: Tensor) -> MirrorRun:
        """What `forward` saved besides its inputs; none of it stays behind here."""
        states, *rest = saved
        each = 1 if ctx.plan.mean_field else 2
        ends = range(0, each * ctx.num_starts + 1, each)
        starts: list[Sequence[Tensor]] = [rest[a:b] for a, b in itertools.pairwise(ends)]
        last = Kept(ctx.first, starts[-1] if starts else (), states, rest[ends[-1] :] or None)
        return MirrorRun(logits, last, starts, None, None)


def _unpack(tensors: Sequence[Tensor], counts: tuple[int, int]) -> tuple[Any, ...]:
    rows, offset, *rest = tensors
    bases, gates = counts
    return rows, offset, tuple(rest[:bases]), tuple(rest[bases : bases + gates]), tuple(rest[bases + gates :])


def _is(number: Number, value: float) -> bool:
    """Whether a number is this value for good: a learned one never is."""
    return isinstance(number, float) and number == value
