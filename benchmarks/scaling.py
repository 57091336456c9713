"""A training step over shards of the labels: `python -m benchmarks.scaling [--quick] [--save FILE]`.

SPEN over cached features, labels in chunks, all weights of the energy trained by Adam, on 1, 2 and 3 processes of one
thread each that have the labels between them. Every number is from fresh processes: the median time of a step (all
processes take it together), and the most memory that a process has over what it had before it made the model. Beside
them what docs/scaling.md says of them: bytes, floating-point operations, and bytes that a process sends.

Processes beyond the cores there are share them: their times say nothing of a machine that has enough.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.harness import describe_machine
from benchmarks.memory import _RESET, _resident
from benchmarks.timing import available_cores
from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.energies import SPEN
from energynets.features import BagOfWords
from energynets.inference import MirrorDescent
from energynets.models import EnergyNetwork
from energynets.objectives import EndToEnd
from energynets.parallel import collectives
from energynets.parallel.mesh import Mesh
from energynets.training.update import Update

LABELS = (20_000, 80_000, 320_000)
QUICK = (5_000, 20_000)
BATCH, FEATURES, MEASUREMENTS, STEPS, CHUNK = 16, 256, 128, 5, 4096
NUMBER = 4


def memory(labels: int, shards: int, *, adam: bool = True, best: bool = False) -> int:
    """Bytes that one process holds of a step: weights, gradients, the optimiser's state, and what streaming takes."""
    own = -(-labels // shards)
    tensors, chunk = 2 + 2 * adam + best, min(CHUNK, own)
    shared = (7 * STEPS + 1) * BATCH * MEASUREMENTS
    return NUMBER * (tensors * own * (FEATURES + 1 + MEASUREMENTS) + shared + _of_a_label() * chunk)


def _of_a_label() -> int:
    """Numbers that a chunk has of each of its labels: phi, y_0, every z_t and dm_t A, and its column of A."""
    return (2 * STEPS + 2) * BATCH + MEASUREMENTS


def operations(labels: int, shards: int) -> int:
    """Floating-point operations of a process in a step, all in products of matrices."""
    passes = (2 * STEPS + 3) * FEATURES + (9 * STEPS - 2) * MEASUREMENTS
    return 2 * BATCH * -(-labels // shards) * passes


def sent() -> int:
    """Bytes that a process puts into sums over the shards in a step."""
    return NUMBER * (2 * STEPS * BATCH * MEASUREMENTS + BATCH * FEATURES) + 16


def _process(rank: int, count: int, labels: int, steps: int, folder: str) -> None:
    """One of the processes; the first one prints what was measured."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", count), rank=rank, world_size=count)
    _step(Mesh(1, count), 1000, 2)  # loads what kernels need
    before = _resident("VmRSS")
    seconds = _step(Mesh(1, count), labels, steps)
    peak = _resident("VmHWM") - before
    if rank == 0:
        print(
            json.dumps({"peak_bytes": peak, "seconds": seconds, "sent_bytes": collectives.sent["sum"] // (steps + 1)})
        )


def _step(mesh: Mesh, labels: int, steps: int) -> float:
    torch.manual_seed(0)
    energy = SPEN(FEATURES, labels, num_measurements=MEASUREMENTS)
    model = EnergyNetwork(BagOfWords(FEATURES, hidden=()), energy, MirrorDescent(steps=STEPS), label_chunk=CHUNK)
    mesh.place(model, labels)
    parameters = list(model.parameters())
    update = Update(model, EndToEnd(), parameters, torch.optim.Adam(parameters, fused=True), mesh=mesh)
    features = torch.randn(BATCH, FEATURES).requires_grad_()  # as those of a network that is trained
    columns = torch.randint(labels, (5 * BATCH,))
    targets = SparseBatch(columns, torch.ones(len(columns)), torch.arange(0, len(columns) + 1, 5), labels)
    batch = Batch(CachedFeatures(features), targets, torch.arange(BATCH))
    collectives.sent.clear()
    _RESET.write_text("5")  # the whole model was there for a moment
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        update.gradients(batch)
        update.apply()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure(labels: int, count: int, steps: int) -> dict[str, Any]:
    """One group of fresh processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scaling", "--processes", str(count), "--labels", str(labels)]
        command += ["--steps", str(steps), "--folder", folder, "--rank"]
        group = [
            subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
            for rank in range(count)
        ]
        said = [process.communicate()[0] for process in group]
    if any(process.returncode for process in group):
        raise SystemExit(f"{count} processes, {labels} labels: one has failed")
    found: dict[str, Any] = json.loads(said[0])
    bytes_, flops = memory(labels, count), operations(labels, count)
    return {
        "labels": labels,
        "processes": count,
        **found,
        "formula_bytes": bytes_,
        "peak_over_formula": found["peak_bytes"] / bytes_,
        "operations": flops,
        "gflops_of_a_process": flops / found["seconds"] / 1e9,
        "formula_sent_bytes": 0 if count == 1 else sent(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few labels, few steps")
    parser.add_argument("--save", type=Path, help="write the measurements to this file, as JSON")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--labels", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        _process(options.rank, options.processes, options.labels, options.steps, options.folder)
        return
    rows = []
    print(f"{available_cores()} cores, one thread a process")
    for labels in QUICK if options.quick else LABELS:
        for count in (1, 2, 3):
            row = measure(labels, count, 3 if options.quick else 7)
            rows.append(row)
            print(
                f"L {labels:>9,}  {count} processes  {row['seconds']:8.3f} s a step  "
                f"{row['peak_bytes'] / 1e6:8.1f} MB a process, {row['peak_over_formula']:.3f} of the formula  "
                f"{row['sent_bytes']:,} bytes sent",
                flush=True,
            )
    if options.save:
        settings = {
            "batch": BATCH,
            "features": FEATURES,
            "measurements": MEASUREMENTS,
            "steps": STEPS,
            "chunk": CHUNK,
            "optimizer": "adam",
            "threads_of_a_process": 1,
        }
        machine = {**describe_machine("cpu"), "cores": available_cores()}
        options.save.write_text(json.dumps({"environment": machine, **settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
