"""Which labels of each document move and what its others add, one pass over the labels; and its gradients, another.

With I_b the candidates of document b, n of them, phi = f U^T + u0, y = sigmoid(phi) and targets t, the first pass gives

    phi_I (B, n)    A_I (B, K, n)    m_rest = sum_{j not in I} y_j A_j (B, K)    loss_rest = sum_{j not in I} bce(phi_j)

where the sums are those over all labels less the candidates' share, for a pass that looks for them does not yet know
them. The second, from their gradients (d is the gradient of the loss to what it stands before):

    dphi_j = dphi_I at a candidate, else y_j (1 - y_j) (dm_rest A)_j + (y_j - t_j) dloss_rest
    dA     = dm_rest^T y, y_j = 0 at a candidate, and dA_I in its places
    dU     = dphi^T f,  du0 = sum_B dphi,  df = dphi U

Which labels are candidates is piecewise constant in all of these. Chunks are those of `streamed`: no tensor has B x L
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from energynets.inference.engine.once import once
from energynets.inference.engine.streamed import Chunk, Inputs, LabelBars, Part, cut, in_chunks, loss_sum
from energynets.products import addmm, mm
from energynets.top import TopLabels, top_labels

if TYPE_CHECKING:
    from energynets.data.batches import SparseBatch

_sigmoid_backward = torch.ops.aten.sigmoid_backward


class Places(NamedTuple):
    """Labels (B, n) of documents, sorted by label and cut where chunks are.

    Args:
        order: positions in the flattened (B, n).
        rows, labels: document and label of each.
        bounds: where chunks begin; before the first are the labels below 0, which are none.
        chunk: C.
    """

    order: Tensor
    rows: Tensor
    labels: Tensor
    bounds: list[int]
    chunk: int

    @classmethod
    def of(cls, labels: Tensor, chunk: int, num_labels: int) -> Places:
        """Of labels (B, n)."""
        ordered, order = labels.flatten().sort()
        starts = torch.arange(0, num_labels + chunk, chunk, device=labels.device)
        bounds: list[int] = torch.searchsorted(ordered, starts).tolist()
        return cls(order, order // max(labels.shape[1], 1), ordered, bounds, chunk)

    def at(self, number: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Of one chunk: positions in the flattened (B, n), and where they are in the chunk's (B, C)."""
        here = slice(self.bounds[number], self.bounds[number + 1])
        return self.order[here], (self.rows[here], self.labels[here] - number * self.chunk)


class Survey(NamedTuple):
    """What one pass over all labels sees.

    Args:
        best: of phi.
        wanted: phi of the labels asked for, (B, p).
        measurements: y A^T (B, K).
        loss: of phi against the targets, summed, float64; 0 without targets.
    """

    best: TopLabels
    wanted: Tensor
    measurements: Tensor
    loss: Tensor


def survey(inputs: Inputs, chunk: int, k: int, wanted: Tensor, parts: Sequence[Part] | None) -> Survey:
    """One pass: the k best labels of each document, and phi of those that are wanted anyway.

    Args:
        inputs: of the labels.
        chunk: C.
        k: at most L.
        wanted: labels (B, p); those below 0 are none, and get -inf.
        parts: of the targets.
    """
    features, num_labels = inputs.features, len(inputs.weight)
    places = Places.of(wanted, chunk, num_labels)
    phi = features.new_full(wanted.shape, -torch.inf)
    m = features.new_zeros(len(features), len(inputs.rows))
    loss = features.new_zeros((), dtype=torch.float64)

    def chunks() -> Iterator[Tensor]:
        nonlocal m, loss
        for number, here in enumerate(in_chunks(inputs, chunk)):
            which, at = places.at(number)
            phi.view(-1)[which] = here.phi[at]
            if parts is not None:
                loss += loss_sum(here.phi, parts[number])
            yield here.phi
            m = addmm(m, here.phi.sigmoid_(), here.rows.T, out=m)

    best = top_labels(chunks(), k)
    return Survey(best, phi, m, loss)


def distinct(labels: Tensor) -> Tensor:
    """Which of the labels (B, p) stand first of their kind in their row; those below 0 never do."""
    ordered, order = labels.sort(dim=1, stable=True)
    again = ordered < 0
    again[:, 1:] |= ordered[:, 1:] == ordered[:, :-1]
    return torch.empty_like(again).scatter_(1, order, ~again)


