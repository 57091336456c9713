"""How far each row of a comparison is from a reference row, and whether that is more than chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from energynets.compare.paired import crossed, flip_signs, holm
from energynets.errors import ConfigError, nearest
from energynets.metrics import observed_name, smaller_is_better, split_name

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row

LEVEL = 0.05
# With fewer the variance over seeds is too poorly known for the test to keep its level.
MIN_SEEDS = 5
MARKS = {"better": "▲", "worse": "▼"}


@dataclass(frozen=True)
class Difference:
    """One row minus the reference, in one metric.

    Args:
        metric: name in results; of the rest, where labels are shown, its `metrics.observed_name`.
        row: name of the row.
        reference: name of the row it is compared with.
        mean: of the differences, a fraction.
        low: lower end of the 95 % interval, not corrected for the number of differences; None where nothing tells how
            the mean varies.
        high: upper end.
        p: of the paired test over `unit`; None with fewer than `MIN_SEEDS` seeds where a seed matters.
        p_holm: p after Holm's correction over all differences of the table.
        pairs: seeds that both rows have (a row that no seed changes pairs with all of the other's).
        unit: what the interval and p generalise to, beyond those seen: "seeds and documents"; "documents", of networks
            as trained under one seed or of rows that no seed changes; "seeds", where documents were not kept.
        documents: test documents paired, 0 where they were not kept.
        p_seeds: sign-flip permutation test over seeds alone; None with one seed.
        p_documents: the same over documents, averaged over seeds: of these networks, not of others trained alike.
        data: name of the data set.
        features: what both rows read x by, where they were chosen for that.
    """

    metric: str
    row: str
    reference: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    pairs: int
    unit: str
    documents: int = 0
    p_seeds: float | None = None
    p_documents: float | None = None
    data: str = ""
    features: str = ""

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where that is significant after Holm's correction, else ""."""
        if self.p_holm is None or self.p_holm >= LEVEL:
            return ""
        return "better" if self.mean > 0 else "worse"


def headline(comparison: Comparison, share: str = "") -> list[str]:
    """The metrics that are tested: P@k at the first and last k, nDCG and PSP at the last, f1_example.

    Where a share of the labels is shown: P@k and f1_example of the rest.
    """
    ks = [k for k in comparison.ks if any(row.metric(f"precision@{k}") for row in comparison.rows)]
    names = [f"precision@{ks[0]}", f"precision@{ks[-1]}", f"ndcg@{ks[-1]}", f"psp@{ks[-1]}"] if ks else []
    names = [*dict.fromkeys(names[:2] if share else names), "f1_example"]
    found = [observed_name(name, share) for name in names]
    return [name for name in found if any(row.metric(name) for row in comparison.rows)]


def shares(comparison: Comparison) -> tuple[str, ...]:
    """Shares of the labels shown, "" (none) first: differences are tested at each."""
    return ("", *comparison.observed)


def known(share: str) -> str:
    """What text says of a share."""
    return f"with {100 * float(share):g} % of the labels known"


def metric_title(name: str) -> str:
    """What tables and pages call a headline metric, whatever is shown."""
    head, _, k = split_name(name)[0].partition("@")
    return (
        {"precision": "P", "ndcg": "nDCG", "psp": "PSP"}[head] + f"@{k}" if k else {"f1_example": "F1"}.get(head, head)
    )


def full_title(metric: str) -> str:
    """The same with what is known."""
    share = split_name(metric)[1]
    return f"{metric_title(metric)} {known(share)}" if share else metric_title(metric)


def choose_reference(comparison: Comparison, name: str | None = None, share: str = "") -> str | None:
    """The row that others are compared with: the one of that name, else the best without an energy on validation.

    Best by `comparison.monitor`, of the rest where a share of the labels is shown. Where every learned row has an
    energy it is the best of them; None without any.

    Raises:
        ConfigError: no row of that name.
    """
    if name is not None:
        names = [row.name for row in comparison.rows]
        if name not in names:
            raise ConfigError(f"compare: no row is called {name!r} to be the reference{nearest(name, names)}")
        return name
    learned = [row for row in comparison.rows if row.learned]
    names = [observed_name(metric, share) for metric in (comparison.monitor, "f1_example")]
    best = best_on_validation((row for row in learned if not row.energy), *names) or best_on_validation(learned, *names)
    return best.name if best else None


def best_on_validation(rows: Iterable[Row], *metrics: str) -> Row | None:
    """Of the rows with results the best in the first of the metrics that was measured."""

    def value(row: Row) -> float:
        for metric in metrics:
            spread = row.metric(metric, "validation")
            if spread is not None:
                return -spread.mean if smaller_is_better(split_name(metric)[0]) else spread.mean
        return float("-inf")

    return max((row for row in rows if row.results), key=value, default=None)


def differences(comparisons: Sequence[Comparison]) -> tuple[Difference, ...]:
    """Every learned row against the reference of its table, in every headline metric, corrected over all of them."""
    return corrected([difference for comparison in comparisons for difference in comparison.differences])


def corrected(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same with Holm's correction over all of them that are tested."""
    tested = [place for place, each in enumerate(found) if each.p is not None]
    after = dict(zip(tested, holm([found[place].p for place in tested]), strict=True))  # type: ignore[misc]
    return tuple(dataclasses.replace(each, p_holm=after.get(place)) for place, each in enumerate(found))


def difference(comparison: Comparison, row: Row, reference: Row, metric: str) -> Difference | None:
    """One row minus another in one metric, not corrected; None where no seed is in both."""
    pairs = _pairs(row, reference, metric)
    if pairs is None:
        return None
    drawn = () if pairs.documents_N is None else flip_signs(pairs.documents_N[:, None])
    return _difference(comparison, pairs, iter(drawn))


@dataclass(frozen=True)
class _Pairs:
    """One row minus the reference in one metric: under each seed, and on each document averaged over seeds."""

    metric: str
    row: Row
    reference: Row
    seeds_S: np.ndarray
    documents_N: np.ndarray | None


def of_table(comparison: Comparison) -> list[Difference]:
    """Those of one table, not corrected, or as they were tested where its runs are."""
    if comparison.tested is not None:
        return list(comparison.tested.differences)
    pairs = [found for share in shares(comparison) for found in _pairs_at(comparison, share)]
    kept = [found.documents_N for found in pairs if found.documents_N is not None]
    # One pattern of signs for all tests of a table: they are over the same documents.
    drawn = iter(flip_signs(np.stack(kept, axis=1)) if kept else ())
    return [_difference(comparison, found, drawn) for found in pairs]


def _pairs_at(comparison: Comparison, share: str) -> list[_Pairs]:
    """Of a table's rows where a share of the labels is shown."""
    name = comparison.observed[share] if share else comparison.reference
    reference = next((row for row in comparison.rows if row.name == name), None)
    if reference is None:
        return []
    rows = [row for row in comparison.rows if row.learned and row is not reference]
    metrics = headline(comparison, share)
    return [found for row in rows for metric in metrics if (found := _pairs(row, reference, metric))]


def _difference(comparison: Comparison, pairs: _Pairs, drawn: Iterator[float]) -> Difference:
    documents_N, count = pairs.documents_N, len(pairs.seeds_S)
    estimate = crossed(pairs.seeds_S, documents_N)
    seeded = not (pairs.row.deterministic and pairs.reference.deterministic)
    unit = "documents" if count == 1 else "seeds" if documents_N is None else "seeds and documents"
    return Difference(
        metric=pairs.metric,
        row=pairs.row.name,
        reference=pairs.reference.name,
        mean=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=None if seeded and count < MIN_SEEDS else estimate.p,
        p_holm=None,
        pairs=count,
        unit=unit,
        documents=0 if documents_N is None else len(documents_N),
        p_seeds=float(flip_signs(pairs.seeds_S[:, None])[0]) if count > 1 else None,
        p_documents=None if documents_N is None else float(next(drawn)),
        data=str(comparison.data.get("name", "")),
    )


def _pairs(row: Row, reference: Row, metric: str) -> _Pairs | None:
    """None where no seed is in both rows."""
    ours, theirs = _by_seed(row), _by_seed(reference)
    if row.deterministic and ours:
        ours = dict.fromkeys(theirs, next(iter(ours.values())))
    elif reference.deterministic and theirs:
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    places = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    seeds: list[float] = []
    for one, other in places:
        our_value, their_value = row.value(one, metric), reference.value(other, metric)
        if our_value is None or their_value is None:
            return None
        seeds.append(our_value - their_value)
    if not seeds:
        return None
    return _Pairs(metric, row, reference, np.array(seeds), _mean_documents(row, reference, metric, places))


def _mean_documents(row: Row, reference: Row, metric: str, places: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """(N,) float64; None where the documents of a run were not kept."""
    total: np.ndarray | None = None
    for one, other in places:
        ours, theirs = row.document_values(one, metric), reference.document_values(other, metric)
        if ours is None or theirs is None or len(ours) != len(theirs):
            return None
        difference = ours.astype(np.float64) - theirs
        total = difference if total is None else total + difference
    return None if total is None else total / len(places)


def _by_seed(row: Row) -> dict[int, int]:
    """seed -> place in `row.results`."""
    return {result["seed"]: place for place, result in enumerate(row.results)}


def explain(comparison: Comparison) -> list[str]:
    """What a reader must know of the tests, a sentence each."""
    found = comparison.differences
    if not found:
        return []
    lines = []
    tested = [difference for difference in found if difference.p is not None]
    seeds = max(difference.pairs for difference in found)
    if tested:
        documents = max(difference.documents for difference in tested)
        over = [f"{seeds} seeds"] if seeds > 1 else []
        over += [f"{documents:,} test documents"] if documents else []
        lines.append(
            f"▲ is significantly better than {comparison.reference}, ▼ significantly worse: p < {LEVEL} "
            f"after Holm's correction over {len(tested)} differences, paired t test over {' and '.join(over)}."
        )
        titles: dict[str, dict[str, None]] = {}
        for difference in tested:
            titles.setdefault(split_name(difference.metric)[1], {})[metric_title(difference.metric)] = None
        told = [(f"{known(share)} " if share else "") + ", ".join(names) for share, names in titles.items()]
        lines.append(f"Tested: {'; '.join(told)}.")
    if len(tested) < len(found):
        least = f"; a permutation test over {seeds} seeds cannot go below p = {2 / 2**seeds:g}" if seeds > 1 else ""
        none = "Nothing is marked" if not tested else "Rows run under several seeds are not marked"
        lines.append(f"{none}: a test takes {MIN_SEEDS} seeds or more{least}.")
    return lines


def verdict(comparison: Comparison, row: Row, metric: str) -> str:
    """ "better", "worse" or "" of a row's metric against the reference."""
    for difference in comparison.differences:
        if difference.row == row.name and difference.metric == metric:
            return difference.verdict
    return ""
