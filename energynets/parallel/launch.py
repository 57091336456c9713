"""Joining the other processes, and leaving them so that they know why."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from energynets.errors import ConfigError, ProcessLostError
from energynets.parallel.mesh import Mesh

if TYPE_CHECKING:
    from energynets.config import Experiment

# How long a process that must stop waits to hear what the others have to say.
_PATIENCE = 3.0


def processes() -> int:
    """How many processes train together: those of torch's process group, else those that torchrun has started."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process speaks for all."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def check(experiment: Experiment, count: int) -> None:
    """Raise `ConfigError` where an experiment cannot be trained by so many processes."""
    shards = experiment.training.parallel.labels
    if count % shards:
        fitting = " or ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ConfigError(
            f"training.parallel.labels: {shards} shards of the labels need {shards} processes or a multiple of it, got "
            f"{count}: set it to {fitting}, or start others with torchrun --nproc-per-node {shards}"
        )
    if count == 1:
        return
    if not experiment.stages:
        raise ConfigError(f"model.kind {experiment.model.kind} is fitted by one process, got {count}: use no torchrun")
    if experiment.training.compile == "graph":
        raise ConfigError(f"training.compile: graph goes with one process alone, got {count}: use none or engine")


@contextlib.contextmanager
def launched(experiment: Experiment) -> Iterator[Mesh]:
    """The mesh of all processes that were started together; within it one that fails tells the others why.

    A process group of torch's that there is already is used as it is; else one is made of what torchrun says.

    Raises:
        ConfigError: so many processes cannot train this.
        ProcessLostError: another process has stopped.
    """
    from energynets.training.machine import resolve_device

    count = processes()
    check(experiment, count)
    if count == 1:
        yield Mesh(device=resolve_device(experiment.device))
        return
    device = resolve_device(experiment.device, own=int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    try:
        shards = experiment.training.parallel.labels
        mesh = Mesh(count // shards, shards, device)
        mesh.same("settings", f"{experiment.hash()} {experiment.seed}")
        yield mesh
    except BaseException as error:
        _leave(error, store, rank, count)
        raise
    if joined:
        dist.destroy_process_group()


def _leave(error: BaseException, store: Any, rank: int, count: int) -> None:
    """Tell the others why; of those that stop for one reason, only the first needs to say so."""
    lost = isinstance(error, ProcessLostError)
    # torchrun ends all others as soon as one is gone, which must not keep us from saying so.
    with _unterminated(), contextlib.suppress(RuntimeError):
        store.set(_key(rank), f"{type(error).__name__}: {error}")
        if lost:
            # Those that do not talk with the lost one learn it from us: our connections end.
            with contextlib.suppress(RuntimeError, ValueError):
                dist.destroy_process_group()
            error.args = (_what_happened(store, rank, count),)
        waited = _heard(store, range(rank), type(error).__name__)
        error.told = waited  # type: ignore[attr-defined]


@contextlib.contextmanager
def _unterminated() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _heard(store: Any, ranks: range, kind: str) -> bool:
    """Whether one of these processes has said, or says soon, that it stops for an error of this kind."""
    until = time.monotonic() + _PATIENCE
    while ranks:
        if any(_said(store, rank).startswith(kind + ":") for rank in ranks):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return False


def _what_happened(store: Any, own: int, count: int) -> str:
    others = [rank for rank in range(count) if rank != own]
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and not all(_said(store, rank) for rank in others):
        time.sleep(0.05)
    said = {rank: _said(store, rank) for rank in others}
    reasons = [
        f"process {rank} of {count} stopped: {text.partition(': ')[2]}"
        for rank, text in said.items()
        if text and not text.startswith(ProcessLostError.__name__)
    ]
    silent = [rank for rank, text in said.items() if not text]
    if silent and not reasons:
        names = ", ".join(map(str, silent))
        reasons = [f"process {names} of {count} does not answer: killed, or its machine or network is gone"]
    what = "; ".join(reasons) or "the connection between the processes broke"
    return f"{what}. The others stop too; --resume goes on from the last checkpoint"


def _said(store: Any, rank: int) -> str:
    return store.get(_key(rank)).decode() if store.check([_key(rank)]) else ""


def _key(rank: int) -> str:
    return f"energynets/stopped/{rank}"
