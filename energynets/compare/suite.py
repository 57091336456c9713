"""A comparison file, carried out: tuning on validation, then fresh seeds, a table for each data set, one over all."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from energynets.compare.cells import CompareProgress
from energynets.compare.comparison import Comparison, NothingFinishedError, run_table, with_linear_line
from energynets.compare.elsewhere import table_elsewhere
from energynets.compare.fairness import check_fair, check_same_documents
from energynets.compare.files import write_suite
from energynets.compare.gains import gains
from energynets.compare.plan import Plan, PlannedRow
from energynets.compare.ranks import Ranks, mean_ranks
from energynets.compare.statistics import Difference, differences, headline, shares
from energynets.compare.tuning import Tuned, require_optuna, tune
from energynets.errors import ConfigError, nearest


@dataclass(frozen=True)
class Suite:
    """Comparisons on several data sets.

    Args:
        name: of the comparison file.
        folder: where everything is: `<data set>/` for each, table.md, results.json and report.html over all.
        comparisons: one for each data set.
        plan: what was asked for.
        tuned: data set -> row -> what its tuning found.
    """

    name: str
    folder: Path
    comparisons: tuple[Comparison, ...]
    plan: Plan
    tuned: Mapping[str, Mapping[str, Tuned]] = field(default_factory=dict)

    @functools.cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Every row against the reference of its data set, Holm's correction over all sets together."""
        return differences(self.comparisons)

    @functools.cached_property
    def gains(self) -> tuple[Difference, ...]:
        """The best energy of each data set against the best classifier on its features."""
        return gains(self.comparisons)

    @property
    def metrics(self) -> list[str]:
        """Headline metrics that every data set has, those of the rest where labels are shown among them."""
        first, *others = map(_tested, self.comparisons)
        return [metric for metric in first if all(metric in other for other in others)]

    def ranks(self, metric: str) -> Ranks | None:
        """Mean ranks of the learned rows that have a result on every data set; None without any."""
        values = [_means(comparison, metric) for comparison in self.comparisons]
        names = [name for name in values[0] if all(name in found for found in values)]
        if not names:
            return None
        return mean_ranks(metric, names, np.array([[found[name] for name in names] for found in values]))

    @property
    def untuned(self) -> dict[str, list[str]]:
        """Row -> the data sets on which it ran as configured beside rows that were tuned."""
        found: dict[str, list[str]] = {}
        for comparison in self.comparisons:
            for name in comparison.untuned:
                found.setdefault(name, []).append(comparison.name)
        return found

    @property
    def failures(self) -> list[str]:
        """`<data set>: <row>-seed<k>: why`, for every cell without a result."""
        return [f"{found.name}: {failure}" for found in self.comparisons for failure in found.failures]

    def to_dict(self) -> dict[str, Any]:
        """As results.json; each data set's own has the runs themselves."""
        found = [self.ranks(metric) for metric in self.metrics]
        return {
            "name": self.name,
            "plan": self.plan.model_dump(mode="json"),
            "data": [comparison.name for comparison in self.comparisons],
            "environment": {comparison.name: dict(comparison.environment) for comparison in self.comparisons},
            "references": {comparison.name: comparison.reference for comparison in self.comparisons},
            "rows": {comparison.name: _rows(comparison) for comparison in self.comparisons},
            "ranks": [asdict(ranks) for ranks in found if ranks],
            "gains": [asdict(gain) for gain in self.gains],
            "differences": [asdict(difference) for difference in self.differences],
            "tuned": {data: {row: t.to_dict() for row, t in rows.items()} for data, rows in self.tuned.items()},
            "untuned": self.untuned,
            "failures": self.failures,
        }


def _tested(comparison: Comparison) -> list[str]:
    """Its headline metrics, and those of the rest where labels are shown."""
    return [metric for share in shares(comparison) for metric in headline(comparison, share)]


