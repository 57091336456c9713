"""The best energy against the best classifier on its features: which rows they are, and what is claimed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison, seeded, with_rest

from energynets.compare.comparison import Comparison, Row
from energynets.compare.gains import gains
from energynets.compare.paired import holm
from energynets.compare.table import gains_markdown

WORDS, CNN = '{"kind":"bag_of_words"}', '{"kind":"kim_cnn"}'
WIDE = '{"kind":"bag_of_words","hidden":[1024]}'


def row(
    name: str, lift: float, *, features: str = WORDS, seeds: int = 10, energy: bool | None = None, **validation: float
) -> Row:
    """Its metrics on validation are as on test, but for those given (`precision_1` for precision@1)."""
    found = dataclasses.replace(seeded(name, lift, seeds=seeds), features=features)
    found = found if energy is None else dataclasses.replace(found, energy=energy)
    given = {metric.replace("_1", "@1"): value for metric, value in validation.items()}
    results = tuple(
        {**each, "metrics": {**each["metrics"], "validation": {**each["metrics"]["validation"], **given}}}
        for each in found.results
    )
    return dataclasses.replace(found, results=results)


def table(folder: Path, *rows: Row) -> Comparison:
    return dataclasses.replace(comparison(folder), rows=rows, reference=rows[0].name)


def test_each_metric_has_the_rows_best_in_it_on_validation_among_those_with_the_same_features(tmp_path: Path) -> None:
    found = table(
        tmp_path,
        row("line", 0.3, features=""),
        row("cnn", 0.2, features=CNN),
        row("bce", 0.0),
        row("softmax", -0.05, f1_example=0.9),
        row("spen", 0.05, precision_1=0.9),
        row("icnn", 0.1),
    )
    each = {difference.metric: difference for difference in gains([found])}
    assert {metric: (found.row, found.reference) for metric, found in each.items()} == {
        "precision@1": ("spen", "bce"),
        "precision@5": ("icnn", "bce"),
        "ndcg@5": ("icnn", "bce"),
        "psp@5": ("icnn", "bce"),
        "f1_example": ("icnn", "softmax"),
    }
    assert {found.features for found in each.values()} == {"bag of words"}
    assert each["f1_example"].mean == pytest.approx(0.15, abs=0.03)
    assert each["f1_example"].verdict == "better"


def test_features_of_each_kind_have_gains_of_their_own(tmp_path: Path) -> None:
    rows = (
        row("bce", 0.0),
        row("spen", 0.05),
        row("cnn", 0.3, features=CNN),
        row("cnn-spen", 0.2, features=CNN, energy=True),
        row("wide", 0.1, features=WIDE),
        row("wide-icnn", 0.1, features=WIDE, energy=True),
        row("other", 0.1, features='{"kind":"xml_cnn"}'),
    )
    found = [each for each in gains([table(tmp_path, *rows)]) if each.metric == "f1_example"]
    assert [(each.features, each.row, each.reference) for each in found] == [
        ("bag of words 1", "spen", "bce"),
        ("kim cnn", "cnn-spen", "cnn"),
        ("bag of words 2", "wide-icnn", "wide"),
    ]
    text = gains_markdown(found)
    assert "| kim cnn | F1 | cnn-spen | cnn | -" in text


def test_holm_is_over_all_gains_together(tmp_path: Path) -> None:
    one = table(tmp_path, row("bce", 0.0), row("spen", 0.02))
    other = table(tmp_path, row("bce", 0.0), row("icnn", -0.08))
    other = dataclasses.replace(other, data={**other.data, "name": "other"})
    found = gains([one, other])
    assert [each.p_holm for each in found] == pytest.approx(holm([each.p for each in found]))  # type: ignore[misc]
    text = gains_markdown(found)
    assert "worse in some on 1 of 2 data sets" in text
    assert "correction over 10 differences" in text
    assert any(
        line.startswith("| other | bag of words | F1 | icnn | bce | -") and "▼" in line for line in text.splitlines()
    )


def test_what_is_known_has_gains_of_its_own(tmp_path: Path) -> None:
    rows = table(tmp_path, row("blind", 0.1), row("observes", 0.0), row("spen", 0.05))
    found = gains([with_rest(rows, {"blind": 0.0, "observes": 0.2, "spen": 0.3})])
    rest = {each.metric: each.reference for each in found if each.metric.startswith("observed")}
    assert rest == {f"observed/0.5/{name}": "observes" for name in ("precision@1", "precision@5", "f1_example")}
    assert {each.reference for each in found if not each.metric.startswith("observed")} == {"blind"}
    assert "| bag of words | F1 with 50 % of the labels known | spen | observes |" in gains_markdown(found)


def test_few_seeds_claim_nothing(tmp_path: Path) -> None:
    found = gains([table(tmp_path, row("bce", 0.0, seeds=3), row("spen", 0.1, seeds=3))])
    assert {(each.p, each.verdict) for each in found} == {(None, "")}


@pytest.mark.parametrize(
    "rows",
    [
        (row("bce", 0.0),),
        (row("spen", 0.0),),
        (row("cnn", 0.0, features=CNN), row("spen", 0.0)),
        (row("bce", 0.0, features=""), row("spen", 0.0, features="")),
    ],
)
def test_nothing_without_both(tmp_path: Path, rows: tuple[Row, ...]) -> None:
    assert gains([table(tmp_path, *rows)]) == ()
    assert gains_markdown(()) == ""
