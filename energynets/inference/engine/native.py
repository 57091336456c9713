"""C code compiled where it runs, once: the descent, passes between products and over many labels, a loss."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCES = tuple(
    Path(__file__).with_name(f"{name}.c")
    for name in ("fused", "passes", "label_native", "row_products", "cross_entropy")
)
_HEADERS = tuple(Path(__file__).with_name(name) for name in ("vector.h", "products.h"))
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fPIC")
_DEFINES = {torch.float32: (), torch.float64: ("-DENERGYNETS_DOUBLE",)}
# OpenMP is compiled in and left to be found where the library is loaded: torch's own, whose threads are warm.
_THREADS = "-fopenmp"
# Fields of its structures.
Pointer, Long, Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class _Unavailable(Exception):
    """Why there is no native code here."""


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL | str:
    """The compiled code for numbers of this kind, from the cache folder or made now (a few seconds).

    The cache is $XDG_CACHE_HOME/energynets, else ~/.cache/energynets; its entries are named after the source, the
    compiler and the processor, so that a home shared by several machines is safe. ENERGYNETS_NATIVE=0 does without.

    Returns:
        The library, or why there is none: no compiler, or it or the loader failed. Plain torch operations take its
        place then.
    """
    if os.environ.get("ENERGYNETS_NATIVE", "1") == "0":
        return "ENERGYNETS_NATIVE=0"
    if dtype not in _DEFINES:
        return f"no native code for {dtype}"
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        return "no C compiler"
    try:
        parts = [path.read_bytes() for path in (*SOURCES, *_HEADERS)]
        parts += [compiler.encode(), _version(compiler), _processor(), " ".join(_FLAGS).encode()]
        name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        path = _cache() / f"engine-{name}-{str(dtype).removeprefix('torch.')}.so"
        if not path.exists():
            _compile(compiler, dtype, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, _Unavailable) as error:
        return str(error)
    loaded.saved_size.restype, loaded.cross_entropy.restype = ctypes.c_int64, ctypes.c_double
    return loaded


def _compile(compiler: str, dtype: torch.dtype, path: Path) -> None:
    """To a temporary file first, then renamed: another process may be doing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        units, linked = [], Path(folder, "engine.so")
        for source in SOURCES:
            units.append(str(Path(folder, source.with_suffix(".o").name)))
            for threads in ((_THREADS,), ()):  # a compiler without OpenMP: one thread
                command = [compiler, *_FLAGS, *threads, *_DEFINES[dtype], "-c", str(source), "-o", units[-1]]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    break
            else:
                lines = done.stderr.strip().splitlines()
                raise _Unavailable(f"{compiler} failed: {lines[0] if lines else done.returncode}")
        command = [compiler, "-shared", *units, "-o", str(linked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _Unavailable(f"{compiler} could not link: {done.stderr.strip()[:200]}")
        os.replace(linked, path)


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "energynets" / "native"


def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout


def _processor() -> bytes:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    kept = [line for line in lines if line.partition("\t")[0] in ("model name", "flags", "Features", "CPU part")]
    return "\n".join(sorted(set(kept))).encode()
