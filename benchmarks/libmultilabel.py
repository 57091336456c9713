"""A training step beside LibMultiLabel's XML-CNN: `python -m benchmarks.libmultilabel --python PYTHON [--save FILE]`.

PYTHON is an interpreter of an environment of its own with `pip install "libmultilabel[nn]==0.10.0" "setuptools<81"`;
without one nothing is measured, and the reason is printed.

Two comparisons. *plain*: XML-CNN against XML-CNN, the same shape, the same documents, binary cross-entropy over all
labels, Adam for every weight; with weights copied, logits of documents by themselves are compared first. *extreme*:
670,091 labels, LibMultiLabel's XML-CNN against a SPEN over the same features, T = 5 unrolled steps, all weights
trained: the feature network by Adam, what has a row for each label by SGD, which keeps no state.

Every number is from a fresh process, processes take turns. A step is forward, loss, gradients, clipping and new
weights; making batches is not timed, of nobody (theirs have dense labels). Peak memory is the process's largest over
what it held before it made the model. Documents are Reuters-21578's where the data folder has it (their own lengths, or
cut from the running text at 500 words), else words of Zipf's law of log-normal lengths.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import describe_machine
from benchmarks.memory import _resident
from benchmarks.timing import available_cores
from energynets import SPEN, XMLCNN, Classifier, EnergyNetwork, MirrorDescent
from energynets.config import GroupOptimizer, Optimizer
from energynets.data.batches import Batch, SparseBatch, TokenBatch
from energynets.errors import EnergyNetsError
from energynets.objectives import EndToEnd
from energynets.output import ChunkedLinear
from energynets.training.optimizers import Optimizers
from energynets.training.update import Update

LIBRARY = "libmultilabel 0.10.0"
LENGTH, POSITIVES = 500, 5
TOLERANCE = 1e-4
BATCHES = 4


@dataclass(frozen=True)
class Case:
    """One shape of XML-CNN, and documents to train it on."""

    name: str
    labels: int
    batch: int
    lengths: str  # `full` or `natural`
    windows: tuple[int, ...] = (2, 4, 8)
    filters: int = 128
    chunks: int = 8
    hidden: int = 512
    vocabulary: int = 30_000
    embedding: int = 300
    embedding_dropout: float = 0.2
    dropout: float = 0.4
    measurements: int = 0  # K of a SPEN on top; 0: none
    inference_steps: int = 5
    steps: int = 4
    threads: int = 1


def cases(threads: int, steps: int | None) -> list[Case]:
    """The extreme one, then the plain ones."""
    found = [Case("extreme", 670_091, 16, "full", measurements=128, steps=steps or 3, threads=threads)]
    for windows, filters in (((2, 4, 8), 128), ((8,), 768)):
        for labels in (3_993, 30_938):
            for lengths in ("natural", "full"):
                found.append(Case("plain", labels, 64, lengths, windows, filters, steps=steps or 6, threads=threads))
    return found


def reuters() -> tuple[np.ndarray, np.ndarray] | None:
    """Token ids of all training documents, end to end, and their lengths; None where they are not at hand."""
    from energynets.config import Experiment
    from energynets.training.build import build_dataset

    try:
        experiment = Experiment.load(
            Path(__file__).parent.parent / "configs/reuters/xml-cnn.yaml", ["data.vectors=null"]
        )
        tokens: Any = build_dataset(experiment).prepared.split("train").inputs
    except EnergyNetsError:
        return None
    return tokens.ids, tokens.lengths


def documents(case: Case, source: tuple[np.ndarray, np.ndarray] | None) -> dict[str, np.ndarray]:
    """`BATCHES` batches: tokens (n, B, S), lengths (n, B) of at least the widest window, labels (n, B, 5)."""
    draw = np.random.default_rng(0)
    shape = (BATCHES, case.batch)
    if source is None:
        ids = np.minimum(draw.zipf(1.2, size=4_000_000) + 1, case.vocabulary - 1)
        natural = draw.lognormal(np.log(95), 0.8, size=len(ids)).astype(np.int64)
    else:
        ids, natural = source
    ids = np.clip(ids, 1, case.vocabulary - 1).astype(np.int64)
    lengths = np.full(shape, LENGTH)
    if case.lengths == "natural":
        lengths = draw.choice(natural, size=shape).clip(max(case.windows), LENGTH)
    tokens = np.zeros((*shape, LENGTH), dtype=np.int64)
    for place, length in np.ndenumerate(lengths):
        start = draw.integers(len(ids) - length)
        tokens[place][:length] = ids[start : start + length]
    labels = np.stack([draw.choice(case.labels, POSITIVES, replace=False) for _ in range(lengths.size)])
    return {"tokens": tokens, "lengths": lengths.astype(np.int64), "labels": labels.reshape(*shape, POSITIVES)}


def build(case: Case) -> tuple[Any, Optimizer]:
    """Our model and the settings of its optimisers."""
    features = XMLCNN(
        case.vocabulary,
        embedding_dim=case.embedding,
        windows=case.windows,
        num_filters=case.filters,
        pooling_chunks=case.chunks,
        hidden=case.hidden,
        embedding_dropout=case.embedding_dropout,
        dropout=case.dropout,
    )
    if not case.measurements:
        model = Classifier(features, case.labels, output=ChunkedLinear(case.hidden, case.labels))
        return model, Optimizer(learning_rate=1e-3)
    energy = SPEN(case.hidden, case.labels, num_measurements=case.measurements)
    solver = MirrorDescent(case.inference_steps)
    network = EnergyNetwork(features, energy, solver, label_chunk=2048, keep_unary=True)
    of_labels = GroupOptimizer(kind="sgd", learning_rate=1e-6)
    return network, Optimizer(learning_rate=1e-3, unary=of_labels, energy=of_labels)


def ours(folder: Path, *, compare: bool) -> dict[str, Any]:
    """In this process: milliseconds of each step after the first, the last loss, the peak in bytes."""
    case = Case(**json.loads((folder / "case.json").read_text(encoding="utf-8")))
    given = np.load(folder / "documents.npz")
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    before = _resident("VmRSS")
    model, settings = build(case)
    if compare:
        _save_for_comparison(model, given, folder)
    model.train()
    optimizer = Optimizers(settings, model, list(model.parameter_groups()))
    update = Update(model, EndToEnd(), list(model.parameters()), optimizer, clip_norm=1.0)
    milliseconds, loss = [], float("nan")
    for number in range(case.steps + 1):
        batch = _batch(given, number % BATCHES, case.labels)
        began = time.perf_counter()
        loss = float(update.gradients(batch)[0])
        update.apply()
        if number:
            milliseconds.append(1e3 * (time.perf_counter() - began))
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"ms": milliseconds, "loss": loss, "peak_bytes": _resident("VmHWM") - before, "parameters": count}


def _batch(given: Any, number: int, labels: int) -> Batch:
    lengths, columns = given["lengths"][number], given["labels"][number]
    tokens = torch.from_numpy(given["tokens"][number][:, : lengths.max()])
    offsets = torch.arange(0, columns.size + 1, POSITIVES)
    targets = SparseBatch(torch.from_numpy(columns.flatten()), torch.ones(columns.size), offsets, labels)
    return Batch(TokenBatch(tokens, torch.from_numpy(lengths)), targets, torch.arange(len(lengths)))


@torch.no_grad()
def _save_for_comparison(model: Classifier, given: Any, folder: Path) -> None:
    """Weights, and logits of eight documents; each by itself, for theirs read padding and ours do not."""
    features: Any = model.features
    weights = {"embedding": features.embedding.weight}
    for number, convolution in enumerate(features.convolutions):
        weights |= {f"convolution.{number}.{name}": value for name, value in convolution.named_parameters()}
    weights |= {f"bottleneck.{name}": value for name, value in features.bottleneck.named_parameters()}
    weights |= {f"unary.{name}": value for name, value in model.unary.named_parameters()}
    np.savez(folder / "weights.npz", **{name: value.numpy() for name, value in weights.items()})
    model.eval()
    tokens, lengths = torch.from_numpy(given["tokens"][0][:8]), torch.from_numpy(given["lengths"][0][:8])
    parts = [model(TokenBatch(row[None, :length], length[None])) for row, length in zip(tokens, lengths, strict=True)]
    np.save(folder / "expected.npy", torch.cat(parts).numpy())


def measure(case: Case, python: str, rounds: int, source: tuple[np.ndarray, np.ndarray] | None) -> dict[str, Any]:
    """Both, in turn."""
    rows: dict[str, dict[str, Any]] = {name: {"ms": [], "peak_bytes": 0} for name in ("energynets", LIBRARY)}
    with tempfile.TemporaryDirectory(prefix="energynets-bench-") as name:
        folder = Path(name)
        (folder / "case.json").write_text(json.dumps(asdict(case)), encoding="utf-8")
        np.savez(folder / "documents.npz", **documents(case, source))
        mine = [sys.executable, "-m", "benchmarks.libmultilabel", "--one", name]
        script = str(Path(__file__).parent / "rivals" / "libmultilabel_step.py")
        for number in range(rounds):
            compare = ["--compare"] if number == 0 and not case.measurements else []
            for who, command in (("energynets", mine + compare), (LIBRARY, [python, script, name])):
                found = _run(command, case.threads)
                rows[who]["ms"] += found["ms"]
                rows[who]["peak_bytes"] = max(rows[who]["peak_bytes"], found["peak_bytes"])
                rows[who]["parameters"] = found["parameters"]
            (folder / "weights.npz").unlink(missing_ok=True)
        difference = None
        if not case.measurements:
            expected, outputs = np.load(folder / "expected.npy"), np.load(folder / "outputs.npy")
            difference = float(np.abs(outputs - expected).max() / np.abs(expected).max())
            if not difference <= TOLERANCE:
                raise SystemExit(f"{case}: logits differ by {difference:.1e}: not timed")
        lengths = np.load(folder / "documents.npz")["lengths"]
    for row in rows.values():
        row["median_ms"] = statistics.median(row["ms"])
        row["documents_per_second"] = 1e3 * case.batch / row["median_ms"]
    mine_row, theirs = rows["energynets"], rows[LIBRARY]
    return {
        **asdict(case),
        "mean_length": float(lengths.mean()),
        "rows": rows,
        "output_difference": difference,
        "time_ratio": theirs["median_ms"] / mine_row["median_ms"],
        "memory_ratio": theirs["peak_bytes"] / mine_row["peak_bytes"],
    }


def _run(command: list[str], threads: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def missing(python: str | None) -> str | None:
    """Why there is no rival, or None."""
    advice = 'pip install "libmultilabel[nn]==0.10.0" "setuptools<81" in an environment of its own, then --python'
    if python is None:
        return f"no interpreter with LibMultiLabel given: {advice}"
    try:
        check = "import libmultilabel.nn.nn_utils, importlib.metadata as m; print(m.version('libmultilabel'))"
        done = subprocess.run([python, "-c", check], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python}: {error.strerror}"
    if done.returncode:
        return f"{python}: {done.stderr.strip().splitlines()[-1]}: {advice}"
    version = done.stdout.strip().splitlines()[-1]
    return None if LIBRARY.endswith(version) else f"{python} has libmultilabel {version}, expected {LIBRARY}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("LIBMULTILABEL_PYTHON"), help="interpreter of the rival")
    parser.add_argument("--only", choices=("extreme", "plain"), help="one of the two comparisons")
    parser.add_argument("--steps", type=int, help="timed in each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--save", type=Path, help="a JSON file")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.one, compare=options.compare)))
        return
    if reason := missing(options.python):
        print(f"skipped: {reason}")
        return
    source = reuters()
    found: dict[str, Any] = {
        "environment": describe_machine("cpu") | {"threads": options.threads},
        "documents": "Zipf's law, log-normal lengths" if source is None else "Reuters-21578",
        "cases": [],
    }
    print(f"{'':>42s}{'ms':>9s}{'theirs':>9s}{'ratio':>7s}{'GB':>7s}{'theirs':>8s}{'ratio':>7s}{'logits':>9s}")
    for case in cases(options.threads, options.steps):
        if options.only and case.name != options.only:
            continue
        row = measure(case, options.python, options.rounds, source)
        found["cases"].append(row)
        a, b = row["rows"]["energynets"], row["rows"][LIBRARY]
        name = f"{case.name} {case.windows} x {case.filters}, L = {case.labels:,}, {case.lengths}"
        error = "-" if row["output_difference"] is None else f"{row['output_difference']:.0e}"
        print(
            f"{name:>42s}{a['median_ms']:9.0f}{b['median_ms']:9.0f}{row['time_ratio']:7.2f}"
            f"{a['peak_bytes'] / 1e9:7.2f}{b['peak_bytes'] / 1e9:8.2f}{row['memory_ratio']:7.2f}{error:>9s}",
            flush=True,
        )
        if options.save:
            options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
