"""A data set's table that another machine wrote: taken from its results.json alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("optuna")
from trials import SETS, Trials, trials, write_files

from energynets.compare.plan import load_plan
from energynets.compare.suite import Suite, compare_plan
from energynets.errors import ConfigError

__all__ = ["trials"]

SEEDS = 5


@pytest.fixture(autouse=True)
def tables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def carry_out(folder: Path, into: str, *overrides: str, **how: Any) -> Suite:
    return compare_plan(*load_plan(folder / "plan.yaml", overrides), folder=folder / into, **{"seeds": SEEDS, **how})


@pytest.fixture
def whole(tmp_path: Path, trials: Trials) -> Suite:
    """Both data sets, run in one place."""
    path = write_files(tmp_path, SETS)
    path.write_text(path.read_text().replace("  - config: linear.yaml\n", "").replace("seeds: 1", "linear: false"))
    return carry_out(tmp_path, "whole")


def hand_on(suite: Suite, folder: Path, change: Callable[[dict[str, Any]], object] = lambda written: None) -> None:
    """The results.json of `two` alone goes to another machine."""
    written = json.loads((suite.folder / "two" / "results.json").read_text())
    change(written)
    (folder / "two").mkdir(parents=True)
    (folder / "two" / "results.json").write_text(json.dumps(written))


def test_it_is_run_nowhere_else_and_nothing_is_lost(tmp_path: Path, whole: Suite, trials: Trials) -> None:
    hand_on(whole, tmp_path / "here")
    trials.ran.clear()
    suite = carry_out(tmp_path, "here")
    assert sorted({name for name, *_ in trials.ran}) == ["cnn", "wide"], "those of `one`"
    assert len(trials.ran) == 2 * SEEDS
    ours, theirs = (json.loads((found.folder / "results.json").read_text()) for found in (suite, whole))
    for same in ("rows", "ranks", "differences", "gains", "references"):
        assert ours[same] == theirs[same], same
    assert any(difference["data"] == "two" and difference["documents"] for difference in ours["differences"])
    assert [gain["data"] for gain in ours["gains"]].count("two") > 1
    assert (suite.folder / "table.md").read_text() == (whole.folder / "table.md").read_text()
    assert not (suite.folder / "two" / "runs").exists()


def test_its_rows_are_what_they_are_here(tmp_path: Path, whole: Suite, trials: Trials) -> None:
    """Of a results.json that names the energy's kind, as real runs do, not the model's."""

    def as_of_real_runs(written: dict[str, Any]) -> None:
        for row in written["rows"]:
            row["kind"] = "spen" if row["name"] == "spen" else row["kind"]

    hand_on(whole, tmp_path / "here", as_of_real_runs)
    ours, theirs = (suite.comparisons[1].rows for suite in (carry_out(tmp_path, "here"), whole))
    assert [(row.name, row.energy, row.blind) for row in ours][1:] == [("wide", False, True), ("spen", True, False)]
    for row, same in zip(ours, theirs, strict=True):
        assert row.features, row.name
        assert (row.energy, row.blind, row.features) == (same.energy, same.blind, same.features)


def test_settings_are_compared_not_hashes_of_another_version(tmp_path: Path, whole: Suite, trials: Trials) -> None:
    def older(written: dict[str, Any]) -> None:
        for row in written["rows"]:
            # A version before this key was there; and hashes differ with every key that is new.
            row["config"] = row["config"].replace("  initial_bias: random\n", "")
            for result in row["results"]:
                result["config_hash"] = "0" * 16

    hand_on(whole, tmp_path / "here", older)
    trials.ran.clear()
    assert len(carry_out(tmp_path, "here").comparisons) == 2
    assert len(trials.ran) == 2 * SEEDS


def _drop(written: dict[str, Any]) -> None:
    del written["rows"][1]


def _add(written: dict[str, Any]) -> None:
    written["rows"].append({**written["rows"][0], "name": "other"})


def _shorten(written: dict[str, Any]) -> None:
    written["rows"][2]["results"].pop()


def _change(written: dict[str, Any]) -> None:
    written["rows"][0]["config"] = written["rows"][0]["config"].replace("batch_size: 16", "batch_size: 8")


def _unlearn(written: dict[str, Any]) -> None:
    del written["gains"]


@pytest.mark.parametrize(
    ("change", "overrides", "match"),
    [
        (_drop, (), "only the comparison has a row 'wide'"),
        (_add, (), "only it has a row 'other'"),
        (_shorten, (), r"its row 'spen' has results of seeds \[0, 1, 2, 3\], expected \[0, 1, 2, 3, 4\]"),
        (_change, (), "its row 'cnn' had other settings"),
        (_unlearn, (), "not the table of a data set as `compare` writes it .*gains"),
        (lambda written: None, ("reference=wide",), "were compared with 'cnn', not 'wide'"),
    ],
)
def test_another_table_is_refused_before_anything_runs(
    tmp_path: Path, whole: Suite, trials: Trials, change: Any, overrides: tuple[str, ...], match: str
) -> None:
    assert whole.comparisons[1].reference == "cnn"
    hand_on(whole, tmp_path / "here", change)
    trials.ran.clear()
    with pytest.raises(ConfigError, match=match) as raised:
        carry_out(tmp_path, "here", *overrides)
    assert str(tmp_path / "here" / "two" / "results.json") in str(raised.value)
    assert trials.ran == []
    assert (tmp_path / "here" / "two" / "results.json").exists()
