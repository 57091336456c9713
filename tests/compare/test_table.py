"""The table of a comparison in all its forms."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from results import comparison, result, with_verdicts

from energynets.compare.comparison import Comparison, Row, Spread
from energynets.compare.files import write
from energynets.compare.table import caption, print_table, to_csv, to_markdown


def test_spread_is_mean_and_sample_deviation() -> None:
    spread = Spread.of([0.5, None, 0.6, 0.7])
    assert spread is not None
    assert spread.mean == pytest.approx(0.6)
    assert spread.std == pytest.approx(statistics.stdev([0.5, 0.6, 0.7]))
    assert Spread.of([0.5]) == Spread(0.5, None, (0.5,))
    assert Spread.of([None, float("nan")]) is None


def test_floor_is_first_and_ceiling_last(tmp_path: Path) -> None:
    assert [row.name for row in comparison(tmp_path).rows] == ["floor", "linear", "spen", "ceiling"]


def test_markdown_has_mean_and_spread_and_says_how(tmp_path: Path) -> None:
    text = to_markdown(comparison(tmp_path))
    assert "| spen | 60.00 ± 10.00 |" in text
    assert "| linear | 40.00 |" in text
    for said in ("seeds 0, 1, 2", "chosen on validation", "Run once", "floor, linear, ceiling", "sha256 abababababab"):
        assert said in text
    assert "F1 | F1 at 0.5" in text


def test_a_row_with_one_seed_so_far_is_not_called_seedless(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    rows = tuple(dataclasses.replace(row, results=row.results[:1]) for row in found.rows)
    said = caption(dataclasses.replace(found, rows=rows))
    assert "Run once, as no seed changes them: floor, linear, ceiling." in said


def test_neither_floor_nor_ceiling_could_have_been_tuned(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    assert found.untuned == [], "nothing is tuned"
    assert dataclasses.replace(found, tuned=("spen",)).untuned == ["linear"]


def test_the_caption_names_the_decoder(tmp_path: Path) -> None:
    assert "F1 is f1_example under one global threshold for each run" in to_markdown(comparison(tmp_path))
    expected = dataclasses.replace(comparison(tmp_path), decoding="expected_f1")
    assert "F1 is f1_example under the set of labels with the largest expected f1_example" in to_markdown(expected)
    assert expected.to_dict()["decoding"] == "expected_f1"


def test_csv_is_unrounded_and_regular(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison(tmp_path)))))
    spen = next(row for row in rows if row["model"] == "spen")
    assert float(spen["precision@1"]) == pytest.approx(0.6, abs=1e-15)
    assert float(spen["precision@1_std"]) == pytest.approx(0.1)
    assert (spen["seeds"], rows[0]["precision@1_std"]) == ("3", "")


def test_only_what_is_significant_is_bold(tmp_path: Path) -> None:
    three = comparison(tmp_path)
    text = to_markdown(three)
    assert "**" not in text
    assert "▲" not in text
    assert "Nothing is marked: a test takes 5 seeds or more" in text
    assert "a permutation test over 3 seeds cannot go below p = 0.25" in text
    ten = with_verdicts(tmp_path)
    text = to_markdown(ten)
    assert "| spen | **" in text
    assert re.search(r"\| icnn \| 3\d\.\d\d ± \d\.\d\d ▼ \|", text)
    assert re.search(r"\| twin \| \d\d\.\d\d ± \d\.\d\d \|", text)
    assert "▲ is significantly better than linear, ▼ significantly worse: p < 0.05 after Holm" in text
    assert "correction over 15 differences" in text
    assert "over 10 seeds and 400 test documents" in text
    assert "## Differences from linear" in text


def test_marks_on_a_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    print_table(with_verdicts(tmp_path), Console(file=out, width=200))
    rows = {line.split()[0]: line for line in out.getvalue().splitlines() if line.strip()}
    assert "▲" in rows["spen"]
    assert "▼" in rows["icnn"]
    assert "▲" not in rows["twin"] + rows["linear"]
    assert rows["spen"].index("▲") == rows["icnn"].index("▼"), "marks stand below one another"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_terminal_table_keeps_whole_columns(tmp_path: Path, width: int) -> None:
    out = io.StringIO()
    print_table(comparison(tmp_path), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert "…" not in out.getvalue()
    assert any("P@1" in line and "F1" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines if "±" in line and "Metrics" not in line) <= width


def test_failures_are_said_in_the_row_and_below(tmp_path: Path) -> None:
    text = to_markdown(comparison(tmp_path, failures={3: "killed by SIGKILL (out of memory?)"}))
    assert "| spen (3 of 4 seeds) |" in text
    assert "Failed: spen-seed3: killed by SIGKILL (out of memory?)." in text
    row = Row("icnn", "energy_network", (), failures={0: "x"})
    assert row.metric("precision@1") is None


def test_results_json_holds_everything(tmp_path: Path) -> None:
    tree = json.loads(json.dumps(comparison(tmp_path).to_dict(), allow_nan=False))
    spen = tree["rows"][2]
    assert spen["test"]["precision@1"]["values"] == [0.5, 0.6, 0.7]
    assert spen["results"][0] == result(
        "spen", 0, 0.5, trace=spen["results"][0]["trace"], stages=spen["results"][0]["stages"]
    )


def without_test(found: Comparison) -> Comparison:
    """The same of data without a test split."""
    rows = []
    for row in found.rows:
        results = ({**one, "metrics": {"validation": one["metrics"]["validation"]}} for one in row.results)
        rows.append(dataclasses.replace(row, results=tuple(results), documents=()))
    return dataclasses.replace(found, rows=tuple(rows))


def test_without_a_test_split_everything_is_written_and_says_so(tmp_path: Path) -> None:
    found = without_test(with_verdicts(tmp_path / "demo"))
    write(found)
    said = "There is no test split, so none is shown; metrics on validation are in results.json."
    names = ["table.md", "report.html"] if find_spec("matplotlib") and find_spec("jinja2") else ["table.md"]
    for name in names:
        assert said in (found.folder / name).read_text()
    row = json.loads((found.folder / "results.json").read_text())["rows"][0]
    assert row["validation"]["f1_example"]["mean"] == pytest.approx(0.4, abs=0.05)
    assert row["test"]["f1_example"] is None
    assert said not in to_markdown(comparison(tmp_path))
