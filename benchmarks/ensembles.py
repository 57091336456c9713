"""As many trainings for the classifier as cross-fitting takes: `python -m benchmarks.ensembles FOLDER [--save FILE]`.

A cross-fitted energy costs K + 1 trainings of its network. Here the classifiers on the same features get as many: the
mean of the probabilities of K + 1 runs that differ by their seed alone, with the decoder chosen on validation anew. The
runs are those of a comparison, in FOLDER/<set>/runs with their weights. With S seeds there are S ensembles, of seeds
s, s + 1, ..., s + K modulo S; they share members, so their spread is too small, and the test is over documents alone.

An ensemble costs K + 1 networks in prediction too, the energy one. Ensembles of the energy are there besides; they cost
(K + 1)^2 trainings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import describe_machine
from energynets.compare.paired import crossed
from energynets.config import Experiment
from energynets.data import MultiLabelDataset
from energynets.metrics import TopScores
from energynets.training import load_run
from energynets.training.evaluate import Measures
from energynets.training.score import score

METRICS = ("precision@1", "precision@5", "ndcg@5", "psp@5", "f1_example")
SPLITS = ("validation", "test")
Scores = Mapping[str, np.ndarray]
"""Split -> probabilities (N, L)."""


@dataclass(frozen=True)
class Row:
    """A row's finished runs, and what was measured of them and of their ensembles."""

    name: str
    features: str
    cross_fit: int | None
    folders: tuple[Path, ...]
    measured: dict[int, list[Measured]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Metrics of one ensemble on both splits, and test document by document."""

    metrics: Mapping[str, Mapping[str, float]]
    documents: Mapping[str, np.ndarray]


def rows(folder: Path) -> Iterator[Row]:
    """The classifiers and the cross-fitted energies of one table whose runs have their weights."""
    for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]:
        names = (f"{run['name']}-{run['config_hash'][:8]}-seed{run['seed']}" for run in row["results"])
        folders = tuple(folder / "runs" / name for name in names)
        if not all((path / "checkpoints" / "model.safetensors").exists() for path in folders):
            continue
        experiment = Experiment.load(folders[0] / "config.yaml")
        folds = [stage.cross_fit for stage in experiment.stages if stage.cross_fit is not None]
        if experiment.model.kind == "classifier" or folds:
            features = experiment.model.features.model_dump_json()  # type: ignore[union-attr]
            yield Row(row["name"], features, folds[0] if folds else None, folders)


def probabilities(folder: Path, dataset: MultiLabelDataset) -> Scores:
    """What a run gives every label of validation and test."""
    run, found = load_run(folder, device="cpu"), {}
    for split in SPLITS:
        documents = dataset.split(split)
        top = score(run.model, documents, k=documents.num_labels, loss=run.loss)
        dense = np.empty(top.values.shape, np.float32)
        np.put_along_axis(dense, top.indices.astype(np.int64), top.values, axis=1)
        found[split] = dense
    return found


def measure(members: list[Scores], dataset: MultiLabelDataset, measures: Measures) -> Measured:
    """The mean of the members' probabilities, decoded as validation prefers."""
    mean = {split: np.mean([member[split] for member in members], axis=0) for split in SPLITS}
    scores = {split: TopScores.from_dense(dense, dense.shape[1]) for split, dense in mean.items()}
    labels = {split: dataset.split(split).labels for split in SPLITS}
    decoder = measures.decoder(scores["validation"], labels["validation"])
    metrics = {split: measures.metrics(scores[split], labels[split], decoder) for split in SPLITS}
    return Measured(metrics, measures.documents(scores["test"], labels["test"], decoder))


def mean_of(row: Row, members: int, split: str, metric: str) -> float:
    """Over the ensembles."""
    return statistics.mean(one.metrics[split][metric] for one in row.measured[members])


def against(energy: Row, rival: Row, members: int, metric: str) -> dict[str, Any]:
    """The energy alone minus the rival's ensembles, tested over documents."""
    ours = np.mean([one.documents[metric] for one in energy.measured[1]], axis=0)
    theirs = np.mean([one.documents[metric] for one in rival.measured[members]], axis=0)
    difference = crossed(np.array([np.mean(ours - theirs)]), ours - theirs)
    found = {"metric": metric, "energy": energy.name, "ensemble": rival.name, "members": members}
    return found | {"mean": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p}


def measure_set(folder: Path) -> dict[str, Any] | None:
    """One table's rows, alone and as ensembles, and in each metric the energy against the ensemble, both the best on
    validation; None where no cross-fitted energy has features that a classifier has too."""
    found = list(rows(folder))
    classified = {row.features for row in found if row.cross_fit is None}
    energies = [row for row in found if row.cross_fit is not None and row.features in classified]
    if not energies:
        return None
    energies = [row for row in energies if row.features == energies[0].features]
    found = [row for row in found if row.features == energies[0].features]
    members = (energies[0].cross_fit or 0) + 1
    first = load_run(energies[0].folders[0], device="cpu")
    dataset = first.dataset()
    measures = Measures.of(first.experiment.evaluation, dataset)
    for row in found:
        print(f"  {folder.name}: {row.name}", file=sys.stderr)
        alone = [probabilities(path, dataset) for path in row.folders]
        for size in {1, min(members, len(alone))}:
            together = [[alone[(seed + i) % len(alone)] for i in range(size)] for seed in range(len(alone))]
            row.measured[size] = [measure(chosen, dataset, measures) for chosen in together]
    size = max(found[0].measured)
    rivals = [row for row in found if row.cross_fit is None]
    gains = []
    for metric in METRICS:
        energy = max(energies, key=lambda row: mean_of(row, 1, "validation", metric))
        rival = max(rivals, key=lambda row: mean_of(row, size, "validation", metric))
        gains.append(against(energy, rival, size, metric))
    return {"members": size, "rows": {row.name: summary(row) for row in found}, "gains": gains}


def summary(row: Row) -> dict[str, Any]:
    """Means and standard deviations of all metrics, by split and members."""
    found: dict[str, Any] = {}
    for members, ensembles in row.measured.items():
        for split in SPLITS:
            for metric in METRICS:
                values = [one.metrics[split][metric] for one in ensembles]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                one = {"mean": statistics.mean(values), "std": spread, "values": values}
                found.setdefault(str(members), {}).setdefault(split, {})[metric] = one
    return found


def report(name: str, found: Mapping[str, Any]) -> str:
    """A table of test metrics, and what is left of the energy's gain."""
    lines = [f"{name}, test x 100", f"{'':34}" + "".join(f"{metric:>13}" for metric in METRICS)]
    for row, by_members in found["rows"].items():
        for members, splits in by_members.items():
            cells = "".join(f"{100 * splits['test'][metric]['mean']:13.2f}" for metric in METRICS)
            lines.append(f"{row + ('' if members == '1' else f', {members} of them'):34}{cells}")
    for gain in found["gains"]:
        low, high = 100 * gain["low"], 100 * gain["high"]
        lines.append(
            f"  {gain['metric']}: {gain['energy']} - {gain['members']} x {gain['ensemble']} "
            f"{100 * gain['mean']:+.2f} ({low:.2f}..{high:.2f}), p {gain['p']:.1g}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a comparison: FOLDER/<set>/results.json and runs")
    parser.add_argument("--sets", nargs="+", help="default: all that have a cross-fitted energy")
    parser.add_argument("--save", type=Path, help="a JSON file")
    options = parser.parse_args()
    names = options.sets or sorted(path.parent.name for path in options.folder.glob("*/results.json"))
    result: dict[str, Any] = {"environment": describe_machine("cpu"), "sets": {}}
    for name in names:
        found = measure_set(options.folder / name)
        if found is not None:
            result["sets"][name] = found
            print(report(name, found), flush=True)
    if options.save is not None:
        options.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