def choose(labels: Tensor, phi: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` distinct labels of each row, by ascending label, with their phi: (B, p), (B, p) -> (B, n)."""
    first = (~distinct(labels)).byte().sort(dim=1, stable=True).indices[:, :count]
    first = first.gather(1, labels.gather(1, first).sort(dim=1).indices)
    return labels.gather(1, first), phi.gather(1, first)


def targets_at(targets: SparseBatch, labels: Tensor, like: Tensor) -> Tensor:
    """The targets of some labels: ascending (B, n) -> (B, n)."""
    found = like.new_zeros(labels.numel())
    if not len(found) or not len(targets.columns):
        return found.view(labels.shape)
    size = targets.num_columns
    keys = (torch.arange(len(labels), device=labels.device)[:, None] * size + labels).flatten()
    given = targets.row_indices() * size + targets.columns
    place = torch.searchsorted(keys, given).clamp_(max=len(keys) - 1)
    hit = keys[place] == given
    return found.index_put_((place[hit],), targets.values.to(like.dtype)[hit], accumulate=True).view(labels.shape)


def columns_of(rows: Tensor, labels: Tensor) -> Tensor:
    """Columns of A (K, L) of labels (B, n), a matrix a document: (B, K, n)."""
    gathered = rows.index_select(1, labels.flatten())
    return gathered.view(len(rows), *labels.shape).transpose(0, 1).contiguous()


class Gathered(NamedTuple):
    """Candidates and the rest; of these, `unary`, `rows`, `rest` and `loss` are differentiable.

    Args:
        unary: phi_I (B, n).
        rows: A_I (B, K, n).
        rest: m_rest (B, K).
        loss: of the fixed labels, summed over labels and documents.
        labels: I, ascending (B, n).
        targets: t_I (B, n).
    """

    unary: Tensor
    rows: Tensor
    rest: Tensor
    loss: Tensor
    labels: Tensor
    targets: Tensor


def gathered(inputs: Inputs, seen: Survey, labels: Tensor, phi: Tensor, targets: SparseBatch | None) -> Gathered:
    """From what a survey saw and the candidates it led to, ascending (B, n), with their phi."""
    rows = columns_of(inputs.rows, labels)
    share = torch.bmm(torch.sigmoid(phi).unsqueeze(1), rows.mT).squeeze(1)
    known = torch.zeros_like(phi) if targets is None else targets_at(targets, labels, phi)
    loss = seen.loss
    if targets is not None:
        loss = loss - functional.binary_cross_entropy_with_logits(phi, known, reduction="none").sum(dtype=torch.float64)
    return Gathered(phi, rows, seen.measurements - share, loss.to(phi.dtype), labels, known)


@torch.no_grad()
def find(inputs: Inputs, chunk: int, count: int, first: Tensor, targets: SparseBatch) -> tuple[Gathered, list[Part]]:
    """One pass: `count` candidates, those that come first (B, p) and the best others."""
    parts = cut(targets, chunk, inputs.features)
    seen = survey(inputs, chunk, count, first, parts)
    labels, phi = torch.cat((first, seen.best.labels), 1), torch.cat((seen.wanted, seen.best.logits), 1)
    return gathered(inputs, seen, *choose(labels, phi, count), targets), parts


class GatherFunction(torch.autograd.Function):
    """`find` as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, chunk: int, count: int, first: Tensor, targets: SparseBatch, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        found, ctx.parts = find(_inputs(*tensors), chunk, count, first, targets)  # type: ignore[arg-type]
        ctx.chunk = chunk
        ctx.save_for_backward(*tensors, found.labels)
        ctx.mark_non_differentiable(found.labels, found.targets)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    @once
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Any, ...]:
        features, weight, bias, rows, labels = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        found = LabelBars(
            torch.zeros_like(features) if wanted[0] else None,
            torch.empty_like(weight) if wanted[1] else None,
            torch.empty_like(bias) if bias is not None and wanted[2] else None,
            torch.empty_like(rows) if wanted[3] else None,
        )
        d_unary, d_rows, d_rest, d_loss, *_ = bars
        columns = None if d_rows is None else d_rows.transpose(1, 2).flatten(0, 1)
        inputs, places = _inputs(features, weight, bias, rows), Places.of(labels, ctx.chunk, len(weight))
        _LabelBackward(inputs, places, d_unary, columns, d_rest, d_loss, found).over(ctx.parts)
        return (None, None, None, None, *found[:4])


def _inputs(features: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Inputs:
    """Those of a pass; what measurements add besides is the solver's."""
    return Inputs(features, weight, bias, rows, features.new_empty(0))


class _LabelBackward(NamedTuple):
    """The second pass.

    Args:
        inputs: of the labels.
        places: of the candidates.
        unary, columns, rest, loss: dphi_I (B, n), dA_I (B n, K), dm_rest (B, K) and d loss_rest; None is 0.
        wanted: where gradients are written, zeros that are added to (features).
    """

    inputs: Inputs
    places: Places
    unary: Tensor | None
    columns: Tensor | None
    rest: Tensor | None
    loss: Tensor | None
    wanted: LabelBars

    def over(self, parts: Sequence[Part]) -> None:
        """All chunks."""
        for number, (chunk, part) in enumerate(zip(in_chunks(self.inputs, self.places.chunk), parts, strict=True)):
            self._chunk(chunk, part, *self.places.at(number))

    def _chunk(self, chunk: Chunk, part: Part, which: Tensor, at: tuple[Tensor, Tensor]) -> None:
        y, labels, wanted = chunk.phi.sigmoid_(), chunk.labels, self.wanted
        dphi = torch.zeros_like(y)
        if self.loss is not None:
            dphi += y
            dphi.index_put_((part.rows, part.columns), -part.values, accumulate=True).mul_(self.loss)
        if self.rest is not None:
            dphi += _sigmoid_backward(mm(self.rest, chunk.rows), y)
        dphi[at] = 0 if self.unary is None else self.unary.flatten()[which]
        y[at] = 0
        if wanted.rows is not None:
            place = wanted.rows[:, labels]
            found = place.zero_() if self.rest is None else mm(self.rest.T, y, out=place)
            if found is not place:
                place.copy_(found)
            if self.columns is not None:
                add_columns(place, at[1], self.columns[which].T)
        wanted.add(labels, dphi, self.inputs)


def add_columns(place: Tensor, index: Tensor, columns: Tensor) -> None:
    """place[:, index] += columns, an index perhaps many times over, with the same bits each time on either device."""
    if place.is_cuda:  # where index_add adds in whatever order threads come, and index_put sorts first
        place.T.index_put_((index,), columns.T, accumulate=True)
    else:  # where it is the other way around
        place.index_add_(1, index, columns)
