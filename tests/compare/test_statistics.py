"""Differences of a comparison: what is paired with what, against which row, and what a table may claim."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison, result, seeded, with_verdicts

from energynets.compare.comparison import Comparison, Row
from energynets.compare.paired import holm
from energynets.compare.statistics import choose_reference, differences, explain, headline
from energynets.errors import ConfigError


def of(found: Comparison, row: str, metric: str = "f1_example"):
    return next(d for d in found.differences if (d.row, d.metric) == (row, metric))


def with_rows(folder: Path, *rows: Row, reference: str) -> Comparison:
    return dataclasses.replace(comparison(folder), rows=rows, reference=reference)


def test_pairs_are_of_one_seed_and_one_document(tmp_path: Path) -> None:
    ours, theirs = seeded("a", 0.0), seeded("b", 0.0)
    shuffled = dataclasses.replace(ours, results=ours.results[::-1], documents=ours.documents[::-1])
    found = of(with_rows(tmp_path, shuffled, theirs, reference="b"), "a")
    seeds = np.array([ours.value(s, "f1_example") - theirs.value(s, "f1_example") for s in range(10)])  # type: ignore[operator]
    documents = np.mean([x["f1_example"] for x in ours.documents], 0) - np.mean(
        [x["f1_example"] for x in theirs.documents], 0
    )
    assert found.mean == pytest.approx(seeds.mean())
    assert found.mean == pytest.approx(documents.mean(), abs=1e-6)
    expected = np.hypot(stats.sem(seeds), stats.sem(documents))
    assert found.low is not None
    assert (found.mean - found.low) / expected == pytest.approx(2.0, abs=0.3)
    assert found.p_seeds == pytest.approx(
        stats.permutation_test((seeds,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    )
    assert (found.pairs, found.documents, found.unit) == (10, 400, "seeds and documents")


def test_only_seeds_of_both_are_paired(tmp_path: Path) -> None:
    ours, theirs = seeded("a", 0.0), seeded("b", 0.0)
    late = dataclasses.replace(theirs, results=theirs.results[4:], documents=theirs.documents[4:])
    assert of(with_rows(tmp_path, ours, late, reference="b"), "a").pairs == 6
    none = dataclasses.replace(theirs, results=(), documents=(), failures={0: "x"})
    assert with_rows(tmp_path, ours, none, reference="b").differences == ()


def test_a_row_that_no_seed_changes_pairs_with_every_seed(tmp_path: Path) -> None:
    line, net = seeded("line", 0.0, kind="linear"), seeded("net", 0.05)
    forwards, backwards = (with_rows(tmp_path, line, net, reference=name) for name in ("line", "net"))
    assert of(forwards, "net").pairs == of(backwards, "line").pairs == 10
    assert of(forwards, "net").mean == pytest.approx(-of(backwards, "line").mean)
    assert of(forwards, "net").p == of(backwards, "line").p


def test_two_rows_that_no_seed_changes_are_tested_over_documents(tmp_path: Path) -> None:
    line, near = seeded("line", 0.0, kind="linear"), seeded("near", 0.05, kind="neighbours")
    found = of(with_rows(tmp_path, line, near, reference="line"), "near")
    assert (found.pairs, found.unit, found.verdict) == (1, "documents", "better")
    expected = stats.ttest_rel(near.documents[0]["f1_example"], line.documents[0]["f1_example"]).pvalue
    assert found.p == pytest.approx(expected, rel=1e-3)
    assert "paired t test over 400 test documents" in explain(with_rows(tmp_path, line, near, reference="line"))[0]


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_claim_nothing(tmp_path: Path, seeds: int) -> None:
    found = with_verdicts(tmp_path, seeds)
    assert all(d.p is None and d.p_holm is None and d.verdict == "" for d in found.differences)
    assert all(d.low is not None for d in found.differences), "an interval there is"
    assert {d.unit for d in found.differences} == {"documents" if seeds == 1 else "seeds and documents"}
    assert "Nothing is marked" in explain(found)[0]


def test_holm_is_over_the_table_and_over_several(tmp_path: Path) -> None:
    one = with_verdicts(tmp_path)
    assert [d.p_holm for d in one.differences] == pytest.approx(holm([d.p for d in one.differences]))
    both = differences([one, one])
    assert len(both) == 2 * len(one.differences)
    assert min(d.p_holm for d in both) == pytest.approx(2 * min(d.p_holm for d in one.differences))  # type: ignore[operator, type-var]
    assert {d.verdict for d in one.differences if d.row == "spen"} == {"better"}
    assert {d.verdict for d in one.differences if d.row == "icnn"} == {"worse"}
    assert {d.verdict for d in one.differences if d.row == "twin"} == {""}


def test_without_documents_seeds_are_tested_alone(tmp_path: Path) -> None:
    found = with_verdicts(tmp_path)
    old = dataclasses.replace(found, rows=tuple(dataclasses.replace(row, documents=()) for row in found.rows))
    difference = of(old, "spen")
    assert (difference.unit, difference.documents, difference.p_documents) == ("seeds", 0, None)
    line = found.rows[0].value(0, "f1_example")
    values = [r["metrics"]["test"]["f1_example"] - line for r in found.rows[1].results]
    assert difference.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_floor_and_ceiling_are_not_tested(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    assert {d.row for d in found.differences} == {"spen"}
    assert headline(found) == ["precision@1", "precision@5", "ndcg@5", "psp@5", "f1_example"]


def test_reference_is_the_best_without_an_energy_on_validation(tmp_path: Path) -> None:
    def row(name: str, validation: float, test: float, *, energy: bool = False) -> Row:
        metrics = {"validation": {"f1_example": validation}, "test": {"f1_example": test}}
        return Row(name, "xml_cnn", (result(name, metrics=metrics),), energy=energy)

    rows = [row("cnn", 0.5, 0.5), row("mlp", 0.6, 0.3), row("spen", 0.9, 0.9, energy=True)]
    found = dataclasses.replace(comparison(tmp_path), rows=tuple(rows))
    assert choose_reference(found) == "mlp", "test metrics are not looked at"
    assert choose_reference(found, "cnn") == "cnn"
    assert choose_reference(dataclasses.replace(found, rows=tuple(rows[2:]))) == "spen"
    assert choose_reference(dataclasses.replace(found, rows=())) is None
    with pytest.raises(ConfigError, match=r"'cmn' to be the reference \(did you mean 'cnn'"):
        choose_reference(found, "cmn")
