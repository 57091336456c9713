"""What `energynets memory` says against what a fresh process takes: `python -m benchmarks.estimates [--save FILE]`.

A process builds the model of a configuration, the copy of its best weights and its optimisers, and takes two training
steps of the last stage, documents as `energynets memory` makes them up; then it does all of that again. Measured is the
second time's peak over what the process held before it; freed memory goes back to the system at once there, and what
libraries allocate once, kernels for each shape of a product too, they have allocated in the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import describe_machine
from benchmarks.memory import _resident, free_at_once, start_peak
from energynets.config import Experiment
from energynets.data.batches import Batch
from energynets.memory import bytes_text, estimate, sizes_of
from energynets.memory.step import made_up_inputs, made_up_labels, stage_update
from energynets.training.build import Sizes, build_model

CONFIGS = Path(__file__).parent.parent / "configs"
CASES: dict[str, tuple[str, tuple[str, ...], int | None]] = {
    "SPEN, Bibtex": ("bibtex/spen.yaml", (), None),
    "gated ICNN, Delicious": ("delicious/icnn.yaml", ("model.energy.gate=true",), None),
    "classifier, citeulike-t": ("citeulike/classifier.yaml", (), None),
    "XML-CNN, 30,938 labels": ("memory-case-study.yaml", ("model.output={kind: chunked}",), 30_938),
    "XML-CNN, 670,091 labels": ("memory-case-study.yaml", (), 670_091),
    "XML-CNN on SGD, 670,091 labels": (
        "memory-case-study.yaml",
        (
            "model.output={kind: chunked}",
            "training.stages=[{name: unary, optimizer: {unary: {kind: sgd, learning_rate: 1.0}}}]",
        ),
        670_091,
    ),
    "SPEN in chunks, 670,091 labels": (
        "planted/many-labels.yaml",
        ("model.label_chunk=4096", "model.energy.num_measurements=128"),
        670_091,
    ),
}
"""Name -> configuration, overrides, L where it is not the configuration's."""


def settings(name: str) -> tuple[Experiment, Sizes]:
    """Of a case."""
    file, overrides, labels = CASES[name]
    experiment = Experiment.load(CONFIGS / file, list(overrides))
    return experiment, sizes_of(experiment, labels=labels)


def one(name: str) -> int:
    """In this process: the peak in bytes."""
    free_at_once()
    experiment, sizes = settings(name)
    last = len(experiment.stages) - 1  # all others train a part of what it does
    _train(experiment, sizes, last)
    before = start_peak()
    _train(experiment, sizes, last)
    return _resident("VmHWM") - before


def _train(experiment: Experiment, sizes: Sizes, number: int) -> None:
    stage, size = experiment.stages[number], experiment.training.batch_size
    model: Any = build_model(experiment, sizes)
    best = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batch = Batch(made_up_inputs(experiment, sizes), made_up_labels(size, sizes.labels), torch.arange(size))
    model.train()
    with stage_update(experiment, model, stage) as (update, _):
        for _ in range(2):
            update.gradients(batch)
            update.apply()
    del best


def measure(threads: int) -> list[dict[str, Any]]:
    """A row for each case."""
    rows = []
    for name in CASES:
        command = [sys.executable, "-m", "benchmarks.estimates", "--one", name, "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            rows.append({"case": name, "failed": done.stderr.strip().splitlines()[-1]})
            print(f"{name:>32s}  {rows[-1]['failed']}")
            continue
        peak, said = int(done.stdout), estimate(*settings(name))
        rows.append({"case": name, "labels": settings(name)[1].labels, "measured": peak, **said.to_dict()})
        rows[-1]["ratio"] = peak / said.total
        print(f"{name:>32s}{bytes_text(said.total):>12s}{bytes_text(peak):>12s}{rows[-1]['ratio']:8.3f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="a JSON file")
    parser.add_argument("--one", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(one(options.one))
        return
    print(f"{'':>32s}{'said':>12s}{'measured':>12s}{'ratio':>8s}")
    found = {"environment": describe_machine("cpu") | {"threads": options.threads}, "cases": measure(options.threads)}
    if options.save:
        options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
