"""New memory for tensors of many labels: in large pages, where the system has them."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor

_FROM = 8 << 20
_HUGEPAGE = getattr(mmap, "MADV_HUGEPAGE", None)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def new_empty(like: Tensor, *shape: int) -> Tensor:
    """`like.new_empty(shape)`, on a CPU asked for in large pages.

    A step gives such memory back and asks for it again, and the first to write to a page waits for the system to clear
    it: 512 times as often with pages of 4 KiB as with those of 2 MiB. A backward pass at L = 670,091, K = 128, B = 16
    took 0.5 s instead of 0.75 s for it on two Zen 3 cores.
    """
    new = like.new_empty(shape)
    size = new.numel() * new.element_size()
    if _libc is not None and _HUGEPAGE is not None and new.device.type == "cpu" and size >= _FROM:
        # Whole pages inside: what lies around them is not ours. Advice that is not taken costs nothing.
        first = -(-new.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (new.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
        _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _HUGEPAGE)
    return new
