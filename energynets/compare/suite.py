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
from energynets.compare.fairness import check_fair, check_same_documents
from energynets.compare.files import write_texts
from energynets.compare.gains import gains
from energynets.compare.plan import Plan, PlannedRow
from energynets.compare.ranks import Ranks, mean_ranks
from energynets.compare.statistics import MARKS, MIN_SEEDS, Difference, differences, headline, known, shares
from energynets.compare.table import differences_markdown, gains_markdown, p_text
from energynets.compare.tuning import Tuned, require_optuna, tune
from energynets.errors import ConfigError, nearest
from energynets.metrics import split_name


@dataclass(frozen=True)
class Suite:
    """Comparisons on several data sets.

    Args:
        name: of the comparison file.
        folder: where everything is: `<data set>/` for each, table.md and results.json over all.
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
            "references": {comparison.name: comparison.reference for comparison in self.comparisons},
            "rows": {comparison.name: _rows(comparison) for comparison in self.comparisons},
            "ranks": [asdict(ranks) for ranks in found if ranks],
            "gains": [asdict(gain) for gain in self.gains],
            "differences": [asdict(difference) for difference in self.differences],
            "tuned": {data: {row: t.to_dict() for row, t in rows.items()} for data, rows in self.tuned.items()},
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


def _data(comparison: Comparison) -> str:
    """As differences call it."""
    return str(comparison.data.get("name", ""))


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
    progress: CompareProgress | None = None,
    finished: bool = False,
) -> Suite:
    """Tune each row with a search space, run the best settings under fresh seeds, and put it all in tables.

    Called again it keeps finished trials and runs and goes on. The rows of a data set share one budget of tuning;
    selection sees validation alone.

    Args:
        plan: of `load_plan`.
        tables: data set -> rows, of `load_plan`.
        folder: default comparisons/<name>.
        seeds: instead of the plan's.
        processes: runs at a time.
        progress: listener.
        finished: nothing is trained: the tables are of the runs that are done.

    Raises:
        ConfigError: rows that cannot be compared fairly; nothing is finished.
        MissingExtraError: something is to be tuned, and optuna is not installed.
    """
    folder = Path(folder) if folder is not None else Path("comparisons") / plan.name
    seeds = seeds or plan.seeds
    # All that can be told is told before anything runs.
    for data, rows in tables.items():
        experiments = [row.experiment for row in rows]
        check_fair(experiments, tuple(range(seeds)))
        check_same_documents(experiments)
        names = [e.name for e in (with_linear_line(experiments) if plan.linear else experiments)]
        if plan.reference is not None and plan.reference not in names:
            raise ConfigError(
                f"{plan.name}: reference: on {data} no row is called {plan.reference!r}{nearest(plan.reference, names)}"
            )
    if any(row.search for rows in tables.values() for row in rows):
        if finished:
            raise ConfigError("--finished: shows rows as they are configured, and some of these are to be tuned")
        require_optuna()
    comparisons, tuned = [], {}
    for data, rows in tables.items():
        here = folder / data
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
                    progress=progress,
                    failed={name: result.failure for name, result in found.items() if result.failure},
                    hashed=True,
                    notes=_notes(plan, tuned[data]),
                    finished=finished,
                )
            )
    if not comparisons:
        raise ConfigError(f"--finished: no run of {plan.name} is finished in {folder}")
    suite = Suite(plan.name, folder, tuple(comparisons), plan, tuned)
    results = json.dumps(suite.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_texts(folder, {"table.md": to_markdown(suite), "results.json": results})
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
        f"{', '.join(tuned)}; the other rows are as configured."
    ]
    for name, found in tuned.items():
        if found.best is not None:
            settings = ", ".join(f"{path} {_short(value)}" for path, value in found.trials[found.best].settings.items())
            lines.append(f"Selected for {name}: {settings}.")
    return tuple(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def to_markdown(suite: Suite) -> str:
    """table.md over all data sets: each metric's means and mean ranks, then every difference."""
    lines = [f"# {suite.name}\n"]
    verdicts = {(d.data, d.row, d.metric): d.verdict for d in suite.differences}
    for metric in suite.metrics:
        ranks = suite.ranks(metric)
        means = dict(zip(ranks.names, ranks.means, strict=True)) if ranks else {}
        names = dict.fromkeys(row.name for found in suite.comparisons for row in found.rows if row.learned)
        title, share = split_name(metric)
        lines += [
            f"## {title} {known(share)}\n" if share else f"## {title}\n",
            "| model | " + " | ".join(found.name for found in suite.comparisons) + " | mean rank |",
            "| :-- |" + " --: |" * (len(suite.comparisons) + 1),
        ]
        for name in names:
            cells = [_cell(found, name, metric, verdicts) for found in suite.comparisons]
            rank = f"{means[name]:.2f}" if name in means else "-"
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {rank} |")
        lines.append("\n" + _ranks_text(ranks, [name for name in names if name not in means]) + "\n")
    tested = sum(difference.p is not None for difference in suite.differences)
    references = ", ".join(map(_references, suite.comparisons))
    marks = (
        f"▲ is significantly better than the reference of its data set ({references}), ▼ significantly worse: "
        f"p < 0.05 after Holm's correction over {tested} differences, all data sets together."
        if tested
        else f"Nothing is marked: a test takes {MIN_SEEDS} seeds or more."
    )
    lines.append(
        f"{marks}  \nMetrics on test, times 100, mean over seeds; spreads and costs are in each data set's own table."
    )
    lines += [f"Failed: {failure}." for failure in suite.failures]
    text = "\n".join(lines) + "\n" + gains_markdown(suite.gains)
    for comparison in suite.comparisons:
        own = [difference for difference in suite.differences if difference.data == _data(comparison)]
        if own:
            title = f"## {comparison.name}: differences"
            text += differences_markdown(own).replace("## Differences", title)
    return text


def _references(comparison: Comparison) -> str:
    others = [f"{reference} {known(share)}" for share, reference in comparison.observed.items()]
    return f"{comparison.name} " + "; ".join([str(comparison.reference), *others])


def _cell(comparison: Comparison, name: str, metric: str, verdicts: Mapping[tuple[str, str, str], str]) -> str:
    row = next((row for row in comparison.rows if row.name == name), None)
    spread = row.metric(metric) if row else None
    if spread is None:
        return "-"
    verdict = verdicts.get((_data(comparison), name, metric), "")
    mean = f"{100 * spread.mean:.2f}"
    return f"**{mean}** {MARKS['better']}" if verdict == "better" else f"{mean} {MARKS.get(verdict, '')}".strip()


def _ranks_text(ranks: Ranks | None, left_out: Sequence[str]) -> str:
    if ranks is None:
        return "No row has a result on every data set."
    if ranks.p is None or ranks.critical is None:
        text = f"Ranks over {ranks.sets} data set{'s' * (ranks.sets > 1)} and {len(ranks.names)} rows are not tested."
    else:
        text = (
            f"Mean ranks over {ranks.sets} data sets: all alike with p = {p_text(ranks.p)} (Friedman); two rows differ "
            f"where their mean ranks are more than {ranks.critical:.2f} apart (Nemenyi)."
        )
    # Ranks among other rows on each set would not be alike: these are among the rows that every set has.
    return text + (f" Not ranked, without a result on some data set: {', '.join(left_out)}." if left_out else "")
