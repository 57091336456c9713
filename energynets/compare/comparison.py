"""Experiments times seeds -> rows with mean and spread, on the same documents under the same rules."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energynets.compare.cells import Cell, CompareProgress
from energynets.compare.fairness import check_fair, check_fingerprints, check_same_documents

if TYPE_CHECKING:
    from energynets.config import Experiment

# Their result does not depend on the experiment's seed: run once.
DETERMINISTIC = ("label_frequency", "linear", "neighbours", "target_embedding", "label_tree", "bayes_optimal")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over seeds; `std` is None for one value."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of the values that there are; None without any."""
        kept = tuple(float(v) for v in values if v is not None and math.isfinite(v))
        if not kept:
            return None
        return cls(statistics.fmean(kept), statistics.stdev(kept) if len(kept) > 1 else None, kept)


@dataclass(frozen=True)
class Row:
    """One experiment over its seeds.

    Args:
        name: of the experiment.
        kind: of the model.
        results: one result.json per finished seed.
        curves: per finished seed, the lines of metrics.jsonl.
        failures: seed -> why it has no result.
        config: the resolved configuration, YAML.
    """

    name: str
    kind: str
    results: tuple[Mapping[str, Any], ...]
    curves: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    failures: Mapping[int, str] = field(default_factory=dict)
    config: str = ""

    @property
    def learned(self) -> bool:
        """Neither the floor (label frequency) nor the ceiling (Bayes-optimal)."""
        return self.kind not in ("label_frequency", "bayes_optimal")

    def metric(self, name: str, split: str = "test") -> Spread | None:
        """A metric over seeds."""
        return Spread.of(result["metrics"].get(split, {}).get(name) for result in self.results)

    def quantity(self, name: str) -> Spread | None:
        """Another number of result.json over seeds: train_seconds, inference_ms_per_document, ..."""
        return Spread.of(result.get(name) for result in self.results)

    @property
    def threshold(self) -> Spread | None:
        """The thresholds chosen on validation."""
        return Spread.of(result["threshold"]["value"] for result in self.results)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Args:
        name: of the comparison.
        folder: where its runs and files are.
        rows: floor first, ceiling last.
        seeds: of the rows that depend on one.
        data: the fingerprint all rows share (empty where every cell failed).
        ks: of P@k and its like.
        threshold_rule: what the threshold maximises on validation.
        environment: where it ran, of the first run that says.
        created: ISO time, UTC.
    """

    name: str
    folder: Path
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    data: Mapping[str, Any]
    ks: tuple[int, ...]
    threshold_rule: str
    environment: Mapping[str, Any]
    created: str

    @property
    def failures(self) -> list[str]:
        """`<row>-seed<k>: why`, for every cell without a result."""
        return [f"{row.name}-seed{seed}: {why}" for row in self.rows for seed, why in row.failures.items()]

    def to_dict(self) -> dict[str, Any]:
        """As results.json."""
        rows = []
        for row in self.rows:
            names = list(row.results[0]["metrics"]["test"]) if row.results else []
            quantities = ("train_seconds", "inference_ms_per_document", "peak_memory_bytes", "parameters")
            rows.append(
                {
                    "name": row.name,
                    "kind": row.kind,
                    "seeds": [result["seed"] for result in row.results],
                    "test": {name: _plain(row.metric(name)) for name in names},
                    "validation": {name: _plain(row.metric(name, "validation")) for name in names},
                    **{name: _plain(row.quantity(name)) for name in quantities},
                    "threshold": _plain(row.threshold),
                    "failures": {str(seed): why for seed, why in row.failures.items()},
                    "results": list(row.results),
                }
            )
        return {
            "name": self.name,
            "created": self.created,
            "seeds": list(self.seeds),
            "data": dict(self.data),
            "threshold_rule": self.threshold_rule,
            "environment": dict(self.environment),
            "rows": rows,
        }


def _plain(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else asdict(spread)


def compare(
    experiments: Sequence[Experiment],
    *,
    seeds: int | Sequence[int] = 3,
    folder: str | Path | None = None,
    linear: bool = True,
    progress: CompareProgress | None = None,
) -> Comparison:
    """Train every experiment under every seed and put them in one table.

    Finished runs in `folder` are kept, interrupted ones resumed. A run that fails leaves the others alone: its row says
    why. Writes table.md, table.csv, results.json and, where matplotlib and jinja2 are installed, report.html.

    Args:
        experiments: with different names; the same documents, splits and evaluation.
        seeds: how many (0, 1, ...), or which. Rows that do not depend on the seed run once.
        folder: default comparisons/<first experiment's name>.
        linear: put a one-vs-rest linear line first where the experiments bring neither one nor nearest neighbours: a
            table without such a line means little.
        progress: listener.

    Returns:
        A `Comparison`.

    Raises:
        ConfigError: experiments that cannot be compared fairly, or a folder with other runs in it.

    Example:
        >>> from energynets import Experiment, compare  # doctest: +SKIP
        >>> experiments = [Experiment.load(f"configs/bibtex/{name}.yaml") for name in ("linear", "spen")]
        >>> compare(experiments, seeds=3, folder="comparisons/bibtex").rows[0].metric("precision@1").mean
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    check_fair(experiments, chosen)
    folder = Path(folder) if folder is not None else Path("comparisons") / experiments[0].name
    if linear:
        experiments = with_linear_line(experiments)
    progress = progress or CompareProgress()
    cells = [
        Cell(experiment, seed, folder / "runs" / f"{experiment.name}-seed{seed}")
        for experiment in experiments
        for seed in (chosen[:1] if experiment.model.kind in DETERMINISTIC else chosen)
    ]
    # Every folder is looked at before anything runs: a clash is told at once, not after hours.
    kept = {cell.name: cell.finished_result() for cell in cells}
    check_same_documents(experiments)
    results: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    for number, cell in enumerate(cells, start=1):
        result, failure = kept[cell.name], None
        progress.cell(cell, number, len(cells))
        if result is None:
            result, failure = cell.run(_write_config(cell.experiment, folder), progress)
        if result is not None:
            results[cell.name] = result
            check_fingerprints(results)
        else:
            failures[cell.name] = failure or "no result"
        progress.finished(cell, result, failure, kept[cell.name] is not None)
    comparison = _gather(experiments, cells, results, failures, chosen, folder)
    from energynets.compare.files import write

    write(comparison)
    return comparison


