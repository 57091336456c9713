"""Dynamic max pooling: the largest value of each chunk, cut over each document's own length."""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_bounds(num_positions: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """Chunk j of p over n positions is [floor(j n / p), ceil((j + 1) n / p)): never empty, repeated where n < p.

    Args:
        num_positions: (B,) int64, n >= 1.
        chunks: p.

    Returns:
        starts and ends, (B, p) each.
    """
    j = torch.arange(chunks, device=num_positions.device)
    n = num_positions[:, None]
    return j * n // chunks, ((j + 1) * n + chunks - 1) // chunks


def size_classes(sizes: Tensor, smallest: int = 1) -> list[Tensor]:
    """Rows grouped by size up to the next power of two, so that filling a group to its largest at most doubles it.

    Args:
        sizes: (n,) int64.
        smallest: sizes up to this one make one group.
    """
    # Half a unit below the size keeps exact powers of two clear of rounding.
    classes = (sizes.clamp(min=smallest) - 0.5).double().log2().ceil()
    return [(classes == size_class).nonzero()[:, 0] for size_class in classes.unique()]


@torch.no_grad()
def argmax_over_chunks(values_TC: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """The row in [start, end) where each column is largest.

    Args:
        values_TC: (T, C).
        starts, ends: (n,) int64 each, start < end <= T.

    Returns:
        (n, C) int64.
    """
    sizes = ends - starts
    winners = torch.empty(len(starts), values_TC.shape[1], dtype=torch.int64, device=values_TC.device)
    for members in size_classes(sizes):
        first, last = starts[members, None], ends[members, None] - 1
        offsets = torch.arange(int(sizes[members].max()), device=starts.device)
        positions = torch.minimum(first + offsets, last)
        block = values_TC[positions.flatten()].unflatten(0, positions.shape)
        # `argmax` over an inner dimension is ten times slower than `max` on CPU.
        winners[members] = torch.minimum(first + block.max(1).indices, last)
    return winners


def take_along(values: Tensor, dim: int, index: Tensor) -> Tensor:
    """`values.gather(dim, index)`, every other dimension full, with a gradient of the same bits on every run."""
    if not values.is_cuda:
        return values.gather(dim, index)
    # There the gradient of `gather` adds with atomics, that of indexing sorts first.
    grid = list(
        torch.meshgrid(
            *(torch.arange(n, device=index.device) for n in index.shape),
            indexing="ij",
        )
    )
    grid[dim] = index
    return values[tuple(grid)]
