"""A comparison as a table: of the terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from energynets.compare.comparison import Comparison, Row, Spread
from energynets.compare.statistics import (
    LEVEL,
    MARKS,
    Difference,
    explain,
    full_title,
    headline,
    known,
    metric_title,
    verdict,
)
from energynets.metrics import DECODERS, observed_name, split_name

if TYPE_CHECKING:
    from collections.abc import Sequence

UNTUNED = "Not tuned, where other rows were (losing to those may be the lack of a search)"


@dataclass(frozen=True)
class Column:
    """One quantity of the table.

    Args:
        title: over the column.
        key: in CSV and results.
        read: row -> spread.
        scale: what values are multiplied by.
        digits: after the point.
        higher: whether more is better, less is, or neither (None).
        terminal: how early the terminal's table keeps it (0 always); None leaves it to the files.
    """

    title: str
    key: str
    read: Callable[[Row], Spread | None]
    scale: float = 1.0
    digits: int = 2
    higher: bool | None = True
    terminal: int | None = None

    def text(self, row: Row, *, spread: bool = True) -> str:
        """`mean ± std`, `mean` where there is one value, `-` where there is none."""
        value = self.read(row)
        if value is None:
            return "-"
        mean = f"{self.scale * value.mean:,.{self.digits}f}"
        if not spread or self.cost:
            return mean
        return mean if value.std is None else f"{mean} ± {self.scale * value.std:.{self.digits}f}"

    @property
    def cost(self) -> bool:
        """Not a quality: seconds, bytes, counts."""
        return self.higher is None


def _metric(title: str, name: str, terminal: int | None = None) -> Column:
    return Column(title, name, lambda row: row.metric(name), scale=100, terminal=terminal)


def columns(comparison: Comparison) -> list[Column]:
    """The table's columns: 100x metrics on test, then what they cost."""
    ks = comparison.ks
    used = [k for k in ks if any(row.metric(f"precision@{k}") for row in comparison.rows)] or list(ks)
    last = used[-1]
    shown = [_metric(f"P@{k}", f"precision@{k}", 0 if k == used[0] else 1 if k == last else 4) for k in used]
    shown += [_metric(f"nDCG@{k}", f"ndcg@{k}", 2 if k == last else None) for k in used if k > 1]
    shown += [_metric(f"PSP@{k}", f"psp@{k}", 3 if k == last else None) for k in used]
    shown += [_metric("F1", "f1_example", 0), _metric("F1 at 0.5", "f1_example_at_0.5", 1)]
    shown += [_metric("micro F1", "f1_micro"), _metric("macro F1", "f1_macro")]

    def quantity(title: str, key: str, scale: float, digits: int, terminal: int) -> Column:
        return Column(title, key, lambda row: row.quantity(key), scale, digits, higher=None, terminal=terminal)

    shown.append(quantity("train s", "train_seconds", 1, 1, 1))
    shown.append(quantity("ms/doc", "inference_ms_per_document", 1, 3, 2))
    shown.append(quantity("weights", "parameters", 1, 0, 2))
    shown.append(quantity("peak MiB", "peak_memory_bytes", 1 / 2**20, 0, 3))
    return shown


def label(row: Row) -> str:
    """The row's name, and how many of its seeds have failed."""
    if not row.failures:
        return row.name
    runs = len(row.results) + len(row.failures)
    return f"{row.name} (failed)" if not row.results else f"{row.name} ({len(row.results)} of {runs} seeds)"


def mark(comparison: Comparison, column: Column, row: Row) -> str:
    """`▲` where the row is significantly better than the reference, `▼` where worse, else nothing."""
    return MARKS.get(verdict(comparison, row, column.key), "")


def caption(comparison: Comparison) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    data = comparison.data
    sizes = ", ".join(f"{count:,} {split}" for split, count in data.get("sizes", {}).items())
    seeds = ", ".join(map(str, comparison.seeds))
    lines = []
    if data:
        lines.append(f"Data: {data['name']}, {sizes}, {data['labels']:,} labels; sha256 {data['sha256'][:12]}.")
    spread = "mean ± sample standard deviation over" if len(comparison.seeds) > 1 else "of"
    lines.append(f"Metrics on test, times 100, {spread} seed{'s' * (len(comparison.seeds) > 1)} {seeds}.")
    if comparison.untested:
        # Thresholds and epochs were chosen on validation: its metrics would pass for more than they are.
        lines.append("There is no test split, so none is shown; metrics on validation are in results.json.")
    once = [row.name for row in comparison.rows if row.deterministic and row.results]
    if once and len(comparison.seeds) > 1:
        lines.append(f"Run once, as no seed changes them: {', '.join(once)}.")
    lines.append(f"F1 is f1_example under {DECODERS[comparison.decoding].words}; beside it the same at 0.5.")
    if any(row.kind == "bayes_optimal" for row in comparison.rows):
        lines.append("Bayes-optimal is the exact posterior of the planted data: what no model beats on average.")
    lines += comparison.notes
    if comparison.untuned:
        lines.append(f"{UNTUNED}: {', '.join(comparison.untuned)}.")
    lines += explain(comparison)
    if at_once := comparison.together:
        lines.append(
            f"Seeds that trained at once, seconds a share of theirs, memory that of all: {', '.join(at_once)}."
        )
    if comparison.processes > 1:
        lines.append(
            f"Up to {comparison.processes} runs shared the machine: seconds are not to be compared with others."
        )
    lines += [f"Failed: {failure}." for failure in comparison.failures]
    return lines


