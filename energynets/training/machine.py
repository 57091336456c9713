"""The machine a run is on: device, determinism, memory, and what environment.json records."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import energynets
from energynets.errors import ConfigError

# cuBLAS is only deterministic with a fixed workspace, which it reads when its first handle is made.
_CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def resolve_device(name: str, own: int | None = None) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device.

    Args:
        name: one of these.
        own: number of the CUDA device that is this process's, where several processes have one each.

    Raises:
        ConfigError: not one of these, or CUDA asked for where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if own is not None and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"device: {name!r} is one device, and several processes have one each: use cuda")
        name = f"cuda:{own}"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} asked for, but PyTorch finds no CUDA device here; use device: auto or cpu")
    if int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name!r} asked for, but there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", int(index) if index else torch.cuda.current_device())


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Within it, one seed on one device gives the same bits; the caller's settings and random state come back after.

    On CUDA an operation without a deterministic version warns rather than stops.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    if device.type == "cuda":
        os.environ.setdefault(*_CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    # Filling fresh memory finds bugs but costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak, where the system can: Linux for the process, CUDA for the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # "5" resets the peak resident size (proc(5)); without it, runs of one process share the largest peak.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_host_memory() -> int:
    """Largest resident size of the process, in bytes."""
    # What `getrusage` says a process inherits from the one that started it, on Linux.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_memory(device: torch.device) -> int:
    """Largest memory of the device that trains, in bytes: resident on a CPU, allocated on CUDA."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else peak_host_memory()


def environment(device: torch.device) -> dict[str, Any]:
    """What a run ran on, for environment.json."""
    return {
        "energynets": package_version(),
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "command": ["energynets", *map(_relative, sys.argv[1:])],
    }


def _relative(argument: str) -> str:
    """A path below the working directory, seen from there: results are shared, home directories are not."""
    path = Path(argument)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else argument


def package_version() -> str:
    """The version of this package, installed or run from its source tree."""
    version = getattr(energynets, "__version__", None)
    if version is None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version("energynets")
    return str(version or "unknown")


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(root: Path) -> str | None:
    """The commit of the source tree this package runs from; None for an installed package.

    It ends in `-dirty`, as `git describe` has it, where the package is not what was committed: then no checkout gives
    the code again.
    """
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + "-dirty" * bool(git("status", "--porcelain", "--", "energynets"))
    except (OSError, subprocess.SubprocessError):
        return None