def _rows(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Row -> headline metric -> its mean and spread over seeds."""
    metrics = _tested(comparison)
    return {
        row.name: {metric: asdict(spread) for metric in metrics if (spread := row.metric(metric)) is not None}
        for row in comparison.rows
    }


def _means(comparison: Comparison, metric: str) -> dict[str, float]:
    found = ((row.name, row.metric(metric)) for row in comparison.rows if row.learned)
    return {name: spread.mean for name, spread in found if spread is not None}


def compare_plan(
    plan: Plan,
    tables: Mapping[str, Sequence[PlannedRow]],
    *,
    folder: str | Path | None = None,
    seeds: int | None = None,
    processes: int = 1,
    together: bool = False,
    progress: CompareProgress | None = None,
    finished: bool = False,
) -> Suite:
    """Tune each row with a search space, run the best settings under fresh seeds, and put it all in tables.

    Called again it keeps finished trials and runs and goes on. The rows of a data set share one budget of tuning;
    selection sees validation alone. A data set whose folder has the results.json of another machine, and no runs, is
    taken as it is written there.

    Args:
        plan: of `load_plan`.
        tables: data set -> rows, of `load_plan`.
        folder: default comparisons/<name>.
        seeds: instead of the plan's.
        processes: runs at a time.
        together: as for `compare`; not of tuning.
        progress: listener.
        finished: nothing is trained: the tables are of the runs that are done.

    Raises:
        ConfigError: rows that cannot be compared fairly; nothing is finished; a results.json of other settings.
        MissingExtraError: something is to be tuned, and optuna is not installed.
    """
    folder = Path(folder) if folder is not None else Path("comparisons") / plan.name
    seeds = seeds or plan.seeds
    # All that can be told is told before anything runs.
    elsewhere = {}
    for data, rows in tables.items():
        experiments = [row.experiment for row in rows]
        check_fair(experiments, tuple(range(seeds)))
        check_same_documents(experiments)
        experiments = with_linear_line(experiments) if plan.linear else experiments
        names = [experiment.name for experiment in experiments]
        if plan.reference is not None and plan.reference not in names:
            raise ConfigError(
                f"{plan.name}: reference: on {data} no row is called {plan.reference!r}{nearest(plan.reference, names)}"
            )
        if not any(row.search for row in rows):
            elsewhere[data] = table_elsewhere(folder / data, experiments, range(seeds), plan.reference)
    if any(row.search for rows in tables.values() for row in rows):
        if finished:
            raise ConfigError("--finished: shows rows as they are configured, and some of these are to be tuned")
        require_optuna()
    comparisons, tuned = [], {}
    for data, rows in tables.items():
        here = folder / data
        if (found_there := elsewhere.get(data)) is not None:
            comparisons.append(found_there)
            continue
        found = {
            row.experiment.name: tune(
                row, plan.tuning, here / "tuning" / row.experiment.name, processes=processes, progress=progress
            )
            for row in rows
        }
        tuned[data] = {name: result for name, result in found.items() if result.trials}
        with contextlib.suppress(NothingFinishedError):
            comparisons.append(
                run_table(
                    [result.experiment for result in found.values()],
                    seeds=tuple(range(seeds)),
                    folder=here,
                    linear=plan.linear,
                    reference=plan.reference,
                    processes=processes,
                    together=together,
                    progress=progress,
                    failed={name: result.failure for name, result in found.items() if result.failure},
                    hashed=True,
                    notes=_notes(plan, tuned[data]),
                    tuned=tuple(tuned[data]),
                    finished=finished,
                )
            )
    if not comparisons:
        raise ConfigError(f"--finished: no run of {plan.name} is finished in {folder}")
    suite = Suite(plan.name, folder, tuple(comparisons), plan, tuned)
    write_suite(suite)
    return suite


def _notes(plan: Plan, tuned: Mapping[str, Tuned]) -> tuple[str, ...]:
    """How the settings of a table were found, for its caption."""
    if not tuned:
        return ()
    tuning = plan.tuning
    budget = f"{tuning.trials} trials" + (f" or {tuning.seconds:g} s of training" if tuning.seconds else "")
    runs = f" of {tuning.seeds} seeds" if tuning.seeds > 1 else ""
    lines = [
        f"Tuned on validation by {tuning.metric}, {budget}{runs} each, under other seeds than these: "
        f"{', '.join(tuned)}."
    ]
    for name, found in tuned.items():
        if found.best is not None:
            settings = ", ".join(f"{path} {_short(value)}" for path, value in found.trials[found.best].settings.items())
            lines.append(f"Selected for {name}: {settings}.")
    return tuple(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