def rest_tables(comparison: Comparison) -> Iterator[tuple[str, list[Column], list[str]]]:
    """Each share of the labels shown, and of the table of the rest its columns and its caption."""
    for share in comparison.observed:
        shown = [_metric(metric_title(name), name, 0) for name in headline(comparison, share)]
        if shown:
            yield share, shown, _rest_caption(comparison, share)


def _rest_caption(comparison: Comparison, share: str) -> list[str]:
    drawn, means = "", ""
    if comparison.draws > 1:
        drawn, means = f", drawn {comparison.draws} times", " and means over the draws"
    lines = [
        f"Of each test document {100 * float(share):g} % of the labels, true and false ones, are known{drawn}, the "
        f"same for every row. Metrics are of the others{means}, times 100, at a threshold chosen on the others of "
        "validation."
    ]
    blind = [row.name for row in comparison.rows if row.blind]
    if blind:
        lines.append(f"Blind to what is known: {', '.join(blind)}.")
    if any(row.kind == "bayes_optimal" for row in comparison.rows):
        lines.append("Bayes-optimal is of x alone, and no bound on rows that are not blind.")
    left = [spread for row in comparison.rows if (spread := row.metric(observed_name("with_labels", share)))]
    if left:
        lines.append(
            f"{100 * left[0].mean:.2f} % of the documents have a label left to find: no P@1 or F1 can be above that."
        )
    own = [difference for difference in comparison.differences if split_name(difference.metric)[1] == share]
    if any(difference.p is not None for difference in own):
        lines.append(f"▲ and ▼ are against {comparison.observed[share]}, corrected together with the table above.")
    return lines


# --------------------------------------------------------------------------------------------------------- forms


def to_markdown(comparison: Comparison) -> str:
    """table.md."""
    text = f"# {comparison.name}\n\n" + _markdown_table(comparison, columns(comparison), caption(comparison))
    for share, shown, said in rest_tables(comparison):
        text += f"\n## {known(share).capitalize()}\n\n" + _markdown_table(comparison, shown, said)
    return text + differences_markdown(comparison.differences)


def _markdown_table(comparison: Comparison, shown: Sequence[Column], said: Sequence[str]) -> str:
    lines = [
        "| model | " + " | ".join(column.title for column in shown) + " |",
        "| :-- |" + " --: |" * len(shown),
    ]
    for row in comparison.rows:
        lines.append(f"| {label(row)} | " + " | ".join(_markdown(comparison, c, row) for c in shown) + " |")
    return "\n".join(lines) + "\n\n" + "\n".join(f"{line}  " for line in said) + "\n"


def _markdown(comparison: Comparison, column: Column, row: Row) -> str:
    text, sign = column.text(row), mark(comparison, column, row)
    return f"**{text}** {sign}" if sign == MARKS["better"] else f"{text} {sign}".strip()


def differences_markdown(found: Sequence[Difference]) -> str:
    """Every difference of a table, its interval, and p of each test; nothing where there is none."""
    if not found:
        return ""
    lines: list[str] = []
    for share, own in itertools.groupby(found, key=lambda difference: split_name(difference.metric)[1]):
        first, *others = own
        lines += [
            f"\n## Differences from {first.reference}{f', {known(share)}' if share else ''}\n",
            "| model | metric | difference | 95 % interval | p (Holm) | p | p, seeds flipped | p, documents flipped |",
            "| :-- | :-- |" + " --: |" * 6,
        ]
        for difference in (first, *others):
            mean, interval = _mean_text(difference), _interval(difference)
            ps = (difference.p_holm, difference.p, difference.p_seeds, difference.p_documents)
            shown = " | ".join(map(p_text, ps))
            lines.append(f"| {difference.row} | {split_name(difference.metric)[0]} | {mean} | {interval} | {shown} |")
    units = " or of ".join(dict.fromkeys(difference.unit for difference in found))
    lines.append(f"\nDifferences times 100. Intervals are of {units}, and not corrected for their number.")
    return "\n".join(lines) + "\n"


