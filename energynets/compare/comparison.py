"""Experiments times seeds -> rows with mean and spread, on the same documents under the same rules."""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from energynets.compare.cells import Cell, CompareProgress
from energynets.compare.fairness import check_fair, check_fingerprints, check_same_documents
from energynets.compare.pool import run_cells
from energynets.errors import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np

    from energynets.compare.statistics import Difference
    from energynets.config import Experiment

# Their result does not depend on the experiment's seed: run once.
DETERMINISTIC = ("label_frequency", "linear", "neighbours", "target_embedding", "label_tree", "bayes_optimal")


def measured(result: Mapping[str, Any], metric: str, split: str) -> Any:
    """A metric as result.json has it, of the rest by its `metrics.observed_name`; None where it was not measured."""
    from energynets.metrics import split_name

    name, share = split_name(metric)
    metrics = result.get("observed", {}).get(share, {}) if share else result["metrics"]
    return metrics.get(split, {}).get(name)


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
        energy: whether the model has one.
        blind: whether the model has no place for labels that are shown.
        features: its feature network, JSON of the configuration's section; "" where it has none.
        documents: per finished seed, metric -> (N,) values of the test documents; empty mappings where none were kept.
        diagnostics: per finished seed, what its diagnostics.json says; empty mappings where there is none.
    """

    name: str
    kind: str
    results: tuple[Mapping[str, Any], ...]
    curves: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    failures: Mapping[int, str] = field(default_factory=dict)
    config: str = ""
    energy: bool = False
    documents: tuple[Mapping[str, np.ndarray], ...] = ()
    diagnostics: tuple[Mapping[str, Any], ...] = ()
    blind: bool = True
    features: str = ""

    @property
    def deterministic(self) -> bool:
        """Whether no seed changes its result."""
        return self.kind in DETERMINISTIC

    @property
    def learned(self) -> bool:
        """Neither the floor (label frequency) nor the ceiling (Bayes-optimal)."""
        return self.kind not in ("label_frequency", "bayes_optimal")

    def metric(self, name: str, split: str = "test") -> Spread | None:
        """A metric over seeds; of the rest where labels are shown, by its `metrics.observed_name`."""
        return Spread.of(self.value(place, name, split) for place in range(len(self.results)))

    def value(self, place: int, metric: str, split: str = "test") -> float | None:
        """A metric of the result at a place in `results`."""
        found = measured(self.results[place], metric, split)
        return float(found) if found is not None and math.isfinite(found) else None

    def document_values(self, place: int, metric: str) -> np.ndarray | None:
        """The same document by document, (N,) on test; None where it was not kept."""
        return self.documents[place].get(metric) if place < len(self.documents) else None

    def quantity(self, name: str) -> Spread | None:
        """Another number of result.json over seeds: train_seconds, inference_ms_per_document, ..."""
        return Spread.of(result.get(name) for result in self.results)

    @property
    def threshold(self) -> Spread | None:
        """The thresholds chosen on validation."""
        return Spread.of(result["threshold"]["value"] for result in self.results)


class Tested(NamedTuple):
    """Differences and gains of a table, tested where its runs are."""

    differences: tuple[Difference, ...]
    gains: tuple[Difference, ...]


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
        environment: where its finished runs were made, as their environment.json; a list where they differ.
        created: ISO time, UTC.
        monitor: the validation metric that training watched, by which the reference was chosen.
        reference: name of the row that others are compared with; None where there is none.
        observed: share of the labels shown, as text -> name of the reference there: of each share above 0 that the
            rows are measured at besides.
        draws: times that the labels shown were drawn.
        processes: runs that shared the machine at a time, at most.
        notes: more sentences for the caption.
        decoding: what makes sets of scores, of every row.
        tested: of a table whose runs are elsewhere; None where they are here, and tested anew.
        tuned: names of the rows whose settings a search has found.
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
    decoding: str = "global"
    monitor: str = "f1_example"
    reference: str | None = None
    observed: Mapping[str, str | None] = field(default_factory=dict)
    draws: int = 1
    processes: int = 1
    notes: tuple[str, ...] = ()
    tested: Tested | None = None
    tuned: tuple[str, ...] = ()

    @functools.cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Every learned row against the reference, in every headline metric, at every share of the labels shown."""
        from energynets.compare.statistics import corrected, of_table

        return corrected(of_table(self))

    @functools.cached_property
    def gains(self) -> tuple[Difference, ...]:
        """The best energy against the best classifier on its features, in every headline metric."""
        from energynets.compare.gains import of_table
        from energynets.compare.statistics import corrected

        return corrected(of_table(self))

    @property
    def together(self) -> list[str]:
        """Names of the rows some of whose seeds trained at once, in one process."""
        return [row.name for row in self.rows if any(result.get("together", 1) > 1 for result in row.results)]

    @property
    def untuned(self) -> list[str]:
        """Names of the learned rows that ran as configured beside rows that were tuned."""
        return [row.name for row in self.rows if self.tuned and row.learned and row.name not in self.tuned]

    @property
    def untested(self) -> bool:
        """Whether there are results, and none of them on a test split."""
        results = [result for row in self.rows for result in row.results]
        return bool(results) and not any(result["metrics"].get("test") for result in results)

    @property
    def failures(self) -> list[str]:
        """`<row>-seed<k>: why`, for every cell without a result."""
        return [f"{row.name}-seed{seed}: {why}" for row in self.rows for seed, why in row.failures.items()]

    def to_dict(self) -> dict[str, Any]:
        """As results.json."""
        from energynets.metrics import observed_name

        rows = []
        for row in self.rows:
            splits = row.results[0]["metrics"] if row.results else {}
            names = list(splits.get("test") or splits.get("validation", {}))
            quantities = ("train_seconds", "inference_ms_per_document", "peak_memory_bytes", "parameters")
            rows.append(
                {
                    "name": row.name,
                    "kind": row.kind,
                    "seeds": [result["seed"] for result in row.results],
                    "test": {name: _plain(row.metric(name)) for name in names},
                    "validation": {name: _plain(row.metric(name, "validation")) for name in names},
                    "observed": {
                        share: {
                            split: {name: _plain(row.metric(observed_name(name, share), split)) for name in names}
                            for split in ("test", "validation")
                        }
                        for share in self.observed
                    },
                    **{name: _plain(row.quantity(name)) for name in quantities},
                    "threshold": _plain(row.threshold),
                    "failures": {str(seed): why for seed, why in row.failures.items()},
                    "config": row.config,
                    "results": list(row.results),
                }
            )
        return {
            "name": self.name,
            "created": self.created,
            "seeds": list(self.seeds),
            "data": dict(self.data),
            "ks": list(self.ks),
            "threshold_rule": self.threshold_rule,
            "decoding": self.decoding,
            "environment": dict(self.environment),
            "monitor": self.monitor,
            "processes": self.processes,
            "notes": list(self.notes),
            "untuned": self.untuned,
            "reference": self.reference,
            "observed": dict(self.observed),
            "draws": self.draws,
            "differences": [asdict(difference) for difference in self.differences],
            "gains": [asdict(gain) for gain in self.gains],
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
    reference: str | None = None,
    processes: int = 1,
    together: bool = False,
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
        reference: name of the row that others are tested against; None is the best row without an energy on validation.
        processes: runs at a time. More than one is sooner done, but a run's seconds are then those of a busy machine.
        together: the seeds of a row share one process, which starts once and reads the data once, and train at once
            where that is faster (small networks on a CPU): their seconds are then shares, their memory that of all.
        progress: listener.

    Returns:
        A `Comparison`.

    Raises:
        ConfigError: experiments that cannot be compared fairly, or a folder with other runs in it.

    Example:
        >>> import tempfile
        >>> from energynets import Experiment, compare
        >>> data = {"planted": {"num_documents": 50, "num_test_documents": 10, "num_labels": 6}, "inputs": "counts"}
        >>> models = [{"kind": "linear"}, {"kind": "neighbours"}]
        >>> trees = [{"name": model["kind"], "data": data, "model": model, "device": "cpu"} for model in models]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = compare([Experiment.from_tree(tree) for tree in trees], seeds=1, folder=f"{folder}/table")
        >>> [row.name for row in table.rows]
        ['linear', 'neighbours']
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    check_fair(experiments, chosen)
    return run_table(
        experiments,
        seeds=chosen,
        folder=Path(folder) if folder is not None else Path("comparisons") / experiments[0].name,
        linear=linear,
        reference=reference,
        processes=processes,
        together=together,
        progress=progress,
    )


class NothingFinishedError(ConfigError):
    """A table of finished runs, and there are none."""


def run_table(
    experiments: Sequence[Experiment],
    *,
    seeds: tuple[int, ...],
    folder: Path,
    linear: bool,
    reference: str | None,
    processes: int,
    together: bool,
    progress: CompareProgress | None,
    failed: Mapping[str, str] | None = None,
    hashed: bool = False,
    notes: tuple[str, ...] = (),
    tuned: tuple[str, ...] = (),
    finished: bool = False,
) -> Comparison:
    """`compare` of experiments that were found fair.

    Args:
        experiments, seeds, folder, linear, reference, processes, together, progress: as for `compare`.
        failed: name -> why this experiment cannot be run.
        hashed: run folders carry the configuration's hash: other settings have folders of their own.
        notes: sentences for the table's caption.
        tuned: names of the experiments whose settings a search has found.
        finished: nothing is trained: the table is of the runs that are done.

    Raises:
        NothingFinishedError: `finished`, and nothing is.
    """
    failed = failed or {}
    if linear:
        experiments = with_linear_line(experiments)
    names = [experiment.name for experiment in experiments]
    if reference is not None and reference not in names:
        raise ConfigError(f"compare: reference {reference!r} is none of the rows{nearest(reference, names)}")
    progress = progress or CompareProgress()
    cells = [
        Cell(experiment, seed, folder / "runs" / _run_name(experiment, seed, hashed), processes)
        for experiment in experiments
        for seed in (seeds[:1] if experiment.model.kind in DETERMINISTIC else seeds)
    ]
    runnable = [cell for cell in cells if cell.experiment.name not in failed]
    # Every folder is looked at before anything runs: a clash is told at once, not after hours.
    kept = {cell.name: cell.finished_result() for cell in runnable}
    if not finished:
        for cell in runnable:
            cell.check_unfinished()
        if hashed:
            runnable = [cell if kept[cell.name] else cell.with_weights() for cell in runnable]
    check_same_documents(experiments)
    if finished:
        runnable = [cell for cell in runnable if kept[cell.name]]
        if not runnable:
            raise NothingFinishedError(f"--finished: no run is finished in {folder}")
        if len(runnable) < len(cells):
            notes = (*notes, f"{len(runnable)} of {len(cells)} runs are finished; the others are not in the table.")
            if begun := _begun(runnable, cells):
                notes = (*notes, f"Seeds done: {begun}.")
            experiments = [e for e in experiments if any(cell.experiment is e for cell in runnable)]
            cells = runnable
            seeds = tuple(seed for seed in seeds if any(cell.seed == seed for cell in cells))
    results: dict[str, Mapping[str, Any]] = {}
    failures = {cell.name: failed[cell.experiment.name] for cell in cells if cell.experiment.name in failed}
    # Of every row, whether it trains or is kept: the file that lies there may be of other settings.
    configs = {e.name: write_config(e, folder / "configs" / f"{e.name}.yaml") for e in experiments}

    def config(cell: Cell) -> Path:
        return configs[cell.experiment.name]

    outcomes = run_cells(runnable, kept, config, processes=processes, progress=progress, together=together)
    for cell, (result, failure) in outcomes:
        if result is not None:
            results[cell.name] = result
            check_fingerprints(results)
        else:
            failures[cell.name] = failure or "no result"
    comparison = _gather(experiments, cells, results, failures, seeds, folder)
    from energynets.compare.statistics import choose_reference

    # Runs that are kept had their times measured under what an earlier session says.
    before = (_read_json(folder / "results.json") or {}).get("processes", 1) if any(kept.values()) else 1
    comparison = replace(
        comparison,
        reference=choose_reference(comparison, reference),
        observed={share: choose_reference(comparison, reference, share) for share in comparison.observed},
        processes=max(processes, before),
        notes=notes,
        tuned=tuned,
    )
    from energynets.compare.files import write

    write(comparison)
    return comparison


def _begun(done: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """`spen 1 of 10`, of each experiment with some of its runs done and not all."""
    wanted, there = (Counter(cell.experiment.name for cell in some) for some in (cells, done))
    return ", ".join(f"{name} {there[name]} of {count}" for name, count in wanted.items() if 0 < there[name] < count)


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


def _run_name(experiment: Experiment, seed: int, hashed: bool) -> str:
    return f"{experiment.name}-{experiment.hash()[:8] + '-' if hashed else ''}seed{seed}"


def write_config(experiment: Experiment, path: Path) -> Path:
    """The resolved configuration in a file; gives its path."""
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
    from energynets.training.run import RunFolder

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
                **traits(experiment),
                documents=tuple(RunFolder(cell.folder).read_documents() for cell in done),
                diagnostics=tuple(RunFolder(cell.folder).read_diagnostics() for cell in done),
            )
        )
    first = next(iter(results.values()), {})
    return Comparison(
        name=folder.name,
        folder=folder,
        rows=order_rows(rows),
        seeds=seeds,
        data=first.get("data", {}),
        ks=experiments[0].evaluation.ks,
        threshold_rule=experiments[0].evaluation.threshold_rule,
        environment=_environment(cell for cell in cells if cell.name in results),
        decoding=experiments[0].evaluation.decoding,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        monitor=_monitor(experiments),
        observed=dict.fromkeys(experiments[0].evaluation.shares_shown()),
        draws=experiments[0].evaluation.draws,
    )


