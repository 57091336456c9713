"""Seconds of several seeds trained one after another over those of the same seeds trained at once, run after run.

    python benchmarks/seeds.py emotions yeast scene --hidden 128 --seeds 10

Whole runs, validation, test and files included, in one process on one thread: start-up is left out, which a process for
each seed would pay as often as there are seeds. Each data set also says how far the weights of a seed end apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from energynets import Experiment, train
from energynets.training import build_dataset, load_run
from energynets.training.seeds import train_seeds


def experiment(name: str, hidden: int, epochs: int, energy: str) -> Experiment:
    model: dict[str, Any] = {"kind": "classifier", "features": {"kind": "bag_of_words", "hidden": [hidden]}}
    if energy != "none":
        solver = {"kind": "mirror_descent", "steps": 5, "learn_step_sizes": True}
        size = {"num_measurements": 64} if energy == "spen" else {"hidden": [64, 32]}
        model |= {"kind": "energy_network", "energy": {"kind": energy, **size}, "solver": solver}
    stage = {"name": "joint", "epochs": epochs, "keep": "last", "optimizer": {"learning_rate": 2e-3}}
    tree = {"name": name, "device": "cpu", "data": {"name": name}, "model": model}
    return Experiment.from_tree(tree | {"training": {"evaluate_every": epochs, "stages": [stage]}})


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(settings: Experiment, seeds: int, rounds: int) -> str:
    data, ratios = build_dataset(settings), []
    each = [settings.model_copy(update={"seed": seed}) for seed in range(seeds)]
    for _ in range(rounds + 1):  # the first warms up
        with tempfile.TemporaryDirectory() as name:
            together, alone = (
                [Path(name) / f"{kind}{seed}" for seed in range(seeds)] for kind in ("together", "alone")
            )
            once = seconds(lambda folders=together: train_seeds(settings, range(seeds), folders, data=data))  # type: ignore[misc]
            every = seconds(
                lambda folders=alone: [train(one, folder=at, data=data) for one, at in zip(each, folders, strict=True)]  # type: ignore[misc]
            )
            ratios.append(every / once)
            runs = zip(together, alone, strict=True)
            pairs = [(load_run(a).model.state_dict(), load_run(b).model.state_dict()) for a, b in runs]
    apart = max(float((a[key] - b[key]).abs().max()) for a, b in pairs for key in a)
    weights = sum(weight.numel() for weight in pairs[0][0].values())
    shown = " ".join(f"{ratio:.2f}" for ratio in ratios[1:])
    return f"{weights:>9,} weights  median {statistics.median(ratios[1:]):.2f} ({shown})  weights apart {apart:.1e}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--energy", choices=("spen", "icnn", "none"), default="spen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        chosen = experiment(name, options.hidden, options.epochs, options.energy)
        print(f"{name:12}", measure(chosen, options.seeds, options.rounds), flush=True)
