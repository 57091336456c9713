"""How much memory one task takes beyond its inputs: in a fresh process on a CPU, from the allocator on CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.rivals import Contestant
from benchmarks.timing import limited_threads

_RESET = Path("/proc/self/clear_refs")  # "5" makes the peak start anew (proc(5))
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_PRELOAD = ["benchmarks.memory", "jax", "torchopt", "higher", "optimistix"]


def peak_bytes(kind: type[Contestant], case: Case, *, threads: int, device: str = "cpu") -> int | None:
    """Peak of one run over what the process holds between runs: inputs, code, the libraries' own buffers.

    On a CPU each number comes from a process of its own, forked from one that has everything imported and nothing run;
    the second run is measured. Freed memory goes back to the system at once there, so that the number says what was in
    use and not what malloc kept for later.

    Returns:
        Bytes; None where the system cannot say (/proc is Linux's) or the process did not come back.
    """
    if not kind.has_peak:
        return None
    if device.startswith("cuda"):
        return _on_cuda(kind, case, device)
    if not _RESET.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_in_child, kind, case, threads, _folder()).result()
        except BrokenProcessPool:
            return None


def share_compilations(folder: str | None = None) -> None:
    """What jax compiles for the clock it need not compile again for the memory: a cache on disk while we run."""
    if importlib.util.find_spec("jax") is None:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", folder or _folder())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@lru_cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="energynets-bench-")


def _folder() -> str:
    return _temporary().name


def _on_cuda(kind: type[Contestant], case: Case, device: str) -> int:
    contestant = kind(case.problem(), case.task, device)
    contestant.run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contestant.run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _in_child(kind: type[Contestant], case: Case, threads: int, folder: str) -> int:
    free_at_once()
    if "jax" in kind.packages:
        share_compilations(folder)
    with limited_threads(threads):
        contestant = kind(case.problem(), case.task)
        contestant.run()
        time.sleep(0.2)  # jax frees from a thread of its own
        before = start_peak()
        contestant.run()
        return max(_resident("VmHWM") - before, 0)


def free_at_once() -> None:
    """From now on freed memory goes back to the system, as far as malloc can be told so."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's alone
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 16)


def start_peak() -> int:
    """Bytes held now, from where the process's peak starts anew."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _RESET.write_text("5")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0