def with_linear_line(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments, with a one-vs-rest linear line before them where there is no such line."""
    from energynets.config import Experiment

    if any(experiment.model.kind in ("linear", "neighbours") for experiment in experiments):
        return list(experiments)
    first = experiments[0].model_dump(mode="json", include={"data", "evaluation", "device"})
    # Word vectors are for networks; the line reads tf-idf, which it makes of tokens itself.
    first["data"]["vectors"] = None
    taken = {experiment.name for experiment in experiments}
    name = "linear" if "linear" not in taken else "linear-one-vs-rest"
    line = Experiment.from_tree(first | {"name": name, "model": {"kind": "linear"}})
    return [line, *experiments]


def _write_config(experiment: Experiment, folder: Path) -> Path:
    path = folder / "configs" / f"{experiment.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(experiment.to_yaml(), encoding="utf-8")
    return path


def _gather(
    experiments: Sequence[Experiment],
    cells: Sequence[Cell],
    results: Mapping[str, Mapping[str, Any]],
    failures: Mapping[str, str],
    seeds: tuple[int, ...],
    folder: Path,
) -> Comparison:
    rows = []
    for experiment in experiments:
        own = [cell for cell in cells if cell.experiment is experiment]
        done = [cell for cell in own if cell.name in results]
        rows.append(
            Row(
                name=experiment.name,
                kind=str(results[done[0].name]["kind"]) if done else experiment.model.kind,
                results=tuple(results[cell.name] for cell in done),
                curves=tuple(_read_lines(cell.folder / "metrics.jsonl") for cell in done),
                failures={cell.seed: failures[cell.name] for cell in own if cell.name in failures},
                config=experiment.to_yaml(),
            )
        )
    first = next(iter(results.values()), {})
    environments = (_read_json(cell.folder / "environment.json") for cell in cells)
    return Comparison(
        name=folder.name,
        folder=folder,
        rows=order_rows(rows),
        seeds=seeds,
        data=first.get("data", {}),
        ks=experiments[0].evaluation.ks,
        threshold_rule=experiments[0].evaluation.threshold_rule,
        environment=next((found for found in environments if found), {}),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def order_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Label frequency first, Bayes-optimal last, the others as given."""
    place = {"label_frequency": -1, "bayes_optimal": 1}
    return tuple(sorted(rows, key=lambda row: place.get(row.kind, 0)))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return ()