def gains_markdown(found: Sequence[Difference]) -> str:
    """The best energy minus the best classifier on each features of each data set; nothing where there is none."""
    if not found:
        return ""
    lines = [
        "\n## What the energy adds\n",
        "| data | features | metric | energy | classifier | difference | 95 % interval | p (Holm) |",
        "| :-- | :-- | :-- | :-- | :-- |" + " --: |" * 3,
    ]
    for each in found:
        named = (each.data, each.features or "-", full_title(each.metric), each.row, each.reference)
        cells = (*named, _mean_text(each), _interval(each), p_text(each.p_holm))
        lines.append(f"| {' | '.join(cells)} |")
    places = [(each.data, split_name(each.metric)[1], each.verdict) for each in found]
    sets = {place[:2] for place in places}
    better, worse = ({place[:2] for place in places if place[2] == verdict} for verdict in ("better", "worse"))
    tested = sum(each.p is not None for each in found)
    lines.append(
        f"\nThe energy is significantly better in some metric on {len(better)}, worse in some on {len(worse)} of "
        f"{len(sets)} data sets (a share of known labels is one of its own): p < {LEVEL} after Holm's correction over "
        f"{tested} differences. On each kind of features energy and classifier are, in each metric, those best in it "
        "on validation, the classifier with any loss. Differences on test, times 100."
    )
    return "\n".join(lines) + "\n"


def _interval(found: Difference) -> str:
    if found.low is None or found.high is None:
        return "-"
    return f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"


def _mean_text(found: Difference) -> str:
    return f"{100 * found.mean:+.2f} {MARKS.get(found.verdict, '')}".strip()


def p_text(p: float | None) -> str:
    """Two digits that count; `-` where there is no test."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.995 else "1"


def to_csv(comparison: Comparison) -> str:
    """table.csv: for each quantity its mean and its sample standard deviation, unrounded, metrics as fractions."""
    shown = [*columns(comparison), *(column for _, own, _ in rest_tables(comparison) for column in own)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["model", "kind", "seeds"]
    for column in shown:
        header += [column.key] if column.cost else [column.key, f"{column.key}_std"]
    writer.writerow([*header, "failures"])
    for row in comparison.rows:
        cells: list[object] = [row.name, row.kind, len(row.results)]
        for column in shown:
            value = column.read(row)
            cells.append("" if value is None else repr(value.mean))
            if not column.cost:
                cells.append("" if value is None or value.std is None else repr(value.std))
        writer.writerow([*cells, "; ".join(row.failures.values())])
    return out.getvalue()


def print_table(comparison: Comparison, console: Console) -> None:
    """The terminal's tables: as many columns as its width holds, and what a reader must know below them."""
    _print(comparison, columns(comparison), caption(comparison), console)
    for share, shown, said in rest_tables(comparison):
        console.print(f"\n{known(share).capitalize()}", highlight=False)
        _print(comparison, shown, said, console)


def _print(comparison: Comparison, wanted: Sequence[Column], said: Sequence[str], console: Console) -> None:
    shown = [column for column in wanted if column.terminal is not None]
    while len(shown) > 3 and _width(comparison, shown) > console.width:
        shown.remove(max(reversed(shown), key=lambda column: column.terminal or 0))
    table = Table(box=SIMPLE_HEAD, header_style="", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True)
    for number, row in enumerate(comparison.rows):
        following = comparison.rows[number + 1 : number + 2]
        ends = row.kind == "label_frequency" or any(next_row.kind == "bayes_optimal" for next_row in following)
        table.add_row(label(row), *(_cell(comparison, column, row) for column in shown), end_section=ends)
    console.print(table)
    for line in said:
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _cell(comparison: Comparison, column: Column, row: Row) -> Text:
    """The cell's text and mark; bold where the row is better."""
    sign, text = mark(comparison, column, row), _aligned(comparison, column, row)
    if _marked(comparison, column):
        text += f" {sign or ' '}"
    return Text(text, style="bold" if sign == MARKS["better"] else "")


def _marked(comparison: Comparison, column: Column) -> bool:
    return any(mark(comparison, column, row) for row in comparison.rows)


def _aligned(comparison: Comparison, column: Column, row: Row) -> str:
    """The cell's text, a value without spread above the means of those with one."""
    text = column.text(row)
    spreads = [found.partition(" ± ")[2] for found in map(column.text, comparison.rows)]
    longest = max(map(len, spreads))
    return text if " ± " in text or not longest else text + " " * (3 + longest)


def _width(comparison: Comparison, shown: Sequence[Column]) -> int:
    widths = [max(len(label(row)) for row in comparison.rows)]
    for column in shown:
        longest = max(len(_aligned(comparison, column, row)) for row in comparison.rows)
        widths.append(max(len(column.title), longest + 2 * _marked(comparison, column)))
    return sum(widths) + 3 * len(widths)
