"""Groups of real processes, for tests.

Run as a script it is a server: for each line of JSON on its input it forks a group of processes that meet through a
file and do a job, so that the imports, most of the time of a process, are paid once. It answers with how each ended and
what it said.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import toy_run
from scipy.sparse import csr_array
from toy_run import toy_data, toy_experiment

from energynets.config import Experiment
from energynets.data.dataset import Documents, MultiLabelDataset, TokenSequences
from energynets.data.prepare import Preparation
from energynets.parallel import collectives
from energynets.training import BuiltData, Sizes, build_model, checkpoint, train
from energynets.training.build import build_neighbours
from energynets.training.update import Update

ROOT = Path(__file__).parents[2]
# Seconds: all processes of a group have ended by then, or are killed.
TIME_LIMIT = 90.0


class Ending(NamedTuple):
    """Exit status (minus the signal), and what was said."""

    status: int
    said: str


class Server:
    """Real processes, by way of this file."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests/training",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, __file__], **pipes, text=True, env=environment, cwd=ROOT)

    def run(self, count: int, job: str, **arguments: Any) -> list[Ending]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([count, job, arguments], default=str) + "\n")
        self.process.stdin.flush()
        return [Ending(*ending) for ending in json.loads(self.process.stdout.readline())]

    def succeed(self, count: int, job: str, **arguments: Any) -> list[Any]:
        """What each process returned."""
        endings = self.run(count, job, **arguments)
        for ending in endings:
            assert ending.status == 0, ending.said
        return [json.loads(ending.said.splitlines()[-1]) for ending in endings]


def token_data(*, documents: int = 60, labels: int = 6) -> BuiltData:
    """Labels drawn at random, each with words of its own among others."""
    rng = np.random.default_rng(0)
    labels_NL = rng.random((documents, labels)) < 0.4
    texts = [
        np.concatenate([2 + np.flatnonzero(row), rng.integers(2, 30, size=int(rng.integers(1, 9)))])
        for row in labels_NL
    ]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    tokens = TokenSequences(np.concatenate(texts), offsets, 30)
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(documents), [30, 45]), strict=True))
    raw = MultiLabelDataset("toy", Documents(tokens, csr_array(labels_NL.astype(np.float32))), splits, "by position")
    preparation = Preparation.fit(raw)
    return BuiltData(raw, preparation, preparation.prepare(raw))


# ------------------------------------------------------------------------------------------------------------ jobs


def training(
    rank: int,
    folder: str,
    tree: dict[str, Any],
    double: bool = True,
    resume: bool = False,
    data: dict[str, Any] | None = None,
    dies: tuple[int, int] | None = None,
    asked: tuple[int, int] | None = None,
    slow_disk: bool = False,
    fails: int | None = None,
) -> Any:
    """Train in that folder.

    Args:
        dies: (rank, n): that process is killed in its n-th step, between two sums over processes.
        asked: (rank, n): that process gets a Ctrl-C there.
        slow_disk: from then on writing takes long.
        fails: rank of a process that runs out of memory in its 7th.
    """
    experiment = Experiment.from_tree(tree)
    tokens = experiment.model.features.kind != "bag_of_words"
    built = token_data(**data or {}) if tokens else toy_data(**data or {})
    neighbours = build_neighbours(experiment, built.prepared)
    model = build_model(experiment, Sizes.of(built.prepared), neighbours=neighbours).double() if double else None
    clip, save, count = Update._clip, checkpoint.save_file, 0

    def slow_save(*given: Any, **named: Any) -> None:
        time.sleep(6)
        save(*given, **named)

    def failing_clip(self: Update, *given: Any) -> Any:
        nonlocal count
        count += 1
        if asked and slow_disk and asked[1] == count:
            checkpoint.save_file = slow_save
        for what, number in ((dies, signal.SIGKILL), (asked, signal.SIGINT)):
            if what is not None and tuple(what) == (rank, count):
                os.kill(os.getpid(), number)
        if fails == rank and count == 7:
            raise MemoryError("no memory left")
        return clip(self, *given)

    Update._clip = failing_clip  # type: ignore[method-assign]
    return train(experiment, folder=folder, data=built, model=model, resume=resume).to_dict()


def step_bytes(rank: int, tree: dict[str, Any], labels: list[int], batch: int) -> Any:
    """Bytes that a process puts in in one step, by collective, and of its gradients; for so many labels each."""
    return [_step_bytes(tree, each, batch) for each in labels]


