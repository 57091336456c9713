"""A pass over the labels as one kernel: z, y and dz of a tile of labels never leave the chip.

A step of inference is two products with A and a sigmoid between them, as attention is two products and a softmax, and
what FlashAttention (Dao et al., NeurIPS 2022, section 3) does for that one holds here: a tile of A is read once, used
for both products, and of the (B, L) numbers between them only phi is ever in memory. Three kernels:

    measure     m  += y A^T                            y  = sigmoid(z),  z = c phi + n A
    pull        dn += dz A^T                           dz = y (1 - y) (dm A)
    gradients   dA  = sum_t n_t^T dz_t + dm_t^T y_t    dphi = sum_t c_t dz_t,  of all steps of a tile at once

Sums over labels are made by several programs, each of its own labels, and added up in a fixed order: two runs give the
same bits. Targets are few and corrected for afterwards, so that no kernel needs to look for them. On a Hopper GPU, for
batches that fill its tiles, `label_hopper` makes the same passes in about 0.6 of the time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from energynets.inference.engine import label_hopper
from energynets.inference.engine.label_passes import Packed
from energynets.inference.engine.row_products import aligned
from energynets.products import may_fuse

try:
    import triton
    from triton import language as tl
except ImportError:  # a torch for CPUs comes without
    triton = None

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MOST_MEASUREMENTS = 256
"""Tiles of A and of (B, K) sums are held on the chip."""
_ON_CHIP = 227 << 10
"""Bytes that a program may hold there: an H100's, whose tiles these are. Elsewhere labels come in chunks."""


class Tiles(NamedTuple):
    """How a kernel is cut: documents and labels of a tile, warps of a program, loads under way."""

    documents: int
    labels: int
    warps: int
    stages: int


def take(features: Tensor, rows: Tensor) -> bool:
    """Whether there are kernels for this: f (B, F) and A (K, L) of at most 256 measurements, float32, on such a GPU."""
    return (
        triton is not None
        and may_fuse()
        and (_INTERPRETED or (rows.is_cuda and _on_chip(rows.device) >= _ON_CHIP))
        and features.dtype == rows.dtype == torch.float32
        and len(rows) <= MOST_MEASUREMENTS
        and len(features) > 0
    )


def pack(phi: Tensor, rows: Tensor, steps: int = 0) -> Packed:
    """Of phi (B, L) in float32, `aligned`, and A in bf16 with the numbers of a label side by side."""
    dtype = torch.float32 if _INTERPRETED else torch.bfloat16  # which the interpreter has not
    packed = torch.empty(rows.shape[::-1], dtype=dtype, device=rows.device)
    if rows.stride(1) != 1:
        return Packed(phi, packed.copy_(rows.T).T)
    width, labels = rows.shape
    with torch.cuda.device_of(rows):
        _pack_kernel[(triton.cdiv(labels, 64),)](
            *(rows, packed, labels, width, rows.stride(0)), block_l=64, block_k=_width(width)
        )
    return Packed(phi, packed.T)


def measure(given: Packed, factor: float, n: Tensor | None, step: int = 0) -> Tensor:
    """`LabelPasses.measure`."""
    return _sums(given, factor, n, None, loss=False)[0]


def pull(given: Packed, factor: float, n: Tensor, measurement_bars: Tensor, step: int = 0) -> Tensor:
    """`LabelPasses.pull`."""
    return _sums(given, factor, n, measurement_bars, loss=False)[0]


def measure_and_loss(given: Packed, factor: float, n: Tensor) -> tuple[Tensor, Tensor]:
    """`LabelPasses.measure_and_loss`."""
    return _sums(given, factor, n, None, loss=True)


