"""A training step of the output layer over very many labels: `python -m benchmarks.head [--quick] [--save FILE]`.

One step is loss, gradient in the features, and new weights, of B documents with h features and 5 labels each: the dense
layer as anybody writes it (targets scattered, torch's BCE, torch's Adam or SGD) beside the same layer in chunks of
labels. Every number is from a fresh process; processes take turns, so that what disturbs the machine disturbs all.
Peak memory is the process's largest over what it held before it made the layer: weights, gradients, optimiser state and
all of the step. Before clocks, losses: who differs from the dense loss by more than its tolerance is not timed.

`products` are the three matrix products of L x h alone, chunk by chunk, that no exact step can do without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import describe_machine
from benchmarks.memory import _RESET, _resident
from benchmarks.timing import available_cores
from energynets.data.batches import SparseBatch
from energynets.output import ChunkedLinear, ChunkedSGD
from energynets.products import addmm, mm

LABELS = (30_938, 670_091)  # Wiki10-31K and Amazon-670K
QUICK = (8_311, 30_938)
BATCH, FEATURES, POSITIVES = 64, 512, 5
Step = Callable[[Tensor, SparseBatch], Tensor]
"""Features and labels -> the loss before the weights changed."""


def _dense(labels: int, make: Callable[[Any], torch.optim.Optimizer]) -> Step:
    layer = nn.Linear(FEATURES, labels)
    optimizer = make(layer.parameters())

    def step(features: Tensor, targets: SparseBatch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        logits = layer(features)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets.dense(), reduction="sum") / len(targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _chunked(labels: int, make: Callable[[Any], torch.optim.Optimizer], **output: Any) -> Step:
    layer = ChunkedLinear(FEATURES, labels, **output)
    optimizer = make(layer)

    def step(features: Tensor, targets: SparseBatch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = layer.loss(features, targets, "bce")
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _products(labels: int) -> Step:
    layer = nn.Linear(FEATURES, labels)
    weight, chunk = layer.weight.detach(), 4096

    def step(features: Tensor, targets: SparseBatch) -> Tensor:
        f = features.detach()
        gradient = torch.zeros_like(f)
        for begin in range(0, labels, chunk):
            part = weight[begin : begin + chunk]
            slopes = mm(f, part.T)
            gradient = addmm(gradient, slopes, part, out=gradient)
            part.addmm_(slopes.T, f, alpha=1e-12)  # by 0 it would not be computed
        return torch.tensor(0.0)

    return step


CONTESTANTS: dict[str, tuple[Callable[[int], Step], float]] = {
    "dense, Adam": (lambda labels: _dense(labels, lambda p: torch.optim.Adam(p, lr=1e-3)), 0.0),
    "dense, fused Adam": (lambda labels: _dense(labels, lambda p: torch.optim.Adam(p, lr=1e-3, fused=True)), 1e-5),
    "dense, fused SGD": (lambda labels: _dense(labels, lambda p: torch.optim.SGD(p, lr=1e-2, fused=True)), 1e-5),
    "chunked, fused Adam": (
        lambda labels: _chunked(labels, lambda o: torch.optim.Adam(o.parameters(), lr=1e-3, fused=True)),
        1e-5,
    ),
    "chunked, SGD": (lambda labels: _chunked(labels, lambda o: ChunkedSGD(o, lr=1e-2)), 1e-5),
    "chunked, SGD, bf16 products": (
        lambda labels: _chunked(labels, lambda o: ChunkedSGD(o, lr=1e-2), precision="bf16"),
        1e-3,
    ),
    "chunked, SGD, bf16 weights": (
        lambda labels: _chunked(labels, lambda o: ChunkedSGD(o, lr=1e-2), weights="bf16"),
        1e-3,
    ),
    "products": (_products, float("inf")),
}


def batches(labels: int) -> Iterator[tuple[Tensor, SparseBatch]]:
    """The same ones for everybody."""
    generator = torch.Generator().manual_seed(1)
    offsets = torch.arange(0, BATCH * POSITIVES + 1, POSITIVES)
    while True:
        columns = torch.randint(labels, (BATCH * POSITIVES,), generator=generator)
        features = torch.randn(BATCH, FEATURES, generator=generator).relu_()
        yield features.requires_grad_(), SparseBatch(columns, torch.ones(len(columns)), offsets, labels)


def measure_one(name: str, labels: int, steps: int, threads: int) -> dict[str, Any]:
    """In this process: milliseconds of each step after the first, the first's loss, and the peak in bytes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    CONTESTANTS[name][0](POSITIVES)(*next(batches(POSITIVES)))  # what libraries allocate once is not the layer's
    torch.manual_seed(0)
    if _RESET.exists():
        _RESET.write_text("5")
    before = _resident("VmRSS")
    step, source, milliseconds = CONTESTANTS[name][0](labels), batches(labels), []
    loss = float(step(*next(source)))
    for _ in range(steps):
        features, targets = next(source)
        began = time.perf_counter()
        step(features, targets)
        milliseconds.append(1e3 * (time.perf_counter() - began))
    return {"ms": milliseconds, "loss": loss, "peak_bytes": _resident("VmHWM") - before}


