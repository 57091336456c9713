"""A training step of an energy over a shortlist against L: `python -m benchmarks.shortlist [--quick] [--save FILE]`.

One step is loss and gradients of all parameters of a SPEN over cached features, in its three parts: a pass over the
labels that finds each document's candidates, T steps over these and back, and a pass that makes the gradients. The
steps know nothing of L, so their clock and their peak should be flat; the passes are straight lines. Beside them a step
of the same energy over all labels (`label_chunk`), and `products`: the matrix products alone that such a step cannot do
without, chunk by chunk over the same weights, which is the machine's limit. Every number of L is measured in a process
of its own, processes taking turns; peaks are the process's largest over what it held before, of the shortlist's steps
alone, of its whole step and of the step over all labels, whose gradients are as large as the weights; each is the
median over processes.
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
from energynets.products import addmm, mm

LABELS = (1_000, 10_000, 100_000, 300_000, 670_091, 1_000_000)
QUICK = (1_000, 10_000, 30_938)
BATCH, FEATURES, MEASUREMENTS, STEPS, POSITIVES = 16, 512, 128, 5, 5
CANDIDATES, NEGATIVES, CHUNK = 1_000, 100, 4_096
PEAKS = ("steps_peak_bytes", "step_peak_bytes", "chunk_peak_bytes")
PARTS = ("first pass", "steps", "second pass", "label_chunk", "products")


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


def products(model: EnergyNetwork, features: Tensor) -> None:
    """f U^T; y A^T and n A of every step; dz A^T, dm A, both halves of dA and n A again of every step back; dU and df.

    Every chunk of U, A and their gradients passes through once, as if z_T of a chunk needed no other chunk: less work
    than any exact step, for m is a sum over all labels.
    """
    energy: Any = model.energy
    unary_LF, weight_KL = energy.unary.weight.detach(), energy.measure.detach()
    f_BF, n_BK = features.detach(), torch.ones(BATCH, MEASUREMENTS)
    unary_bar_LF, weight_bar_KL = torch.empty_like(unary_LF), torch.empty_like(weight_KL)
    features_bar_BF = torch.zeros_like(f_BF)
    for begin in range(0, model.num_labels, CHUNK):
        rows_CF = unary_LF[begin : begin + CHUNK]
        part_KC = weight_KL[:, begin : begin + CHUNK].contiguous()  # else oneDNN is a thousand times slower
        z_BC = mm(f_BF, rows_CF.T)
        for step in range(2 * STEPS):
            mm(z_BC, part_KC.T)
            mm(n_BK, part_KC)
            if step >= STEPS + 1:
                mm(n_BK, part_KC)
            if step >= STEPS:
                weight_bar_KL[:, begin : begin + CHUNK] = mm(n_BK.repeat(2, 1).T, z_BC.repeat(2, 1))
        torch.mm(z_BC.T, f_BF, out=unary_bar_LF[begin : begin + CHUNK])
        features_bar_BF = addmm(features_bar_BF, z_BC, rows_CF, out=features_bar_BF)


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
        seconds.append(time.perf_counter() - began)
        forget()
        began = time.perf_counter()
        products(full, features)
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
    forget()
    before = start_peak()
    full.streamed_bce(CachedFeatures(features), targets).backward()
    found["chunk_peak_bytes"] = _resident("VmHWM") - before
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
            for key in PEAKS:
                row.setdefault(f"all_{key}", []).append(found[key])
    for row in rows.values():
        for key in PEAKS:
            row[key] = statistics.median(row[f"all_{key}"])
        row["median_ms"] = {name: statistics.median(times) for name, times in row["ms"].items()}
    return list(rows.values())


def lines(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Straight lines through the passes (us a label) and peaks (bytes a label) with how far off the furthest point is,
    how far the steps are from flat (largest over smallest), and each L's share of the limit.
    """
    counts = np.array([row["labels"] for row in rows], float)

    def line(values: np.ndarray) -> dict[str, float]:
        # A relative fit: each point counts alike, from a thousand labels to a million.
        slope, start = np.polyfit(counts, values, 1, w=1 / values) if len(counts) > 1 else (values[0] / counts[0], 0.0)
        return {
            "slope": slope,
            "start": start,
            "largest_off": float(np.abs((slope * counts + start) / values - 1).max()),
        }

    times = {name: np.array([row["median_ms"][name] for row in rows]) for name in PARTS}
    slopes = {name: line(1e3 * times[name]) for name in PARTS if name != "steps"}
    peaks = {key: line(np.array([float(row[key]) for row in rows])) for key in PEAKS[1:]}
    steps, steps_peak = times["steps"], [row["steps_peak_bytes"] for row in rows]
    return {
        "us_a_label": slopes,
        "bytes_a_label": peaks,
        "share_of_limit": (times["products"] / times["label_chunk"]).tolist(),
        "steps_ms_ratio": steps.max() / steps.min(),
        "steps_peak_ratio": max(steps_peak) / min(steps_peak),
    }


def report(rows: list[dict[str, Any]]) -> str:
    """A table."""
    head = f"B = {BATCH}, F = {FEATURES}, K = {MEASUREMENTS}, T = {STEPS}, n = {CANDIDATES}: ms, and peak MB"
    text = [
        head,
        f"{'L':>10s}" + "".join(f"{name:>13s}" for name in PARTS) + "   steps MB    step MB   chunk MB  gradients",
    ]
    for row in rows:
        text.append(
            f"{row['labels']:10,d}"
            + "".join(f"{row['median_ms'][name]:13.1f}" for name in PARTS)
            + "".join(f"{row[key] / 1e6:11.1f}" for key in (*PEAKS, "gradient_bytes"))
        )
    found = lines(rows)
    for unit in ("us_a_label", "bytes_a_label"):
        text += [
            f"{name}: {line['slope']:.4g} {unit.replace('_', ' ')} + {line['start']:.3g}, "
            f"off by {line['largest_off']:.0%} at most"
            for name, line in found[unit].items()
        ]
    text.append("products over label_chunk: " + " ".join(f"{share:.2f}" for share in found["share_of_limit"]))
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
