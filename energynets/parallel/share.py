"""The part of a batch that one process works on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional

from energynets.data.batches import Batch, BatchInputs, CachedFeatures, SparseBatch, TokenBatch
from energynets.parallel.draws import Cut
from energynets.parallel.shard import LabelShard


class Share(NamedTuple):
    """Some documents of a batch, with some labels.

    Args:
        batch: these documents with these labels.
        weight: times their mean loss is their part of the batch's: their number over its number.
        cut: where they stand in the batch, if it has others.
    """

    batch: Batch
    weight: float = 1.0
    cut: Cut | None = None


def share_of(batch: Batch, index: int, count: int, shard: LabelShard) -> Share:
    """Share `index` of `count`, in equal parts where that can be, with the labels of a shard.

    Of fewer documents than shares some get none: they repeat the last one, at weight 0, for all must take the same way.
    """
    size = len(batch)
    start, stop = size * index // count, size * (index + 1) // count
    weight = (stop - start) / max(size, 1)
    if start == stop and size:
        start, stop = size - 1, size
    labels = batch.labels if count == 1 else _rows(batch.labels, start, stop)
    labels = labels_of(labels, shard)
    if count == 1:
        return Share(replace(batch, labels=labels))
    masks = (None if mask is None else mask[start:stop] for mask in (batch.revealed, batch.unknown))
    own = Batch(rows_of(batch.inputs, start, stop), labels, batch.rows[start:stop], *masks)
    return Share(own, weight, Cut(batch.inputs, start, stop, batch.labels if shard.count == 1 else None))


def rows_of(inputs: BatchInputs, start: int, stop: int) -> BatchInputs:
    """Documents start .. stop - 1; tokens padded to the longest of them."""
    if isinstance(inputs, SparseBatch):
        return _rows(inputs, start, stop)
    if isinstance(inputs, TokenBatch):
        lengths = inputs.lengths[start:stop]
        width = max(1, int(lengths.max())) if stop > start else 1
        return TokenBatch(inputs.tokens[start:stop, :width], lengths)
    if isinstance(inputs, CachedFeatures):
        return CachedFeatures(inputs.values[start:stop])
    found: Any = inputs[start:stop]
    return found


def _rows(batch: SparseBatch, start: int, stop: int) -> SparseBatch:
    begin, end = batch.offsets[[start, stop]].tolist()
    offsets: Tensor = batch.offsets[start : stop + 1] - begin
    return SparseBatch(batch.columns[begin:end], batch.values[begin:end], offsets, batch.num_columns)


def labels_of(batch: SparseBatch, shard: LabelShard) -> SparseBatch:
    """The labels of a shard, counted from its first."""
    if shard.count == 1:
        return batch
    start, stop = shard.start, shard.stop
    kept = (batch.columns >= start) & (batch.columns < stop)
    before = functional.pad(kept.long().cumsum(0), (1, 0))
    return SparseBatch(batch.columns[kept] - start, batch.values[kept], before[batch.offsets], stop - start)
