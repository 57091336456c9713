"""Memory of evaluating very many labels: `python -m benchmarks.evaluation [--quick] [--save FILE]`.

Every metric of N validation and N test documents, threshold included, over L = 670,091 planted labels (Amazon-670K's
number), k = 256 scores kept of each document: in a fresh process for each N and each model, its peak over what it held
with data and weights in place. What it grows by from one N to another is what a document takes; the scores themselves,
an id and a value of each, are 8 k bytes of it; copies of a split and the predicted label sets (of new weights all k
labels of a document) are in it too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import describe_machine
from benchmarks.memory import _resident, free_at_once, start_peak
from benchmarks.timing import available_cores
from energynets import SPEN, BagOfWords, Classifier, EnergyNetwork, MirrorDescent, evaluate, load_dataset
from energynets.data.dataset import MultiLabelDataset
from energynets.data.prepare import Preparation
from energynets.inference import Shortlist
from energynets.output import ChunkedLinear

LABELS, QUICK = 670_091, 30_938
DOCUMENTS = (1_000, 4_000)
FEATURES, MEASUREMENTS, STEPS, CHUNK, BATCH, TOP, CANDIDATES = 32, 16, 2, 4096, 64, 256, 500
MODELS = ("classifier", "label_chunk", "shortlist")


def build_data(labels: int, documents: int) -> MultiLabelDataset:
    """As many documents of validation as of test, and a hundred of training."""
    words = {"vocabulary_size": 20_000, "mean_length": 60.0, "mean_labels": 5.5}
    planted = {"num_labels": labels, "num_documents": 100, "num_test_documents": 2 * documents, **words}
    data = load_dataset(planted=planted, validation_share=0)
    train, test = data.splits["train"], data.splits["test"]
    splits = {"train": train, "validation": test[:documents], "test": test[documents:]}
    data = MultiLabelDataset(data.name, data.documents, splits, "half of test is validation")
    return Preparation.fit(data, inputs="counts").prepare(data)


def build_model(name: str, inputs: int, labels: int) -> Any:
    """New weights: scores of all sizes, as of any model."""
    torch.manual_seed(0)
    features = BagOfWords(inputs, hidden=(FEATURES,))
    if name == "classifier":
        return Classifier(features, labels, output=ChunkedLinear(FEATURES, labels, chunk=CHUNK))
    energy = SPEN(FEATURES, labels, num_measurements=MEASUREMENTS)
    shortlist = Shortlist(CANDIDATES) if name == "shortlist" else None
    return EnergyNetwork(features, energy, MirrorDescent(STEPS), label_chunk=CHUNK, shortlist=shortlist)


def measure_one(name: str, labels: int, documents: int, threads: int) -> dict[str, Any]:
    """In this process: peak bytes, seconds and metrics."""
    torch.set_num_threads(threads)
    free_at_once()
    data = build_data(labels, documents)
    size = data.documents.input_size
    assert size is not None
    model = build_model(name, size, labels)
    some = {split: rows[:BATCH] for split, rows in data.splits.items()}
    first = MultiLabelDataset(data.name, data.documents, some, data.split_rule)
    evaluate(model, first, batch_size=BATCH, top=TOP)  # what libraries allocate once is not the evaluation's
    before, began = start_peak(), time.perf_counter()
    metrics = evaluate(model, data, batch_size=BATCH, top=TOP)
    seconds = time.perf_counter() - began
    assert all(np.isfinite(value) for value in metrics.values())
    peak = _resident("VmHWM") - before
    return {"documents": documents, "peak_bytes": peak, "seconds": seconds, "metrics": metrics}


def in_fresh_process(name: str, labels: int, documents: int, threads: int) -> dict[str, Any]:
    """`measure_one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--one", name, "--labels", str(labels)]
    command += ["--documents", str(documents), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(labels: int, documents: list[int], models: list[str], threads: int) -> list[dict[str, Any]]:
    """A row for each model."""
    rows = []
    for name in models:
        runs = []
        for count in documents:
            print(f"  L = {labels:,}: {name}, {count:,} documents", file=sys.stderr)
            runs.append(in_fresh_process(name, labels, count, threads))
        few, many = runs[0], runs[-1]
        grown = (many["peak_bytes"] - few["peak_bytes"]) / (many["documents"] - few["documents"])
        rows.append({"model": name, "runs": runs, "bytes_a_document": grown})
    return rows


def report(labels: int, rows: list[dict[str, Any]]) -> str:
    """A table."""
    counts = [run["documents"] for run in rows[0]["runs"]]
    lines = [f"L = {labels:,}, k = {TOP}, batches of {BATCH}: peak MB for N validation and N test documents"]
    lines.append(f"{'N':>14s}" + "".join(f"{count:9,d}" for count in counts) + "  bytes a document  documents/s")
    for row in rows:
        last = row["runs"][-1]
        lines.append(
            f"{row['model']:>14s}"
            + "".join(f"{run['peak_bytes'] / 1e6:9.1f}" for run in row["runs"])
            + f"{row['bytes_a_document']:18.0f}{2 * last['documents'] / last['seconds']:13.1f}"
        )
    return "\n".join([*lines, f"the scores kept: {8 * TOP} bytes a document"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"L = {QUICK:,}")
    parser.add_argument("--labels", type=int, help="another number of labels")
    parser.add_argument("--documents", type=int, nargs="+", help=f"two or more N; default {DOCUMENTS}")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--save", type=Path, help="a JSON file")
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    labels = options.labels or (QUICK if options.quick else LABELS)
    documents = options.documents or list(DOCUMENTS)
    if options.one:
        print(json.dumps(measure_one(options.one, labels, documents[0], options.threads)))
        return
    shape = {"labels": labels, "top": TOP, "batch": BATCH, "features": FEATURES, "measurements": MEASUREMENTS}
    shape |= {"steps": STEPS, "chunk": CHUNK, "candidates": CANDIDATES, "bytes_a_score": 8}
    rows = measure(labels, documents, options.models, options.threads)
    print(report(labels, rows))
    if options.save:
        environment = describe_machine("cpu") | {"threads": options.threads}
        found = {"environment": environment, "shape": shape, "rows": rows}
        options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
