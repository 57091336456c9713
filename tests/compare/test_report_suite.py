"""report.html over several data sets: what it says, and that nothing is said without a test."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import suite_of, with_verdicts

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from energynets.compare.files import write_suite
from energynets.compare.report.suite import CONTENTS, to_html
from energynets.compare.suite import Suite


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return to_html(suite_of(tmp_path_factory.mktemp("suite"), "one", "two"))


def test_every_section_is_there_and_in_the_contents(html: str) -> None:
    for name, title in CONTENTS:
        assert f'<section id="{name}">' in html
        assert f'<a href="#{name}">{title}</a>' in html


def test_what_the_energy_adds_comes_first(html: str) -> None:
    findings = html[: html.index("<nav")]
    found = (
        "On one the best energy over bag of words features is significantly better than the best classifier in P@1 (+"
    )
    assert found in findings
    assert findings.count('class="better"') == 2, "a line for each data set"
    assert 'class="worse"' not in findings
    cells = "".join(rf'<td class="words">({what})</td>' for what in ("bag of words", r"\S+", r"\w+"))
    rows = re.findall(rf"<tr><td>(\w+)</td>{cells}", html)
    assert {(row[0], row[3]) for row in rows} == {("one", "spen"), ("two", "spen")}
    assert {row[2] for row in rows} == {"P@1", "P@5", "nDCG@5", "PSP@5", "F1"}


def test_each_data_set_has_its_page_and_each_metric_its_table(html: str) -> None:
    assert [f'href="{name}/report.html"' in html for name in ("one", "two", "three")] == [True, True, False]
    for title in ("P@1", "P@5", "nDCG@5", "PSP@5", "F1"):
        assert f"<h3>{title}</h3>" in html
    assert html.count("<u>") == 10, "the reference of each set, in each metric"


def test_rows_that_were_not_tuned_where_others_were_are_named(tmp_path: Path, html: str) -> None:
    suite = suite_of(tmp_path, "one", "two")
    one, two = suite.comparisons
    one = dataclasses.replace(one, tuned=("spen", "icnn", "twin"))
    found = to_html(dataclasses.replace(suite, comparisons=(one, two)))
    assert "Not tuned, where other rows were (losing to those may be the lack of a search): linear on one." in found
    assert "Not tuned" not in html


def test_dollar_signs_are_no_formula(tmp_path: Path) -> None:
    html = to_html(suite_of(tmp_path, r"$\foo$"))
    assert r">$\foo$, bag of words</text>" in html[html.index("<svg") :]


def test_few_seeds_and_lone_energies_say_so(tmp_path: Path) -> None:
    few = suite_of(tmp_path, "one")
    rows = with_verdicts(tmp_path, 2).rows
    features = {row.name: row.features for row in few.comparisons[0].rows}
    rows = tuple(dataclasses.replace(row, features=features[row.name]) for row in rows)
    html = to_html(_with_rows(few, rows))
    assert "Whether an energy adds anything is not tested: too few seeds." in html
    html = to_html(_with_rows(few, tuple(dataclasses.replace(row, features="") for row in rows)))
    assert "No table has both an energy and a classifier on its features." in html


def _with_rows(suite: Suite, rows: tuple) -> Suite:
    comparisons = tuple(dataclasses.replace(found, rows=rows) for found in suite.comparisons)
    return dataclasses.replace(suite, comparisons=comparisons)


def test_it_is_written_beside_the_tables(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "one")
    assert [path.name for path in write_suite(suite)] == ["table.md", "results.json", "report.html"]
    assert (tmp_path / "report.html").read_text() == to_html(suite)
