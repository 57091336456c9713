"""Joining the other processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from energynets.errors import ConfigError
from energynets.parallel.leave import RollCall
from energynets.parallel.mesh import Mesh

if TYPE_CHECKING:
    from energynets.config import Experiment


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
    for stage in experiment.stages:
        for key in ("cross_fit", "fit"):
            if getattr(stage, key) is not None:
                raise ConfigError(f"stage {stage.name!r}, {key}: expected one process, got {count}: use no torchrun")


@contextlib.contextmanager
def launched(experiment: Experiment) -> Iterator[Mesh]:
    """The mesh of all processes that were started together; within it one that stops tells the others why.

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
    with RollCall(dist.distributed_c10d._get_default_store(), dist.get_rank(), count):
        shards = experiment.training.parallel.labels
        mesh = Mesh(count // shards, shards, device)
        mesh.same("settings", f"{experiment.hash()} {experiment.seed}")
        yield mesh
    if joined:
        dist.destroy_process_group()
