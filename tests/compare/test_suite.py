"""A comparison file, carried out: tuning, fresh seeds, a table for each data set and one over all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("optuna")
from trials import RATE, SETS, Trials, trials, write_files

from energynets.cli.main import app
from energynets.compare.cells import Cell
from energynets.compare.paired import holm
from energynets.compare.plan import load_plan
from energynets.compare.suite import Suite, compare_plan
from energynets.compare.tuning import FIRST_SEED
from energynets.errors import ConfigError

__all__ = ["trials"]


def test_real_runs(tmp_path: Path) -> None:
    overrides = ("tuning.trials=1", "tuning.seeds=1", "seeds=1", "data.0.name=planted")
    plan, tables = load_plan(write_files(tmp_path), overrides)
    suite = compare_plan(plan, {"planted": tables["planted"]}, folder=tmp_path / "c", processes=2)
    assert suite.failures == []
    trial = suite.tuned["planted"]["spen"].trials[0]
    runs = tmp_path / "c" / "planted" / "tuning" / "spen" / "runs"
    (run,) = (json.loads((folder / "result.json").read_text()) for folder in runs.iterdir())
    assert trial.value == run["metrics"]["validation"]["f1_example"]
    assert trial.seconds == run["train_seconds"]
    difference = suite.differences[0]
    assert (difference.unit, difference.documents, difference.p) == ("documents", 20, None)
    both, own = (json.loads((tmp_path / "c" / where / "results.json").read_text()) for where in (".", "planted"))
    assert both["environment"] == {"planted": own["environment"]}
    assert own["environment"]["torch"] == torch.__version__


def test_settings_of_data_sets_and_rows_reach_the_runs(tmp_path: Path) -> None:
    path = write_files(tmp_path, SETS)
    path.write_text(
        path.read_text().replace("  - config: linear.yaml\n", "").replace("seeds: 1", "seeds: 1\nlinear: false")
    )
    suite = compare_plan(*load_plan(path), folder=tmp_path / "c", processes=2)
    assert suite.failures == []
    one, two = ({row.name: row.results[0] for row in found.rows} for found in suite.comparisons)
    assert (list(one), list(two)) == (["cnn", "wide"], ["cnn", "wide", "spen"])
    assert [table["cnn"]["stages"][0]["epochs"] for table in (one, two)] == [2, 1]
    embedding = one["cnn"]["parameters"] - 2 * 4 - 2 - 4 * 2 - 4  # two filters of four numbers, four labels
    assert one["wide"]["parameters"] - embedding == 8 * 4 + 8 + 4 * 8 + 4
    ranks = suite.ranks("f1_example")
    assert ranks is not None
    assert (ranks.names, ranks.sets) == (("cnn", "wide"), 2)
    text = (tmp_path / "c" / "table.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| spen |"))
    assert (row.split("|")[2].strip(), row.split("|")[4].strip()) == ("-", "-"), "neither on one nor ranked"
    assert "2 rows are not tested. Not ranked, without a result on some data set: spen." in text
    written = json.loads((tmp_path / "c" / "results.json").read_text())
    plan, rows = written["plan"], written["rows"]
    gains = [(each["data"], each["row"]) for each in written["gains"] if each["metric"] == "f1_example"]
    assert gains == [("two", "spen")], "a table without an energy has none"
    assert "## What the energy adds" in text
    assert rows["two"]["spen"]["f1_example"]["mean"] == two["spen"]["metrics"]["test"]["f1_example"]
    assert plan["data"][1]["set"] == {"model.features.num_filters": 3, "training.batch_size": 16}


def test_finished_trains_nothing(tmp_path: Path, trials: Trials) -> None:
    path = write_files(tmp_path, SETS)
    path.write_text(path.read_text().replace("  - config: linear.yaml\n", "").replace("seeds: 1", "linear: false"))
    plan, tables = load_plan(path)
    with pytest.raises(ConfigError, match=r"no run of \w+ is finished"):
        compare_plan(plan, tables, folder=tmp_path / "c", seeds=2, finished=True)
    trials.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        compare_plan(plan, tables, folder=tmp_path / "c", seeds=2)
    ran, trials.stop_after = list(trials.ran), None
    suite = compare_plan(plan, tables, folder=tmp_path / "c", seeds=2, finished=True)
    assert trials.ran == ran
    found = [(row.name, result["seed"]) for table in suite.comparisons for row in table.rows for result in row.results]
    assert sorted(found) == sorted((name, seed) for name, seed, _ in ran)
    assert suite.failures == []
    text = (suite.comparisons[1].folder / "table.md").read_text()
    assert "1 of 6 runs are finished" in text
    assert "Seeds done: cnn 1 of 2." in text
    assert len(compare_plan(plan, tables, folder=tmp_path / "c", seeds=2).comparisons) == 2
    with pytest.raises(ConfigError, match="some of these are to be tuned"):
        compare_plan(*load_plan(write_files(tmp_path)), folder=tmp_path / "d", finished=True)


@pytest.fixture(autouse=True)
def tables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def carry_out(folder: Path, into: str = "c", *overrides: str, processes: int = 1) -> Suite:
    return compare_plan(*load_plan(write_files(folder), overrides), folder=folder / into, processes=processes)


def files(folder: Path) -> dict[str, str]:
    """The tables, without what differs from session to session."""
    found = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("table.*"))}
    return {name: text.replace(folder.name, "folder") for name, text in found.items()}


def test_the_configuration_beside_a_table_is_that_of_its_rows(tmp_path: Path, trials: Trials) -> None:
    """Settings that come back find their runs: what is then kept has a file of its own settings again."""
    path = write_files(tmp_path)
    plan = "name: p\nlinear: false\nseeds: 1\ndata: [{name: one}]\nrows: [{config: cnn.yaml, set: {%s: %s}}]\n"
    for rate in (1.0, 2.0, 1.0):
        path.write_text(plan % (RATE, rate))
        (row,) = compare_plan(*load_plan(path), folder=tmp_path / "c").comparisons[0].rows
        assert f"learning_rate: {rate}" in row.config
        assert (tmp_path / "c" / "one" / "configs" / "cnn.yaml").read_text() == row.config
    assert [rate for *_, rate in trials.ran] == [1.0, 2.0]


def test_budgets_are_equal_and_seeds_fresh(tmp_path: Path, trials: Trials) -> None:
    suite = carry_out(tmp_path)
    counts = {(data, row): len(found.trials) for data, rows in suite.tuned.items() for row, found in rows.items()}
    assert counts == {(data, row): 6 for data in ("one", "two") for row in ("cnn", "spen")}
    for name in ("cnn", "spen"):
        seeds = [seed for row, seed, _ in trials.ran if row == name]
        assert {seed for seed in seeds if seed >= FIRST_SEED} == {FIRST_SEED, FIRST_SEED + 1}
        assert sorted(seed for seed in seeds if seed < FIRST_SEED) == sorted([0, 1, 2, 3, 4] * 2)
    for comparison in suite.comparisons:
        assert comparison.seeds == (0, 1, 2, 3, 4)
        best = suite.tuned[comparison.name]["cnn"].experiment
        assert {result["config_hash"] for result in comparison.rows[0].results} == {best.hash()}


def test_tables_of_each_data_set_and_over_all(tmp_path: Path, trials: Trials) -> None:
    suite = carry_out(tmp_path)
    own = (tmp_path / "c" / "one" / "table.md").read_text()
    assert "Tuned on validation by f1_example, 6 trials of 2 seeds each, under other seeds than these: cnn, spen" in own
    assert "Selected for spen: model.energy.num_measurements " in own
    text = (tmp_path / "c" / "table.md").read_text()
    assert "| model | one | two | mean rank |" in text
    assert "## two: differences from cnn" in text
    tree = json.loads((tmp_path / "c" / "results.json").read_text())
    assert (tree["data"], len(tree["ranks"])) == (["one", "two"], 5)
    assert len(tree["tuned"]["one"]["spen"]["trials"]) == 6
    ps = [difference.p for found in suite.comparisons for difference in found.differences]
    assert [difference.p_holm for difference in suite.differences] == pytest.approx(holm(ps)), "over both sets"
    assert {difference.data for difference in suite.differences} == {"one", "two"}


def test_rows_that_were_not_tuned_where_others_were_are_named(tmp_path: Path, trials: Trials) -> None:
    path, said = write_files(tmp_path), "Not tuned, where other rows were (losing to those may be the lack of a search)"
    carry_out(tmp_path, "tuned")
    assert said not in (tmp_path / "tuned" / "one" / "table.md").read_text()
    assert said not in (tmp_path / "tuned" / "table.md").read_text()
    rows = "  - {config: cnn.yaml, name: plain}\n  - {config: spen.yaml, name: odd, only: [two]}\nlinear: false"
    path.write_text(path.read_text().replace("linear: false", rows))
    into = str(tmp_path / "c")
    done = CliRunner().invoke(app, ["compare", str(path), "--seeds", "1", "--folder", into])
    assert done.exit_code == 0, done.output
    expected = {"one": f"{said}: plain.", "two": f"{said}: plain, odd.", ".": f"{said}: plain; odd on two."}
    for data, line in expected.items():
        assert line in (tmp_path / "c" / data / "table.md").read_text()
        assert line in done.output, "on the terminal too"
    one, both = (json.loads((tmp_path / "c" / where / "results.json").read_text()) for where in ("one", "."))
    assert (one["untuned"], both["untuned"]) == (["plain"], {"plain": ["one", "two"], "odd": ["two"]})


def test_interrupted_it_goes_on_and_processes_change_nothing(tmp_path: Path, trials: Trials) -> None:
    carry_out(tmp_path, "whole")
    whole = len(trials.ran)
    for stop_after in (2, 9, whole - 3):
        trials.ran.clear()
        into = f"cut-{stop_after}"
        trials.stop_after = stop_after
        with pytest.raises(KeyboardInterrupt):
            carry_out(tmp_path, into)
        trials.stop_after = None
        carry_out(tmp_path, into)
        assert len(trials.ran) == whole, "each cell ran once"
        assert files(tmp_path / into) == files(tmp_path / "whole")
    trials.ran.clear()
    trials.wait = 0.01
    carry_out(tmp_path, "three", processes=3)
    assert (len(trials.ran), trials.most) == (whole, 3)
    said = "Up to 3 runs shared the machine: seconds are not to be compared with others.  \n"
    found = {name: text.replace(said, "") for name, text in files(tmp_path / "three").items()}
    assert found == files(tmp_path / "whole")
    again = carry_out(tmp_path, "three")
    assert again.comparisons[0].processes == 3, "kept runs were measured side by side"
    assert len(trials.ran) == whole


def test_a_row_whose_tuning_failed_leaves_the_others(
    tmp_path: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Cell.run
    monkeypatch.setattr(
        Cell, "run", lambda cell, *args: (None, "diverged") if cell.experiment.name == "spen" else run(cell, *args)
    )
    suite = carry_out(tmp_path)
    assert len(suite.failures) == 10
    assert suite.failures[0] == "one: spen-seed0: all 6 trials of its tuning failed: diverged"
    assert not any(name == "spen" for name, _, _ in trials.ran)
    assert "| spen | - | - | - |" in (tmp_path / "c" / "table.md").read_text()


def test_what_cannot_be_is_told_before_anything_runs(tmp_path: Path, trials: Trials) -> None:
    with pytest.raises(ConfigError, match=r"no row is called 'ccn' \(did you mean 'cnn'"):
        carry_out(tmp_path, "c", "reference=ccn")
    plan, tables = load_plan(write_files(tmp_path, SETS), ["reference=spen"])
    with pytest.raises(ConfigError, match="reference: on one no row is called 'spen'"):
        compare_plan(plan, tables, folder=tmp_path / "c")
    assert trials.ran == []


def test_on_the_command_line(tmp_path: Path, trials: Trials) -> None:
    path, into = write_files(tmp_path), str(tmp_path / "c")
    done = CliRunner().invoke(
        app, ["compare", str(path), "--set", "tuning.trials=1", "--seeds", "2", "--folder", into, "--processes", "2"]
    )
    assert done.exit_code == 0, done.output
    for said in (
        "mean rank",
        "Selected for cnn",
        "Up to 2 runs",
        "table.md",
        "Nothing is marked: a test takes 5 seeds",
    ):
        assert said in done.output
    assert sorted({seed for _, seed, _ in trials.ran if seed < FIRST_SEED}) == [0, 1]
    with pytest.raises(ConfigError, match="a comparison file comes alone"):
        CliRunner().invoke(app, ["compare", str(path), str(tmp_path / "cnn.yaml")], catch_exceptions=False)


def test_config_check_reads_comparison_files(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    done = CliRunner().invoke(app, ["config", "check", str(path), str(tmp_path / "cnn.yaml")])
    assert done.exit_code == 0, done.output
    assert "fine, 2 rows (2 tuned) on 2 data sets, 5 seeds" in done.output
    path.write_text(path.read_text().replace("cnn.yaml", "dnn.yaml"))
    assert CliRunner().invoke(app, ["config", "check", str(path)]).exit_code == 2
