"""A small experiment over data made here, for tests of training.

Run as a script it is a server of real processes to kill: for each line of arguments on its input it forks a process
that trains with them, so that the imports, most of the time of a process, are paid once. It answers
`pid N`, then what the process says (`started` when training starts), then `exit STATUS`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from energynets.config import Experiment
from energynets.data.dataset import Documents, MultiLabelDataset
from energynets.data.prepare import Preparation
from energynets.training import BuiltData, Progress, train
from energynets.training import checkpoint as checkpoints

FEATURES = {"kind": "bag_of_words", "hidden": [12], "dropout": 0.2, "input_dropout": 0.1}
CLASSIFIER = {"kind": "classifier", "features": FEATURES}
SPEN = {
    "kind": "energy_network",
    "features": FEATURES,
    "energy": {"kind": "spen", "num_measurements": 4},
    "solver": {"kind": "mirror_descent", "steps": 3},
}


def toy_data(
    *, documents: int = 120, labels: int = 6, validation: bool = True, test: bool = True, seed: int = 0
) -> BuiltData:
    """Labels drawn at random, inputs a noisy linear map of them."""
    rng = np.random.default_rng(seed)
    labels_NL = (rng.random((documents, labels)) < 0.3).astype(np.float32)
    inputs_ND = labels_NL @ rng.normal(size=(labels, 20)) + 0.5 * rng.normal(size=(documents, 20))
    rows = np.split(np.arange(documents), [documents // 2, 3 * documents // 4])
    splits = {"train": rows[0]} | ({"validation": rows[1]} if validation else {}) | ({"test": rows[2]} if test else {})
    table = csr_array(np.maximum(inputs_ND, 0).astype(np.float32))
    raw = MultiLabelDataset("toy", Documents(table, csr_array(labels_NL)), splits, "by position")
    preparation = Preparation.fit(raw)
    return BuiltData(raw, preparation, preparation.prepare(raw))


def toy_experiment(model: dict[str, Any] | None = None, **training: Any) -> Experiment:
    """`training` are keys of the training section."""
    tree = {"name": "toy", "device": "cpu", "data": {"planted": {}}, "model": model or CLASSIFIER}
    return Experiment.from_tree(tree | {"training": {"batch_size": 16, **training}})


def stage(name: str, *trains: str, epochs: int = 3, **settings: Any) -> dict[str, Any]:
    return {"name": name, "trains": list(trains), "epochs": epochs, **settings}


def staged_experiment(epochs: int = 4) -> Experiment:
    """Every kind of stage, optimiser state and schedule, with checkpoints inside epochs."""
    return toy_experiment(
        SPEN,
        checkpoint_every=2,
        stages=[
            stage("unary", "features", "unary", epochs=epochs, optimizer={"learning_rate": 0.01, "schedule": "cosine"}),
            stage("energy", "energy", epochs=epochs, optimizer={"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9}),
            stage("joint", "features", "unary", "energy", epochs=epochs, optimizer={"kind": "adamw", "clip_norm": 1.0}),
        ],
    )


def run_toy(folder: Path, **arguments: Any) -> Any:
    return train(arguments.pop("experiment", None) or staged_experiment(), folder=folder, data=toy_data(), **arguments)


def _die_at_save(number: int, part: str) -> None:
    """SIGKILL this process in its `number`-th checkpoint: half through the file, or before or after its rename."""
    save, replace, count = checkpoints.save_file, os.replace, 0

    def dying_save(tensors: Any, path: Any, metadata: Any) -> None:
        nonlocal count
        count += 1
        save(tensors, path, metadata)
        if count == number and part == "half":
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_replace(source: Any, target: Any) -> None:
        if count == number and part == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == number and part == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_file, os.replace = dying_save, dying_replace  # type: ignore[assignment]


class _Announce(Progress):
    def stage(self, *_: Any) -> None:
        print("started", flush=True)


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at-save")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args(arguments)
    if options.die_at_save:
        when, _, where = options.die_at_save.partition(":")
        _die_at_save(int(when), where)
    try:
        experiment = staged_experiment(options.epochs)
        run_toy(options.folder, experiment=experiment, resume=options.resume, progress=_Announce())
    except KeyboardInterrupt as stop:
        print(str(stop), flush=True)
        return 130
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    # What PyTorch imports at its first step is most of what is left: once, before the first fork.
    with tempfile.TemporaryDirectory() as first:
        run_toy(Path(first), experiment=staged_experiment(1))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                os._exit(_main(shlex.split(line)))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(f"pid {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)
