"""Comparisons on several data sets as tables: each metric's means and mean ranks, and what the energy adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from energynets.compare.statistics import LEVEL, MARKS, MIN_SEEDS, full_title, known
from energynets.compare.table import UNTUNED, differences_markdown, gains_markdown, p_text
from energynets.metrics import split_name

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison
    from energynets.compare.ranks import Ranks
    from energynets.compare.suite import Suite


@dataclass(frozen=True)
class Entry:
    """A row's mean on one data set: its text, "better", "worse" or "", and whether the row is the reference there."""

    text: str
    verdict: str = ""
    reference: bool = False


@dataclass(frozen=True)
class MetricTable:
    """One metric on all data sets.

    Args:
        title: the metric, and what was known.
        rows: name -> an entry for each data set, in order.
        ranks: name -> mean rank, of the rows that every data set has.
        note: what the ranks say.
    """

    title: str
    rows: Mapping[str, tuple[Entry, ...]]
    ranks: Mapping[str, float]
    note: str


def metric_tables(suite: Suite) -> Iterator[MetricTable]:
    """A table for each tested metric that every data set has."""
    verdicts = {(d.data, d.row, d.metric): d.verdict for d in suite.differences}
    names = list(dict.fromkeys(row.name for found in suite.comparisons for row in found.rows if row.learned))
    for metric in suite.metrics:
        ranks = suite.ranks(metric)
        means = dict(zip(ranks.names, ranks.means, strict=True)) if ranks else {}
        yield MetricTable(
            full_title(metric),
            {name: tuple(_entry(found, name, metric, verdicts) for found in suite.comparisons) for name in names},
            means,
            _ranks_text(ranks, [name for name in names if name not in means]),
        )


def tested_text(suite: Suite) -> str:
    """What the marks of the tables mean."""
    tested = sum(difference.p is not None for difference in suite.differences)
    references = ", ".join(map(_references, suite.comparisons))
    return (
        f"▲ is significantly better than the reference of its data set ({references}), ▼ significantly worse: "
        f"p < {LEVEL} after Holm's correction over {tested} differences, all data sets together."
        if tested
        else f"Nothing is marked: a test takes {MIN_SEEDS} seeds or more."
    )


def untuned_text(suite: Suite) -> str:
    """Which rows were not tuned where others were, and on which data sets if not on all; nothing without any."""
    sets = len(suite.comparisons)
    rows = [name if len(on) == sets else f"{name} on {', '.join(on)}" for name, on in suite.untuned.items()]
    return f"{UNTUNED}: {'; '.join(rows)}." if rows else ""


def to_markdown(suite: Suite) -> str:
    """table.md over all data sets: each metric, what the energy adds, then every difference."""
    lines = [f"# {suite.name}\n"]
    for table in metric_tables(suite):
        lines += [
            f"## {table.title}\n",
            "| model | " + " | ".join(found.name for found in suite.comparisons) + " | mean rank |",
            "| :-- |" + " --: |" * (len(suite.comparisons) + 1),
        ]
        for name, entries in table.rows.items():
            rank = f"{table.ranks[name]:.2f}" if name in table.ranks else "-"
            lines.append(f"| {name} | " + " | ".join(map(_markdown, entries)) + f" | {rank} |")
        lines.append(f"\n{table.note}\n")
    lines.append(
        f"{tested_text(suite)}  \nMetrics on test, times 100, mean over seeds; spreads and costs are in each data "
        "set's own table."
    )
    if untuned := untuned_text(suite):
        lines.append(untuned)
    lines += [f"Failed: {failure}." for failure in suite.failures]
    text = "\n".join(lines) + "\n" + gains_markdown(suite.gains)
    for comparison in suite.comparisons:
        own = [difference for difference in suite.differences if difference.data == _data(comparison)]
        if own:
            title = f"## {comparison.name}: differences"
            text += differences_markdown(own).replace("## Differences", title)
    return text


def _data(comparison: Comparison) -> str:
    """As differences call it."""
    return str(comparison.data.get("name", ""))


def _references(comparison: Comparison) -> str:
    others = [f"{reference} {known(share)}" for share, reference in comparison.observed.items()]
    return f"{comparison.name} " + "; ".join([str(comparison.reference), *others])


def _entry(comparison: Comparison, name: str, metric: str, verdicts: Mapping[tuple[str, str, str], str]) -> Entry:
    row = next((row for row in comparison.rows if row.name == name), None)
    spread = row.metric(metric) if row else None
    if spread is None:
        return Entry("-")
    share = split_name(metric)[1]
    reference = comparison.observed.get(share) if share else comparison.reference
    verdict = verdicts.get((_data(comparison), name, metric), "")
    return Entry(f"{100 * spread.mean:.2f}", verdict, reference == name)


def _markdown(entry: Entry) -> str:
    better = entry.verdict == "better"
    text = f"**{entry.text}**" if better else entry.text
    return f"{text} {MARKS.get(entry.verdict, '')}".strip()


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
