"""An epoch over planted Amazon-670K: `python -m benchmarks.epoch [--device cuda] [--steps N] [--save FILE]`.

490,449 documents with 5.5 of 670,091 labels each, drawn with `energynets.data.planted` (frequencies of a power law,
labels that depend on one another), and 512 cached features: the sum of a random direction of each label, scaled, and
noise, so that there is something to learn. A SPEN of K = 256 measurements over them, T = 5 unrolled steps, products
with A in bf16 (on a CPU in float32); every step is the trainer's: loss, gradients, their norm, Adam, projection.

On a GPU the epoch is run whole. Where it would take hours, `--steps N` times N steps after a first one, and says what
an epoch would take at that rate: an extrapolation, and named so. P@1 is of 1,000 documents that are not trained on.
Operations counted are those of products alone, 2 B L (2 F + (9 T - 2) K) a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import product_rates
from benchmarks.harness import describe_machine
from benchmarks.memory import _RESET, _resident
from benchmarks.timing import available_cores
from energynets import SPEN, BagOfWords, EndToEnd, EnergyNetwork, MirrorDescent
from energynets.data.batches import Batch, CachedFeatures, sparse_batch
from energynets.data.planted.generate import chunks
from energynets.data.planted.model import PlantedModel
from energynets.data.planted.spec import PlantedSpec
from energynets.products import plain_operations
from energynets.training.update import Update

LABELS, DOCUMENTS, HELD_OUT = 670_091, 490_449, 1_000
FEATURES, MEASUREMENTS, STEPS, CHUNK = 512, 256, 5, 8192
NOISE = 1.0
CHUNKED_STEPS = 8
PROFILED_STEPS, BUSIEST = 3, 12


def planted_labels(labels: int, documents: int) -> csr_array:
    """Of so many documents, and of those held out."""
    spec = PlantedSpec(num_labels=labels, mean_labels=5.5, vocabulary_size=30_000, mean_length=60.0)
    parts = [found for _, found in chunks(PlantedModel.build(spec), 0, documents + HELD_OUT)]
    return csr_array(vstack(parts, format="csr"))


def cached_features(labels: csr_array, device: str) -> torch.Tensor:
    """(N, F): r(l_1) + ... over the square root of how many there are, and noise; about unit numbers."""
    generator = torch.Generator(device).manual_seed(1)
    directions = torch.randn(labels.shape[1], FEATURES, generator=generator, device=device)
    found = torch.empty(labels.shape[0], FEATURES, device=device)
    for start in range(0, len(found), 8192):
        part = sparse_batch(csr_array(labels[start : start + 8192])).to(device)
        bags = torch.nn.functional.embedding_bag(part.columns, directions, part.offsets[:-1], mode="sum")
        bags /= part.offsets.diff().clamp(min=1).sqrt()[:, None]
        found[start : start + len(bags)] = bags + NOISE * torch.randn(bags.shape, generator=generator, device=device)
    return found


class Epoch:
    """Model, documents and optimiser, ready to take steps."""

    def __init__(self, options: argparse.Namespace) -> None:
        device, batch = options.device, options.batch
        self.options, self.cuda = options, device.startswith("cuda")
        labels = planted_labels(options.labels, options.documents)
        features = cached_features(labels, device)
        self.held_out = features[options.documents :], csr_array(labels[options.documents :])
        order = np.random.default_rng(0).permutation(options.documents)
        self.batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        self.features, self.labels = features, labels
        if not self.cuda:
            _RESET.write_text("5")
        self.before = torch.cuda.memory_allocated() if self.cuda else _resident("VmRSS")
        torch.manual_seed(0)
        with torch.device(device):
            energy = SPEN(FEATURES, options.labels, num_measurements=MEASUREMENTS)
            torch.nn.init.constant_(energy.unary.bias, -11.0)  # about the frequency of a label in a hundred thousand
        solver = MirrorDescent(STEPS, precision=options.precision)
        network = BagOfWords(FEATURES, hidden=())
        self.model = EnergyNetwork(network, energy, solver, label_chunk=options.chunk, keep_unary=True)
        parameters = list(self.model.parameters())
        optimizer = torch.optim.Adam(parameters, lr=options.learning_rate, fused=True)
        self.update = Update(self.model, EndToEnd(), parameters, optimizer, project=self.model.project)

    def step(self, number: int) -> float:
        """One step; its loss."""
        rows = self.batches[number]
        targets = sparse_batch(csr_array(self.labels[rows]))
        at = torch.from_numpy(rows).to(self.features.device)
        batch = Batch(CachedFeatures(self.features[at]), targets.to(self.features.device), torch.arange(len(rows)))
        loss, _ = self.update.gradients(batch).tolist()
        self.update.apply()  # as in the trainer, beside which the next batch is drawn
        return loss

    def run(self, first: int, last: int) -> dict[str, Any]:
        """Steps first .. last - 1, timed together; what stands in memory at most."""
        losses, times = [], []
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for number in range(first, last):
            here = time.perf_counter()
            losses.append(self.step(number))  # waits for the gradients
            times.append(1e3 * (time.perf_counter() - here))
        if self.cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        documents = sum(len(rows) for rows in self.batches[first:last])
        peak = torch.cuda.max_memory_allocated() if self.cuda else _resident("VmHWM")
        tenth = max(1, len(losses) // 10)
        return {
            "steps": last - first,
            "documents": documents,
            "seconds": seconds,
            "median_step_ms": statistics.median(times),
            "documents_per_second": documents / seconds,
            "tflops": operations(self.options.labels) * documents / seconds / 1e12,
            "peak_bytes": peak - self.before,
            "loss_first_tenth": statistics.mean(losses[:tenth]),
            "loss_last_tenth": statistics.mean(losses[-tenth:]),
        }

    def busiest(self, first: int, count: int) -> dict[str, float]:
        """Milliseconds of a step by kernel, or by operation on a CPU, the longest first; `all` is their sum."""
        kind = ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU
        with profile(activities=[kind]) as profiler:
            self.run(first, first + count)
        spent = {
            event.key: (event.self_device_time_total if self.cuda else event.self_cpu_time_total) / (1e3 * count)
            for event in profiler.key_averages()
        }
        longest = sorted(spent, key=lambda name: -spent[name])[:BUSIEST]
        return {"all": sum(spent.values()), **{name[:80]: spent[name] for name in longest}}

    @torch.no_grad()
    def precision_at_1(self) -> float:
        """Of documents that were held out."""
        self.model.eval()
        features, labels = self.held_out
        best = torch.cat([self.model.top_k(CachedFeatures(part), 1).labels[:, 0] for part in features.split(128)])
        self.model.train()
        hits = labels[np.arange(len(features)), best.cpu().numpy().copy()]
        return float(np.asarray(hits).mean())


def operations(labels: int) -> int:
    """Of products, for one document: phi and dU, and with A."""
    return 2 * labels * (2 * FEATURES + (9 * STEPS - 2) * MEASUREMENTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--labels", type=int, default=LABELS)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=CHUNK, help="labels at a time where a pass is no single kernel")
    parser.add_argument("--steps", type=int, help="so many after the first, instead of the whole epoch")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--products", choices=("highest", "high"), default="highest", help="with U: float32, or TF32")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--commit", help="of the code, where the machine has no git to ask")
    parser.add_argument("--save", type=Path, help="a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.products)
    options.precision = "bf16" if options.device.startswith("cuda") else "float32"
    rates = product_rates(options.device)
    began = time.perf_counter()
    epoch = Epoch(options)
    print(f"documents drawn in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    total = len(epoch.batches)
    first = epoch.run(0, 1)  # compiles kernels
    last = total if options.steps is None else min(total, 1 + options.steps)
    rest = epoch.run(1, last)
    whole = last == total
    seconds = first["seconds"] + rest["seconds"] if whole else options.documents / rest["documents_per_second"]
    shape = {"labels": options.labels, "documents": options.documents, "batch": options.batch, "features": FEATURES}
    shape |= {"measurements": MEASUREMENTS, "steps": STEPS, "chunk": options.chunk, "optimizer": "adam"}
    environment = describe_machine(options.device) | {"threads": options.threads}
    environment["git_commit"] = options.commit or environment["git_commit"]
    found: dict[str, Any] = {
        "environment": environment,
        "shape": shape | {"precision": options.precision, "products_with_U": options.products},
        "product_gflops": rates,
        "first_step": first,
        "timed": rest,
        "epoch_seconds": seconds,
        "extrapolated": not whole,
        "share_of_rate": 1e3 * rest["tflops"] / rates[options.precision],
    }

    def save() -> None:
        # After every part: a run that is cut short leaves what it has.
        if options.save:
            options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    save()
    kind = "an epoch" if whole else f"an epoch, extrapolated from {rest['steps']} steps,"
    print(
        f"{kind} takes {seconds:,.0f} s: {rest['median_step_ms']:.1f} ms a step of {options.batch}, "
        f"{rest['tflops']:.2f} TFLOP/s, {found['share_of_rate']:.0%} of the {options.precision} rate, "
        f"{rest['peak_bytes'] / 1e9:.1f} GB; loss {rest['loss_first_tenth']:.2f} to {rest['loss_last_tenth']:.2f}",
        flush=True,
    )
    if whole:
        found["precision_at_1"] = epoch.precision_at_1()
        print(f"P@1 of documents held out: {100 * found['precision_at_1']:.2f}", flush=True)
        save()
    found["busiest_ms"] = epoch.busiest(0, min(PROFILED_STEPS, total))
    save()
    if epoch.cuda:  # the same steps, a chunk of labels at a time
        with plain_operations():
            epoch.run(0, 1)
            found["in_chunks"] = epoch.run(1, 1 + CHUNKED_STEPS)
        chunked = found["in_chunks"]["median_step_ms"]
        print(f"in chunks: {chunked:.1f} ms a step, {chunked / rest['median_step_ms']:.2f} times as long")
        save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