def in_fresh_process(name: str, labels: int, steps: int, threads: int) -> dict[str, Any]:
    """`measure_one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.head", "--one", name, "--labels", str(labels)]
    command += ["--steps", str(steps), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        return {"failed": reason}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(labels: int, steps: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """A row for each contestant: its clock, its peak, its loss beside the dense one."""
    rows: dict[str, dict[str, Any]] = {name: {"contestant": name, "ms": [], "peaks": []} for name in CONTESTANTS}
    for number in range(rounds):
        for name, row in rows.items():
            if row.get("reason"):
                continue
            print(f"  L = {labels:,}: round {number + 1} of {rounds}: {name}", file=sys.stderr)
            found = in_fresh_process(name, labels, steps, threads)
            exact = rows["dense, Adam"].get("loss", found.get("loss", float("nan")))
            if "failed" in found:
                row["reason"] = f"failed: {found['failed']}"
            elif not abs(found["loss"] - exact) <= CONTESTANTS[name][1] * exact:
                row["reason"] = f"disagrees: loss {found['loss']:.6g}, dense {exact:.6g}"
            else:
                row["ms"] += found["ms"]
                row["peaks"].append(found["peak_bytes"])
                row["loss"] = found["loss"]
    for row in rows.values():
        if not row.get("reason"):
            row["median_ms"] = statistics.median(row["ms"])
            row["peak_bytes"] = max(row.pop("peaks"))
    return list(rows.values())


def report(labels: int, rows: list[dict[str, Any]]) -> str:
    """A table, everything as a ratio to the dense layer on Adam too."""
    lines = [f"L = {labels:,}, B = {BATCH}, h = {FEATURES}", f"{'':>28s}{'ms':>9s}{'ratio':>7s}{'GB':>8s}{'ratio':>7s}"]
    first = rows[0]
    for row in rows:
        if row.get("reason"):
            lines.append(f"{row['contestant']:>28s}  {row['reason']}")
            continue
        milliseconds, peak = row["median_ms"], row["peak_bytes"]
        lines.append(
            f"{row['contestant']:>28s}{milliseconds:9.1f}{milliseconds / first['median_ms']:7.2f}"
            f"{peak / 1e9:8.3f}{peak / first['peak_bytes']:7.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"L = {QUICK} and fewer steps")
    parser.add_argument("--labels", type=int, nargs="+", help="other numbers of labels")
    parser.add_argument("--steps", type=int, help="timed in each process; default 5, quick 3")
    parser.add_argument("--rounds", type=int, help="processes of each contestant; default 3, quick 1")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--save", type=Path, help="a JSON file")
    parser.add_argument("--one", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = options.steps or (3 if options.quick else 5)
    if options.one:
        print(json.dumps(measure_one(options.one, options.labels[0], steps, options.threads)))
        return
    rounds = options.rounds or (1 if options.quick else 3)
    found: dict[str, Any] = {"environment": describe_machine("cpu") | {"threads": options.threads}, "cases": []}
    for labels in options.labels or (QUICK if options.quick else LABELS):
        rows = measure(labels, steps, rounds, options.threads)
        found["cases"].append({"labels": labels, "batch": BATCH, "features": FEATURES, "rows": rows})
        print(report(labels, rows))
        if options.save:
            options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