def _step_bytes(tree: dict[str, Any], labels: int, batch: int) -> Any:
    from energynets.data.batches import Batch, CachedFeatures, SparseBatch
    from energynets.objectives import EndToEnd
    from energynets.parallel.mesh import Mesh

    experiment = Experiment.from_tree(tree)
    model: Any = build_model(experiment, Sizes(20, labels, False))
    shards = experiment.training.parallel.labels
    mesh = Mesh(dist.get_world_size() // shards, shards)
    mesh.place(model, labels)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    targets = SparseBatch(torch.arange(batch), torch.ones(batch), torch.arange(batch + 1), labels)
    features = torch.randn(batch, model.features.num_features, generator=torch.Generator().manual_seed(0))
    inputs = CachedFeatures(features.requires_grad_())
    update = Update(model, EndToEnd(experiment.objective.loss), parameters, optimizer, mesh=mesh)
    collectives.sent.clear()
    update.gradients(Batch(inputs, targets, torch.arange(batch)))
    own = sum(4 * p.numel() for p in parameters if p.grad is not None)
    return {"sent": dict(collectives.sent), "gradients": own}


def replicas(rank: int, tree: dict[str, Any], labels: int, steps: int) -> Any:
    """Train a few steps on bf16 weights; a checksum of what every process has, and of the generator."""
    from energynets.data.batches import Batch, SparseBatch
    from energynets.objectives import EndToEnd
    from energynets.parallel.mesh import Mesh
    from energynets.training.optimizers import Optimizers

    experiment = Experiment.from_tree(tree)
    model: Any = build_model(experiment, Sizes(20, labels, False))
    mesh = Mesh(1, experiment.training.parallel.labels)
    mesh.place(model, labels)
    torch.manual_seed(0)
    optimizer = Optimizers(experiment.stages[0].optimizer, model, ("features", "unary"))
    update = Update(model, EndToEnd(), list(model.parameters()), optimizer, mesh=mesh)
    columns = torch.randint(labels, (16,), generator=torch.Generator().manual_seed(1))
    targets = SparseBatch(columns, torch.ones(16), torch.arange(17), labels)
    inputs = SparseBatch(torch.arange(16), torch.ones(16), torch.arange(17), 20)
    losses = []
    for _ in range(steps):
        losses.append(float(update.gradients(Batch(inputs, targets, torch.arange(16)))[0]))
        update.apply()
    shared = sum(float(weight.double().sum()) for weight in model.features.parameters())
    return {"losses": losses, "shared": shared, "random": int(torch.get_rng_state().double().sum())}


JOBS = {job.__name__: job for job in (training, step_bytes, replicas)}


# ------------------------------------------------------------------------------------------------------- the server


def _process(rank: int, count: int, folder: str, job: str, arguments: dict[str, Any]) -> int:
    from energynets.cli.main import run

    if count > 1:
        store = dist.FileStore(f"{folder}/store", count)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count)

    def work() -> None:
        print(json.dumps(JOBS[job](rank, **arguments)))

    return run(work, "train", [])


def _group(folder: str, count: int, job: str, arguments: dict[str, Any]) -> list[Ending]:
    processes = {}
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 99
            try:
                output = os.open(f"{folder}/{rank}", os.O_CREAT | os.O_WRONLY)
                os.dup2(output, 1)
                os.dup2(output, 2)
                status = _process(rank, count, folder, job, arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        processes[child] = rank
    endings: dict[int, Ending] = {}
    until = time.monotonic() + TIME_LIMIT
    while processes:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            rank = processes.pop(child)
            endings[rank] = Ending(os.waitstatus_to_exitcode(status), Path(folder, str(rank)).read_text())
        elif time.monotonic() > until:
            for child in processes:
                os.kill(child, signal.SIGKILL)
            until = float("inf")
        else:
            time.sleep(0.02)
    return [endings[rank] for rank in range(count)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    # What PyTorch imports at its first steps is most of what is left: once, before the first fork.
    with tempfile.TemporaryDirectory() as place:
        first = toy_experiment(toy_run.SPEN | {"label_chunk": 3}, stages=[{"name": "first", "epochs": 1}])
        train(first, folder=place, data=toy_data())
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(_group(place, *json.loads(line))), flush=True)
