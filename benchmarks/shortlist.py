"""A training step of an energy over a shortlist against L: `python -m benchmarks.shortlist [--quick] [--save FILE]`.

One step is loss and gradients of all parameters of a SPEN over cached features, in its three parts: a pass over the
labels that finds each document's candidates, T steps over these and back, and a pass that makes the gradients. The
steps know nothing of L, so their clock and their peak should be flat; the passes are straight lines. Beside them a step
of the same energy over all labels (`label_chunk`). Every number of L is measured in a process of its own, processes
taking turns; peaks are the process's largest over what it held before, of the steps alone and of the whole step, whose
gradients are as large as the weights, each the median over processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import describe_machine
from benchmarks.memory import _resident, free_at_once, start_peak
from benchmarks.timing import available_cores
from energynets import SPEN, EnergyNetwork, MirrorDescent
from energynets.data.batches import CachedFeatures, SparseBatch
from energynets.inference import Shortlist
from energynets.inference.shortlist import ShortlistStream

LABELS = (1_000, 10_000, 100_000, 670_091)
QUICK = (1_000, 10_000, 30_938)
BATCH, FEATURES, MEASUREMENTS, STEPS, POSITIVES = 16, 512, 128, 5, 5
CANDIDATES, NEGATIVES, CHUNK = 1_000, 100, 4_096
PARTS = ("first pass", "steps", "second pass", "label_chunk")


class _Given(nn.Module):
    num_features = FEATURES


def build(labels: int) -> tuple[EnergyNetwork, EnergyNetwork]:
    """With a shortlist and with all labels: the same weights, the same tensors."""
    torch.manual_seed(0)
    energy, solver = SPEN(FEATURES, labels, num_measurements=MEASUREMENTS), MirrorDescent(STEPS)
    shortlist = Shortlist(CANDIDATES, NEGATIVES)
    return (
        EnergyNetwork(_Given(), energy, solver, label_chunk=CHUNK, shortlist=shortlist),
        EnergyNetwork(_Given(), energy, solver, label_chunk=CHUNK),
    )


def make_batch(labels: int) -> tuple[Tensor, SparseBatch]:
    """Features, which have gradients as a network's would, and targets."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.randint(labels, (BATCH * POSITIVES,), generator=generator)
    offsets = torch.arange(0, BATCH * POSITIVES + 1, POSITIVES)
    features = torch.randn(BATCH, FEATURES, generator=generator).relu_()
    return features.requires_grad_(), SparseBatch(columns, torch.ones(len(columns)), offsets, labels)


def step_in_parts(stream: ShortlistStream, targets: SparseBatch) -> tuple[list[float], int]:
    """Seconds of the three parts of one step, and the peak of the steps in bytes."""
    times = [time.perf_counter()]
    found = stream.gather(targets, training=True)
    times.append(time.perf_counter())
    leaves = [tensor.detach().requires_grad_() for tensor in (found.unary, found.rows, found.rest)]
    before, began = start_peak(), time.perf_counter()
    here = found._replace(unary=leaves[0], rows=leaves[1], rest=leaves[2])
    loss = functional.binary_cross_entropy_with_logits(stream.minimise(here), found.targets, reduction="sum") / BATCH
    loss.backward()
    steps, peak = time.perf_counter() - began, _resident("VmHWM") - before
    del here, loss
    began = time.perf_counter()
    bars = [*(leaf.grad for leaf in leaves), torch.tensor(1 / BATCH)]
    torch.autograd.backward((found.unary, found.rows, found.rest, found.loss), bars)
    return [times[1] - times[0], steps, time.perf_counter() - began], peak


def measure_one(labels: int, rounds: int, threads: int) -> dict[str, Any]:
    """In this process: milliseconds of each part of each round, and peaks in bytes."""
    torch.set_num_threads(threads)
    features, targets = make_batch(labels)
    model, full = build(labels)
    parameters = [*model.parameters(), features]
    assert model.shortlist is not None
    stream = ShortlistStream(model.shortlist, model.energy, model.solver, model.gradient, features, CHUNK)  # type: ignore[arg-type]
    times: dict[str, list[float]] = {name: [] for name in PARTS}

    def forget() -> None:
        for parameter in parameters:
            parameter.grad = None

    for number in range(rounds + 1):
        forget()
        seconds, _ = step_in_parts(stream, targets)
        forget()
        began = time.perf_counter()
        full.streamed_bce(CachedFeatures(features), targets).backward()
        for name, value in zip(PARTS, (*seconds, time.perf_counter() - began), strict=True):
            if number:  # the first warms up
                times[name].append(1e3 * value)
    found: dict[str, Any] = {"labels": labels, "ms": times}
    free_at_once()  # only now: it costs time
    for _ in range(2):  # the first gives back what was freed before
        forget()
        found["steps_peak_bytes"] = step_in_parts(stream, targets)[1]
    forget()
    before = start_peak()
    loss = stream.bce(targets, training=True)
    loss.backward()
    found |= {"step_peak_bytes": _resident("VmHWM") - before, "loss": float(loss.detach())}
    found["gradient_bytes"] = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    return found


