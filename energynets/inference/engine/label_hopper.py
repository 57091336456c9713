"""The passes of `label_kernels` on a Hopper GPU, written for its asynchronous copies and products.

There a product of tiles (wgmma) runs by itself once it is begun, and so does a copy into the chip's shared memory
(TMA). Triton's own loop waits for each product before it goes on; these, in Gluon, Triton's language of one level
below, begin a tile's first products and the last one's second, and make the sigmoids of the former while the latter
run, as FlashAttention-3 does for softmax (Shah et al., NeurIPS 2024, section 3.2, algorithm 2):

    begin  z_{i+1} = n A_{i+1}  and  m += y_i A_i^T
    wait for z_{i+1};  y_{i+1} = sigmoid(c phi + z_{i+1});  wait for m

On an H100, L = 670,091, K = 256, 1,024 documents, they make 0.43 to 0.67 of its bf16 rate, and `label_kernels`' own
0.2 to 0.4 (docs/scaling.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia.hopper import (
        fence_async_shared,
        mbarrier,
        tma,
        warpgroup_mma,
        warpgroup_mma_wait,
    )
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
except ImportError:  # no Triton, or one before 3.6
    gluon = None

DOCUMENTS, WARPS = 128, 8
"""Of a program that sums over labels: two groups of four warps, of 64 documents each."""
GRADIENT_LABELS, GRADIENT_DOCUMENTS, GRADIENT_STAGES = 128, 32, 6
LABELS = 64


def take(phi: Tensor, rows: Tensor) -> bool:
    """Whether these take phi (B, L) and A (L, K) in bf16: on such a GPU, enough to fill tiles, as TMA can read them."""
    return (
        gluon is not None
        and phi.is_cuda
        and torch.cuda.get_device_capability(phi.device)[0] == 9
        and len(phi) > DOCUMENTS // 2
        and rows.shape[1] > 64
        and _readable(phi)
        and _readable(rows)
    )


def _readable(x: Tensor) -> bool:
    return x.data_ptr() % 16 == 0 and x.stride(1) == 1 and x.stride(0) * x.element_size() % 16 == 0


def sums(
    phi: Tensor, rows: Tensor, factor: float, n: Tensor | None, bars: Tensor | None, *, loss: bool
) -> tuple[Tensor, Tensor | None]:
    """sum_l y_l A_l, or of dz_l A_l where there are `bars` (dm), over parts of the labels (P, B, K); the losses (P, B).

    Args:
        phi: (B, L).
        rows: A (L, K), bf16.
        factor: c.
        n, bars: (B, K), bf16.
        loss: softplus(z_l) is summed too.
    """
    (batch, labels), width = phi.shape, rows.shape[1]
    down = triton.cdiv(batch, DOCUMENTS)
    processors = torch.cuda.get_device_properties(phi.device).multi_processor_count
    across = max(1, min(processors // down, triton.cdiv(labels, LABELS)))
    each = triton.cdiv(triton.cdiv(labels, across), LABELS) * LABELS
    across = triton.cdiv(labels, each)
    found = phi.new_empty(across, batch, width)
    losses = phi.new_empty(across, batch) if loss else None
    wide = triton.next_power_of_2(width)
    # Where there is no n, or no dm, nothing reads what stands for it.
    given = [(rows, 8, wide) if x is None else (x, DOCUMENTS, wide) for x in (n, bars)]
    _sum_kernel[(down, across)](
        *(_described(x, *shape) for x, *shape in ((rows, LABELS, wide), (phi, DOCUMENTS, LABELS), *given)),
        *(found, found if losses is None else losses, factor, batch, labels, width, each),
        **{"has_n": n is not None, "has_bars": bars is not None, "has_loss": loss},
        **stages(has_bars=bars is not None),
        num_warps=WARPS,
    )
    if losses is not None:
        losses[-1] -= 0.6931471805599453 * (-labels % LABELS)  # softplus(0) of what lies outside
    return found, losses


def stages(*, has_bars: bool) -> dict[str, int]:
    """Tiles of A and of phi under way: as many as there is room for, next to n and dm."""
    return {"a_stages": 2, "phi_stages": 1} if has_bars else {"a_stages": 3, "phi_stages": 2}


def gradients(
    phi: Tensor, rows: Tensor, factors: Sequence[float], n: Tensor, bars: Tensor, scale: Tensor, out: Tensor
) -> Tensor:
    """dphi (B, L), in memory label by label, as the product that makes dU wants it; dA (K, L), written to `out`.

    Args:
        phi, rows: as for `sums`.
        factors: c_0 .. c_T.
        n: n_1 .. n_T (T, B, K).
        bars: dm_0 .. dm_{T-1} (T, B, K).
        scale: of the last step's slope, one number.
    """
    (batch, labels), (steps, _, width) = phi.shape, n.shape
    padded = triton.cdiv(batch, GRADIENT_DOCUMENTS) * GRADIENT_DOCUMENTS
    tiles = rows.new_zeros(2 * steps, padded, width)  # in the order in which they are read; rows of 0 add nothing
    tiles[::2, :batch] = bars
    tiles[1::2, :batch] = n
    dphi = phi.new_empty(labels, padded)
    wide = triton.next_power_of_2(width)
    _gradient_kernel[(triton.cdiv(labels, GRADIENT_LABELS),)](
        _described(rows, GRADIENT_LABELS, wide),
        _described(tiles.view(-1, width), GRADIENT_DOCUMENTS, wide),
        *(phi, out, dphi, torch.tensor(factors, device=phi.device), scale),
        *(batch, padded, labels, width, phi.stride(0), out.stride(0)),
        **{"steps": steps, "stages": GRADIENT_STAGES, "num_warps": WARPS},
    )
    return dphi[:, :batch].T


def _described(x: Tensor, *shape: int) -> Any:
    element = gl.bfloat16 if x.dtype == torch.bfloat16 else gl.float32
    return TensorDescriptor.from_tensor(x, list(shape), gl.NVMMASharedLayout.get_default_for(list(shape), element))


if gluon is not None:
    # By their names in Triton 3.6, or those that came after.
    _barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
    _copy = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared

    @gluon.jit
    def _exp(x):  # type: ignore[no-untyped-def]
        return gl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x * 1.4426950408889634], dtype=gl.float32, is_pure=True, pack=1
        )

    @gluon.jit
    def _inverse(x):  # type: ignore[no-untyped-def]
        return gl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
        )

    @gluon.jit
    def _log(x):  # type: ignore[no-untyped-def]
        return 0.6931471805599453 * gl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
        )

    @gluon.jit
    def _sigmoid(z):  # type: ignore[no-untyped-def]
        return _inverse(1.0 + _exp(-z))

    @gluon.jit
    def _operand(x, wide: gl.constexpr):  # type: ignore[no-untyped-def]
        """x in bf16 as the next product's left factor, made before the wait that follows.

        To the assembler a wait and a sum are independent, and it moves all sums behind the wait, where nothing runs
        beside them. So they end in an instruction that it does not move, and that is never executed: no bf16 that was
        rounded is all ones.
        """
        return gl.inline_asm_elementwise(
            """{ .reg .pred p; .reg .b32 t;
            lop3.b32 t, $4, $5, $6, 0x80; and.b32 t, t, $7; setp.eq.u32 p, t, 0xffffffff; @p nanosleep.u32 1;
            mov.b32 $0, $4; mov.b32 $1, $5; mov.b32 $2, $6; mov.b32 $3, $7; }""",
            "=r,=r,=r,=r,r,r,r,r",
            [gl.convert_layout(x.to(gl.bfloat16), gl.DotOperandLayout(0, wide, 2))],
            dtype=gl.bfloat16,
            is_pure=False,
            pack=8,
        )

    @gluon.jit
    def _fetch(source, row, column, full, places, i, wanted):  # type: ignore[no-untyped-def]
        """Begin the copy of tile i to its place in a ring."""
        place = i % places.type.shape[0]
        mbarrier.expect(full.index(place), source.block_type.nbytes, pred=wanted)
        _copy(source, [row, column], full.index(place), places.index(place), pred=wanted)

    @gluon.jit
    def _tile(places, i):  # type: ignore[no-untyped-def]
        return places.index(i % places.type.shape[0])

    @gluon.jit
    def _ready(places, full, i):  # type: ignore[no-untyped-def]
        """Tile i, once it is there."""
        stages: gl.constexpr = places.type.shape[0]
        mbarrier.wait(full.index(i % stages), (i // stages) & 1)
        return places.index(i % stages)

    @gluon.jit
    def _shares(z, w, loss, has_bars: gl.constexpr, has_loss: gl.constexpr, wide: gl.constexpr):  # type: ignore[no-untyped-def]
        """y, or dz = y (1 - y) w, and the loss with that of a tile added."""
        if has_loss:
            small = _exp(-gl.abs(z))
            inverse = _inverse(1.0 + small)
            y = gl.where(z >= 0, inverse, small * inverse)
            series = small * (1.0 - small * (0.5 - small * (0.33333334 - small * (0.25 - small * 0.2))))
            loss += gl.sum(gl.maximum(z, 0.0) + gl.where(small < 0.0625, series, _log(1.0 + small)), 1)
        else:
            y = _sigmoid(z)
        if has_bars:
            y = (y - y * y) * w
        return _operand(y, wide), loss

    @gluon.jit(do_not_specialize=["batch"])  # or an epoch's last batch is compiled anew
    def _sum_kernel(  # type: ignore[no-untyped-def]
        rows,
        phi,
        n,
        bars,
        sums,
        losses,
        factor,
        batch,
        labels,
        width,
        each,
        has_n: gl.constexpr,
        has_bars: gl.constexpr,
        has_loss: gl.constexpr,
        a_stages: gl.constexpr,
        phi_stages: gl.constexpr,
        num_warps: gl.constexpr,
    ):
        block_b: gl.constexpr = phi.block_type.shape[0]
        block_l: gl.constexpr = rows.block_type.shape[0]
        block_k: gl.constexpr = rows.block_type.shape[1]
        thin: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, block_l, 16])
        wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, block_k, 16])
        row = gl.program_id(0) * block_b
        first = gl.program_id(1) * each
        tiles = gl.cdiv(gl.minimum(each, labels - first), block_l)

        a_tiles = gl.allocate_shared_memory(gl.bfloat16, [a_stages, block_l, block_k], rows.layout)
        phi_tiles = gl.allocate_shared_memory(gl.float32, [phi_stages, block_b, block_l], phi.layout)
        n_tile = gl.allocate_shared_memory(gl.bfloat16, n.block_type.shape, n.layout)
        bars_tile = gl.allocate_shared_memory(gl.bfloat16, bars.block_type.shape, bars.layout)
        a_full = gl.allocate_shared_memory(gl.int64, [a_stages, 1], mbarrier.MBarrierLayout())
        phi_full = gl.allocate_shared_memory(gl.int64, [phi_stages, 1], mbarrier.MBarrierLayout())
        held = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
        for i in gl.static_range(a_stages):
            mbarrier.init(a_full.index(i), count=1)
        for i in gl.static_range(phi_stages):
            mbarrier.init(phi_full.index(i), count=1)
        mbarrier.init(held.index(0), count=1)
        fence_async_shared()
        _barrier()

        if has_n or has_bars:
            size: gl.constexpr = block_b * block_k * 2
            mbarrier.expect(held.index(0), size * ((1 if has_n else 0) + (1 if has_bars else 0)))
            if has_n:
                _copy(n, [row, 0], held.index(0), n_tile)
            if has_bars:
                _copy(bars, [row, 0], held.index(0), bars_tile)
        for i in gl.static_range(a_stages):
            _fetch(rows, first + i * block_l, 0, a_full, a_tiles, i, i < tiles)
        for i in gl.static_range(phi_stages):
            _fetch(phi, row, first + i * block_l, phi_full, phi_tiles, i, i < tiles)

        total = gl.zeros([block_b, block_k], gl.float32, wide)
        loss = gl.zeros([block_b], gl.float32, gl.SliceLayout(1, thin))
        w = gl.zeros([block_b, block_l], gl.float32, thin)
        if has_n or has_bars:
            mbarrier.wait(held.index(0), 0)
        # What lies outside is read as 0: its z is 0, and its row of A has no share in any sum.
        a = _ready(a_tiles, a_full, 0)
        z = factor * _ready(phi_tiles, phi_full, 0).load(thin)
        _barrier()
        _fetch(phi, row, first + phi_stages * block_l, phi_full, phi_tiles, phi_stages, phi_stages < tiles)
        if has_n:
            z = warpgroup_mma(n_tile, a.permute((1, 0)), z)
        if has_bars:
            w = warpgroup_mma(bars_tile, a.permute((1, 0)), w)
        left, loss = _shares(z, w, loss, has_bars, has_loss, wide)
        for i in range(1, tiles):
            a = _ready(a_tiles, a_full, i)
            zero = gl.zeros([block_b, block_l], gl.float32, thin)
            if has_n:
                z_begun = warpgroup_mma(n_tile, a.permute((1, 0)), zero, use_acc=False, is_async=True)
            if has_bars:
                w_begun = warpgroup_mma(bars_tile, a.permute((1, 0)), zero, use_acc=False, is_async=True)
            begun = warpgroup_mma(left, _tile(a_tiles, i - 1), total, is_async=True)
            unary = _ready(phi_tiles, phi_full, i).load(thin)
            if has_bars:
                z, w = warpgroup_mma_wait(1, deps=[z_begun, w_begun])
                z += factor * unary
            elif has_n:
                z = warpgroup_mma_wait(1, deps=[z_begun]) + factor * unary
            else:
                z = factor * unary
            made, loss = _shares(z, w, loss, has_bars, has_loss, wide)
            total, left, made = warpgroup_mma_wait(0, deps=[begun, left, made])
            left = made
            _barrier()  # all are done with what the next copies overwrite
            later = i - 1 + a_stages
            _fetch(rows, first + later * block_l, 0, a_full, a_tiles, later, later < tiles)
            later = i + phi_stages
            _fetch(phi, row, first + later * block_l, phi_full, phi_tiles, later, later < tiles)
        total = warpgroup_mma(left, _tile(a_tiles, tiles - 1), total)

        part = gl.program_id(1)
        b = row + gl.arange(0, block_b, gl.SliceLayout(1, wide))
        k = gl.arange(0, block_k, gl.SliceLayout(0, wide))
        kept = (b < batch)[:, None] & (k < width)[None, :]
        gl.store(sums + (part * batch + b)[:, None] * width + k[None, :], total, mask=kept)
        if has_loss:
            b = row + gl.arange(0, block_b, gl.SliceLayout(1, thin))
            gl.store(losses + part * batch + b, loss, mask=b < batch)

    @gluon.jit
    def _fetch_step(source, full, places, i, count, padded, steps: gl.constexpr):  # type: ignore[no-untyped-def]
        """Tile i of all blocks of documents, each of 2 T: dm_0, n_1, dm_1, .., n_T."""
        row = (i % (2 * steps)) * padded + (i // (2 * steps)) * source.block_type.shape[0]
        _fetch(source, row, 0, full, places, i, i < count)

    @gluon.jit
    def _gradient_step(  # type: ignore[no-untyped-def]
        t,
        base,
        count,
        padded,
        a,
        source,
        places,
        full,
        unary,
        change,
        total,
        left_y,
        left_dz,
        factors,
        scale,
        steps: gl.constexpr,
        is_second: gl.constexpr,
        is_last: gl.constexpr,
        wide: gl.constexpr,
    ):
        """Step t > 0 of a block of documents: its y_t and dz_t, while step t - 1 is added to dA."""
        stages: gl.constexpr = places.type.shape[0]
        c = gl.load(factors + t)
        zero = gl.zeros_like(unary)
        n = _ready(places, full, base + 2 * t - 1)
        z_begun = warpgroup_mma(a, n.permute((1, 0)), zero, use_acc=False, is_async=True)
        if not is_last:
            bars = _ready(places, full, base + 2 * t)
            w_begun = warpgroup_mma(a, bars.permute((1, 0)), zero, use_acc=False, is_async=True)
        begun = warpgroup_mma(left_y, _tile(places, base + 2 * t - 2), total, is_async=True)
        if not is_second:  # step 0 has no n
            begun = warpgroup_mma(left_dz, _tile(places, base + 2 * t - 3), begun, is_async=True)
        under_way: gl.constexpr = 1 if is_second else 2
        if is_last:  # which has no dm
            z = warpgroup_mma_wait(under_way, deps=[z_begun])
            dz = gl.load(scale) * _sigmoid(z + c * unary)
            made_y = left_y
        else:
            z, w = warpgroup_mma_wait(under_way, deps=[z_begun, w_begun])
            y = _sigmoid(z + c * unary)
            dz = (y - y * y) * w
            made_y = _operand(y, wide)
        made_dz = _operand(dz, wide)
        change += c * dz
        total, left_y, left_dz, made_y, made_dz = warpgroup_mma_wait(0, deps=[begun, left_y, left_dz, made_y, made_dz])
        _barrier()  # all are done with what the next copies overwrite
        if not is_second:
            _fetch_step(source, full, places, base + 2 * t - 3 + stages, count, padded, steps)
        _fetch_step(source, full, places, base + 2 * t - 2 + stages, count, padded, steps)
        return change, total, made_y, made_dz

    @gluon.jit(do_not_specialize=["batch"])
    def _gradient_kernel(  # type: ignore[no-untyped-def]
        rows,
        source,
        phi,
        out,
        dphi,
        factors,
        scale,
        batch,
        padded,
        labels,
        width,
        phi_stride,
        out_stride,
        steps: gl.constexpr,
        stages: gl.constexpr,
        num_warps: gl.constexpr,
    ):
        # Transposed, labels first, so that y and dz go from one product to the next without leaving registers.
        block_l: gl.constexpr = rows.block_type.shape[0]
        block_k: gl.constexpr = rows.block_type.shape[1]
        block_b: gl.constexpr = source.block_type.shape[0]
        thin: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, block_b, 16])
        wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, block_k, 16])
        first = gl.program_id(0) * block_l
        a = gl.allocate_shared_memory(gl.bfloat16, [block_l, block_k], rows.layout)
        places = gl.allocate_shared_memory(gl.bfloat16, [stages, block_b, block_k], source.layout)
        full = gl.allocate_shared_memory(gl.int64, [stages, 1], mbarrier.MBarrierLayout())
        held = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
        for i in gl.static_range(stages):
            mbarrier.init(full.index(i), count=1)
        mbarrier.init(held.index(0), count=1)
        fence_async_shared()
        _barrier()

        mbarrier.expect(held.index(0), rows.block_type.nbytes)
        _copy(rows, [first, 0], held.index(0), a)
        blocks = padded // block_b
        count = blocks * 2 * steps
        for i in gl.static_range(stages):
            _fetch_step(source, full, places, i, count, padded, steps)
        mbarrier.wait(held.index(0), 0)

        at = first + gl.arange(0, block_l, gl.SliceLayout(1, thin))
        documents = gl.arange(0, block_b, gl.SliceLayout(0, thin))
        inside = (at < labels)[:, None]
        total = gl.zeros([block_l, block_k], gl.float32, wide)
        left_y = gl.zeros([block_l, block_b], gl.bfloat16, gl.DotOperandLayout(0, wide, 2))
        left_dz = left_y
        for block in range(blocks):
            base = block * (2 * steps)
            b = block * block_b + documents
            c = gl.load(factors)
            # Step 0 has no n; of the block before its last step is still to be added to dA.
            bars = _ready(places, full, base)
            zero = gl.zeros([block_l, block_b], gl.float32, thin)
            w_begun = warpgroup_mma(a, bars.permute((1, 0)), zero, use_acc=False, is_async=True)
            begun = warpgroup_mma(left_dz, _tile(places, gl.maximum(base - 1, 0)), total, is_async=True)
            seen = inside & (b < batch)[None, :]
            unary = gl.load(phi + b.to(gl.int64)[None, :] * phi_stride + at[:, None], mask=seen, other=0.0)
            y = _sigmoid(c * unary)
            w = warpgroup_mma_wait(1, deps=[w_begun])
            change = c * (y - y * y) * w
            made_y = _operand(y, wide)
            total, left_dz, left_y = warpgroup_mma_wait(0, deps=[begun, left_dz, made_y])
            _barrier()
            if block > 0:
                _fetch_step(source, full, places, base - 1 + stages, count, padded, steps)
            if steps > 1:
                change, total, left_y, left_dz = _gradient_step(
                    *(1, base, count, padded, a, source, places, full, unary, change, total, left_y, left_dz),
                    *(factors, scale, steps, True, False, wide),
                )
            for t in range(2, steps):
                change, total, left_y, left_dz = _gradient_step(
                    *(t, base, count, padded, a, source, places, full, unary, change, total, left_y, left_dz),
                    *(factors, scale, steps, False, False, wide),
                )
            change, total, left_y, left_dz = _gradient_step(
                *(steps, base, count, padded, a, source, places, full, unary, change, total, left_y, left_dz),
                *(factors, scale, steps, steps == 1, True, wide),
            )
            gl.store(dphi + at.to(gl.int64)[:, None] * padded + b[None, :], change, mask=inside)
        total = warpgroup_mma(left_dz, _tile(places, count - 1), total)

        at = first + gl.arange(0, block_l, gl.SliceLayout(1, wide))
        k = gl.arange(0, block_k, gl.SliceLayout(0, wide))
        kept = (at < labels)[:, None] & (k < width)[None, :]
        gl.store(out + k.to(gl.int64)[None, :] * out_stride + at[:, None], total, mask=kept)