def gradients(
    given: Packed,
    factors: Sequence[float],
    n: Tensor,
    bars: Tensor,
    scale: Tensor,
    out: Tensor | None,
    *,
    wants_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    """`LabelPasses.gradients`."""
    phi, rows = given.phi, given.rows
    batch, labels = phi.shape
    steps, width, tiles = len(n), len(rows), _tiles(batch, gradient=True)
    n, bars = (x.to(rows.dtype).contiguous() for x in (n, bars))
    out = phi.new_empty(rows.shape) if out is None else out
    if not wants_shares and label_hopper.take(phi, rows.T):
        with torch.cuda.device_of(phi):
            return label_hopper.gradients(phi, rows.T, factors, n, bars, scale, out), None
    dphi = aligned(batch, labels, phi)
    programs = triton.cdiv(labels, tiles.labels)
    shares = phi.new_empty(programs, triton.next_power_of_2(steps + 1))
    with torch.cuda.device_of(phi):
        _gradient_kernel[(programs,)](
            *(phi, rows.T, n, bars, out, dphi, shares, torch.tensor(factors, device=phi.device)),
            *(scale, batch, labels, width, phi.stride(0), dphi.stride(0), out.stride(0)),
            **{
                "steps": steps,
                "places": shares.shape[1],
                "has_shares": wants_shares,
                "block_b": tiles.documents,
                "block_l": tiles.labels,
            },
            **{"block_k": _width(width), "num_warps": tiles.warps, "num_stages": tiles.stages},
        )
    return dphi, shares.sum(0)[: steps + 1] if wants_shares else None


def _sums(given: Packed, factor: float, n: Tensor | None, bars: Tensor | None, *, loss: bool) -> tuple[Tensor, Tensor]:
    phi, rows = given.phi, given.rows
    batch, labels = phi.shape
    width, tiles = len(rows), _tiles(batch, bars=bars is not None)
    n, bars = (None if x is None else x.to(rows.dtype).contiguous() for x in (n, bars))
    if label_hopper.take(phi, rows.T):
        with torch.cuda.device_of(phi):
            sums, losses = label_hopper.sums(phi, rows.T, factor, n, bars, loss=loss)
        return sums.sum(0), sums if losses is None else losses.double().sum(0)
    down = triton.cdiv(batch, tiles.documents)
    across = max(1, min(_processors(phi.device) // down, triton.cdiv(labels, tiles.labels)))
    each = triton.cdiv(triton.cdiv(labels, across), tiles.labels) * tiles.labels
    across = triton.cdiv(labels, each)
    sums = phi.new_empty(across, batch, width)
    losses = phi.new_empty(across, batch) if loss else sums
    with torch.cuda.device_of(phi):
        _sum_kernel[(down, across)](
            *(phi, rows.T, sums if n is None else n, sums if bars is None else bars, sums, losses),
            *(factor, batch, labels, width, phi.stride(0), each),
            **{"has_n": n is not None, "has_bars": bars is not None, "has_loss": loss},
            **{"block_b": tiles.documents, "block_l": tiles.labels, "block_k": _width(width)},
            **{"num_warps": tiles.warps, "num_stages": tiles.stages},
        )
    return sums.sum(0), losses.double().sum(0) if loss else losses


def _tiles(batch: int, *, bars: bool = False, gradient: bool = False) -> Tiles:
    """The fastest on an H100 at L = 670,091, K = 256; by size, not by the clock: two runs must give the same bits."""
    documents = max(16, triton.next_power_of_2(batch))
    if gradient:
        return Tiles(min(documents, 32), 128, 8, 3)
    if documents <= 32:
        return Tiles(documents, 128, 8, 3)
    if documents == 64:
        return Tiles(64, 64, 4, 3)
    return Tiles(128, 64, 8, 2 if bars else 3)


def _width(measurements: int) -> int:
    return max(16, int(triton.next_power_of_2(measurements)))


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def _on_chip(device: torch.device) -> int:
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 0))


if triton is not None:

    @triton.jit
    def _pack_kernel(  # type: ignore[no-untyped-def]
        rows, packed, labels, width, rows_stride, block_l: tl.constexpr, block_k: tl.constexpr
    ):
        at = tl.program_id(0) * block_l + tl.arange(0, block_l)
        k = tl.arange(0, block_k)
        inside, kept = at < labels, k < width
        a = tl.load(rows + k.to(tl.int64)[:, None] * rows_stride + at[None, :], mask=kept[:, None] & inside[None, :])
        place = packed + at.to(tl.int64)[:, None] * width + k[None, :]
        tl.store(place, tl.trans(a).to(packed.dtype.element_ty), mask=inside[:, None] & kept[None, :])

    @triton.jit(do_not_specialize=["batch"])  # or an epoch's last batch is compiled anew
    def _sum_kernel(  # type: ignore[no-untyped-def]
        phi,
        rows,
        n,
        bars,
        sums,
        losses,
        factor,
        batch,
        labels,
        width,
        phi_stride,
        each,
        has_n: tl.constexpr,
        has_bars: tl.constexpr,
        has_loss: tl.constexpr,
        block_b: tl.constexpr,
        block_l: tl.constexpr,
        block_k: tl.constexpr,
    ):
        b = tl.program_id(0) * block_b + tl.arange(0, block_b)
        part = tl.program_id(1)
        k = tl.arange(0, block_k)
        here = b < batch
        held = here[:, None] & (k < width)[None, :]
        place = b[:, None] * width + k[None, :]
        if has_n:
            coordinates = tl.load(n + place, mask=held, other=0.0)
        if has_bars:
            pulled = tl.load(bars + place, mask=held, other=0.0)
        total = tl.zeros((block_b, block_k), dtype=tl.float32)
        loss = tl.zeros((block_b,), dtype=tl.float32)
        phi += b.to(tl.int64)[:, None] * phi_stride
        first = part * each
        for start in range(first, tl.minimum(first + each, labels), block_l):
            at = start + tl.arange(0, block_l)
            inside = at < labels
            # What lies outside has a row of zeros in A, and so no share in any sum.
            wanted = inside[:, None] & (k < width)[None, :]
            a = tl.load(rows + at.to(tl.int64)[:, None] * width + k[None, :], mask=wanted, other=0.0)
            z = factor * tl.load(phi + at[None, :], mask=here[:, None] & inside[None, :], other=0.0)
            if has_n:
                z = tl.dot(coordinates, tl.trans(a), z)
            y = tl.sigmoid(z)
            if has_bars:
                y = y * (1 - y) * tl.dot(pulled, tl.trans(a))
            if has_loss:
                small = tl.exp(-tl.abs(z))
                rest = tl.where(small < 1e-2, small * (1 - small * (0.5 - small / 3)), tl.log(1 + small))
                loss += tl.sum(tl.where(inside[None, :], tl.maximum(z, 0.0) + rest, 0.0), 1)
            total = tl.dot(y.to(a.dtype), a, total)
        tl.store(sums + part.to(tl.int64) * batch * width + place, total, mask=held)
        if has_loss:
            tl.store(losses + part * batch + b, loss, mask=here)

    @triton.jit(do_not_specialize=["batch"])
    def _gradient_kernel(  # type: ignore[no-untyped-def]
        phi,
        rows,
        n,
        bars,
        out,
        dphi,
        shares,
        factors,
        scale,
        batch,
        labels,
        width,
        phi_stride,
        dphi_stride,
        out_stride,
        steps: tl.constexpr,
        places: tl.constexpr,
        has_shares: tl.constexpr,
        block_b: tl.constexpr,
        block_l: tl.constexpr,
        block_k: tl.constexpr,
    ):
        # Transposed, labels first, so that y and dz go from one product to the next without leaving registers.
        at = tl.program_id(0) * block_l + tl.arange(0, block_l)
        k = tl.arange(0, block_k)
        step = tl.arange(0, places)
        inside, kept = at < labels, k < width
        wanted = inside[:, None] & kept[None, :]
        a = tl.load(rows + at.to(tl.int64)[:, None] * width + k[None, :], mask=wanted, other=0.0)
        total = tl.zeros((block_l, block_k), dtype=tl.float32)
        share = tl.zeros((places,), dtype=tl.float32)
        size = batch * width
        for start in range(0, batch, block_b):
            b = start + tl.arange(0, block_b)
            here = b < batch
            held = here[:, None] & kept[None, :]
            place = b[:, None] * width + k[None, :]
            seen = inside[:, None] & here[None, :]
            unary = tl.load(phi + b.to(tl.int64)[None, :] * phi_stride + at[:, None], mask=seen, other=0.0)
            # Step 0 has no n, the last one no dm.
            c = tl.load(factors)
            pulled = tl.load(bars + place, mask=held, other=0.0)
            y = tl.sigmoid(c * unary)
            dz = y * (1 - y) * tl.dot(a, tl.trans(pulled))
            total = tl.dot(y.to(a.dtype), pulled, total)
            if has_shares:
                share += tl.where(step == 0, tl.sum(dz * unary), 0.0)
            change = c * dz
            for t in range(1, steps):
                c = tl.load(factors + t)
                coordinates = tl.load(n + (t - 1) * size + place, mask=held, other=0.0)
                pulled = tl.load(bars + t * size + place, mask=held, other=0.0)
                y = tl.sigmoid(tl.dot(a, tl.trans(coordinates), c * unary))
                dz = y * (1 - y) * tl.dot(a, tl.trans(pulled))
                total = tl.dot(y.to(a.dtype), pulled, total)
                total = tl.dot(dz.to(a.dtype), coordinates, total)
                if has_shares:
                    share += tl.where(step == t, tl.sum(dz * unary), 0.0)
                change += c * dz
            c = tl.load(factors + steps)
            coordinates = tl.load(n + (steps - 1) * size + place, mask=held, other=0.0)
            dz = tl.load(scale) * tl.sigmoid(tl.dot(a, tl.trans(coordinates), c * unary))
            total = tl.dot(dz.to(a.dtype), coordinates, total)
            if has_shares:
                share += tl.where(step == steps, tl.sum(dz * unary), 0.0)
            change += c * dz
            tl.store(dphi + b.to(tl.int64)[None, :] * dphi_stride + at[:, None], change, mask=seen)
        tl.store(out + k.to(tl.int64)[None, :] * out_stride + at[:, None], total, mask=wanted)
        if has_shares:
            tl.store(shares + tl.program_id(0) * places + step, share)
