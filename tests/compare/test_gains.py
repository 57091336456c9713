"""The best energy against the best classifier on its features: which rows they are, and what is claimed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison, result, seeded, with_rest

from energynets.compare.comparison import Comparison, Row
from energynets.compare.gains import gains
from energynets.compare.paired import holm
from energynets.compare.table import gains_markdown

WORDS, CNN = '{"kind":"bag_of_words"}', '{"kind":"kim_cnn"}'


def row(name: str, lift: float, *, features: str = WORDS, validation: float | None = None, seeds: int = 10) -> Row:
    """`validation` None: as on test."""
    found = dataclasses.replace(seeded(name, lift, seeds=seeds), features=features)
    if validation is None:
        return found
    own = result(name, value=validation)["metrics"]["validation"]
    results = tuple({**each, "metrics": {**each["metrics"], "validation": own}} for each in found.results)
    return dataclasses.replace(found, results=results)


def table(folder: Path, *rows: Row) -> Comparison:
    return dataclasses.replace(comparison(folder), rows=rows, reference=rows[0].name)


def test_both_are_chosen_on_validation_among_rows_with_the_same_features(tmp_path: Path) -> None:
    found = table(
        tmp_path,
        row("line", 0.3, features=""),
        row("cnn", 0.2, features=CNN, validation=0.9),
        row("bce", 0.0, validation=0.5),
        row("softmax", -0.05, validation=0.6),
        row("spen", 0.05, validation=0.7),
        row("icnn", 0.1, validation=0.6),
    )
    (gain,) = gains([found])
    assert (gain.data, gain.share, gain.energy, gain.classifier) == ("planted", "", "spen", "softmax")
    assert [each.metric for each in gain.differences] == ["precision@1", "precision@5", "ndcg@5", "psp@5", "f1_example"]
    assert gain.has("better")
    assert not gain.has("worse")
    assert gain.differences[0].mean == pytest.approx(0.1, abs=0.02)


def test_holm_is_over_all_gains_together(tmp_path: Path) -> None:
    one = table(tmp_path, row("bce", 0.0), row("spen", 0.02))
    other = table(tmp_path, row("bce", 0.0), row("icnn", -0.08))
    found = gains([one, other])
    each = [difference for gain in found for difference in gain.differences]
    assert [difference.p_holm for difference in each] == pytest.approx(holm([d.p for d in each]))  # type: ignore[misc]
    assert found[1].has("worse")
    text = gains_markdown(found)
    assert "worse on 1 of 2 data sets" in text
    assert "over 10 of these differences" in text
    assert any(line.startswith("| planted | icnn | bce | 10 | -") and "▼" in line for line in text.splitlines())


def test_what_is_known_has_a_gain_of_its_own(tmp_path: Path) -> None:
    rows = table(tmp_path, row("blind", 0.0), row("observes", 0.0), row("spen", 0.05))
    found = gains([with_rest(rows, {"blind": 0.0, "observes": 0.2, "spen": 0.3})])
    assert [(gain.share, gain.classifier) for gain in found][1] == ("0.5", "observes")
    assert {each.metric for each in found[1].differences} == {
        "observed/0.5/precision@1",
        "observed/0.5/precision@5",
        "observed/0.5/f1_example",
    }
    assert "minus the best classifier, with 50 % of the labels known" in gains_markdown(found)


def test_few_seeds_claim_nothing(tmp_path: Path) -> None:
    (gain,) = gains([table(tmp_path, row("bce", 0.0, seeds=3), row("spen", 0.1, seeds=3))])
    assert not gain.has("better")
    assert {each.p for each in gain.differences} == {None}


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