def in_fresh_process(labels: int, rounds: int, threads: int) -> dict[str, Any]:
    """`measure_one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.shortlist", "--one", str(labels)]
    command += ["--rounds", str(rounds), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(labels: list[int], rounds: int, processes: int, threads: int) -> list[dict[str, Any]]:
    """A row for each L."""
    rows: dict[int, dict[str, Any]] = {}
    for number in range(processes):
        for count in labels:
            print(f"  L = {count:,}: process {number + 1} of {processes}", file=sys.stderr)
            found = in_fresh_process(count, rounds, threads)
            row = rows.setdefault(count, found)
            if row is not found:
                for name in PARTS:
                    row["ms"][name] += found["ms"][name]
            for key in ("steps_peak_bytes", "step_peak_bytes"):
                row.setdefault(f"all_{key}", []).append(found[key])
    for row in rows.values():
        for key in ("steps_peak_bytes", "step_peak_bytes"):
            row[key] = statistics.median(row[f"all_{key}"])
        row["median_ms"] = {name: statistics.median(times) for name, times in row["ms"].items()}
    return list(rows.values())


def lines(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Slopes of the passes in microseconds a label, and how far the steps are from flat, largest over smallest."""
    counts = np.array([row["labels"] for row in rows], float)
    slopes = {}
    for name in ("first pass", "second pass", "label_chunk"):
        times = np.array([row["median_ms"][name] for row in rows])
        slope, start = np.polyfit(counts, times, 1)
        off = np.abs(slope * counts + start - times)[-1] / times[-1] if len(rows) > 1 else 0.0
        slopes[name] = {"us_a_label": 1e3 * slope, "start_ms": start, "largest_off": off}
    steps = [row["median_ms"]["steps"] for row in rows]
    peaks = [row["steps_peak_bytes"] for row in rows]
    return {"slopes": slopes, "steps_ms_ratio": max(steps) / min(steps), "steps_peak_ratio": max(peaks) / min(peaks)}


def report(rows: list[dict[str, Any]]) -> str:
    """A table."""
    head = f"B = {BATCH}, F = {FEATURES}, K = {MEASUREMENTS}, T = {STEPS}, n = {CANDIDATES}: ms, and peak MB"
    text = [head, f"{'L':>10s}" + "".join(f"{name:>13s}" for name in PARTS) + "   steps MB    step MB  gradients"]
    for row in rows:
        text.append(
            f"{row['labels']:10,d}"
            + "".join(f"{row['median_ms'][name]:13.1f}" for name in PARTS)
            + f"{row['steps_peak_bytes'] / 1e6:11.1f}{row['step_peak_bytes'] / 1e6:11.1f}"
            + f"{row['gradient_bytes'] / 1e6:11.1f}"
        )
    found = lines(rows)
    text += [f"{name}: {line['us_a_label']:.3f} us a label" for name, line in found["slopes"].items()]
    ratios = f"{found['steps_ms_ratio']:.2f} in time, {found['steps_peak_ratio']:.2f} in peak"
    text.append(f"steps, largest over smallest: {ratios}")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"L = {QUICK}, one process each")
    parser.add_argument("--labels", type=int, nargs="+", help="other numbers of labels")
    parser.add_argument("--rounds", type=int, help="steps timed in a process; default 5, quick 3")
    parser.add_argument("--processes", type=int, help="of each L; default 3, quick 1")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--save", type=Path, help="a JSON file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 5)
    if options.one:
        print(json.dumps(measure_one(options.one, rounds, options.threads)))
        return
    labels = options.labels or list(QUICK if options.quick else LABELS)
    rows = measure(labels, rounds, options.processes or (1 if options.quick else 3), options.threads)
    print(report(rows))
    if options.save:
        shape = {"batch": BATCH, "features": FEATURES, "measurements": MEASUREMENTS, "steps": STEPS}
        shape |= {"candidates": CANDIDATES, "negatives": NEGATIVES, "chunk": CHUNK, "positives": POSITIVES}
        environment = describe_machine("cpu") | {"threads": options.threads}
        found = {"environment": environment, "shape": shape, "rows": rows, **lines(rows)}
        options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