def _environment(cells: Iterable[Cell]) -> dict[str, Any]:
    """Of their environment.json, what they agree on as it is, what they do not as a list of every value there is.

    Without the command line, which is each run's own.
    """
    found = [environment for cell in cells if (environment := _read_json(cell.folder / "environment.json"))]
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for environment in found for name in environment if name != "command"):
        values: list[Any] = []  # no set: a version's order is that of the runs
        for environment in found:
            if (value := environment.get(name)) not in values:
                values.append(value)
        merged[name] = values if len(values) > 1 else values[0]
    return merged


def traits(experiment: Experiment) -> dict[str, Any]:
    """What a `Row` says of an experiment's model: energy, blind and features."""
    energy = experiment.model.kind == "energy_network"
    blind = not energy and not getattr(experiment.model, "observes", False)
    return {"energy": energy, "blind": blind, "features": _features(experiment)}


def _features(experiment: Experiment) -> str:
    """What a model reads x by: that of the linear line, and of any network without hidden layers, is x itself."""
    from energynets.config import is_linear

    features = getattr(experiment.model, "features", None)
    if experiment.model.kind == "linear" or is_linear(features):
        return '{"kind":"linear"}'
    return "" if features is None else str(features.model_dump_json())


def _monitor(experiments: Sequence[Experiment]) -> str:
    """The metric that most of the trained rows watched."""
    found = [e.training.monitor for e in experiments if e.model.kind not in DETERMINISTIC] or ["f1_example"]
    return max(found, key=found.count)


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
