"""Comparison files: what they may say, and what each mistake is called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trials import RATE, write_files

from energynets.compare.plan import is_plan, load_plan
from energynets.errors import ConfigError


def test_models_times_data_sets(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    assert is_plan(path)
    assert not is_plan(tmp_path / "cnn.yaml")
    plan, tables = load_plan(path)
    assert list(tables) == ["one", "two"]
    assert [row.experiment.name for row in tables["two"]] == ["cnn", "spen"]
    planted = [tables[name][1].experiment.data.planted for name in tables]
    assert [p.seed for p in planted if p] == [0, 1]
    assert tables["one"][0].search[RATE].log
    assert (plan.tuning.trials, plan.tuning.metric, plan.seeds) == (6, "f1_example", 5)


def test_settings_of_the_file_can_be_changed(tmp_path: Path) -> None:
    plan, _ = load_plan(write_files(tmp_path), ["tuning.trials=2", "seeds=7", "reference=cnn"])
    assert (plan.tuning.trials, plan.seeds, plan.reference) == (2, 7, "cnn")


def test_data_sections_leave_how_a_model_reads(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    text = (tmp_path / "cnn.yaml").read_text().replace("data: {", "data: {text: {max_tokens: 7}, split_seed: 3, ")
    (tmp_path / "cnn.yaml").write_text(text)
    _, tables = load_plan(path)
    data = tables["one"][0].experiment.data
    assert data.text.max_tokens == 7
    assert data.split_seed == 0, "which documents is the plan's to say"
    _, alone = load_plan(_without(path, "data:"))
    assert list(alone) == ["small"]
    assert alone["small"][0].experiment.data.split_seed == 3


def _without(path: Path, head: str) -> Path:
    lines = path.read_text().splitlines()
    start = lines.index(head)
    end = next(place for place in range(start + 1, len(lines)) if not lines[place].startswith(" "))
    path.write_text("\n".join(lines[:start] + lines[end:]))
    return path


def test_values_of_a_space(tmp_path: Path) -> None:
    _, tables = load_plan(write_files(tmp_path))
    search = tables["one"][1].search
    assert search[RATE].value(2) == 0.001
    whole = search["model.energy.num_measurements"].value(5.0)
    assert (whole, type(whole)) == (5, int)
    changed = tables["one"][1].at({RATE: 1e-5, "model.energy.num_measurements": 3})
    assert changed.stages[0].optimizer.learning_rate == 1e-5
    assert changed.model.energy.num_measurements == 3  # type: ignore[union-attr]


def test_settings_go_with_a_data_set_or_a_row(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    text = path.read_text().replace("name: two,", "name: two, set: {training.batch_size: 7, model.solver.steps: 2},", 1)
    text = text.replace(
        "  - config: cnn.yaml\n",
        "  - {config: cnn.yaml, name: own, set: {training.batch_size: 9}, only: [two]}\n  - config: cnn.yaml\n",
    )
    path.write_text(text)
    _, tables = load_plan(path)
    assert [row.experiment.name for row in tables["one"]] == ["cnn", "spen"]
    own, cnn, spen = (row.experiment for row in tables["two"])
    assert [own.name, cnn.name] == ["own", "cnn"]
    assert [own.training.batch_size, cnn.training.batch_size, spen.training.batch_size] == [9, 7, 7]
    assert spen.model.solver.steps == 2, "a setting is of the rows that have it"  # type: ignore[union-attr]
    assert tables["one"][1].experiment.training.batch_size != 7


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "name: two,",
            "name: two, set: {training.batch_sise: 7},",
            "data two, set: no row .*did you mean 'training.batch_size'",
        ),
        ("name: two,", "name: two, set: 7,", "data two, set: expected setting: value, got 7"),
        (
            "config: cnn.yaml",
            "only: [too]\n    config: cnn.yaml",
            "rows.0.only: unknown data set 'too' .*did you mean 'two'",
        ),
        ("seeds: 5", "seed: 5", r"plan.yaml: seed: unknown key 'seed' \(did you mean 'seeds'"),
        ("trials: 6", "trials: 0", "tuning.trials: expected 1 or more, got 0"),
        ("trials: 6", "metric: f1_exmple, trials: 6", "tuning.metric: unknown metric 'f1_exmple' .*'f1_example'"),
        ("name: two", "name: one", "data.1.name: expected a name of its own"),
        ("low: 1e-4", "low: 0", f"search.{RATE}.low: a logarithm needs more than 0"),
        ("low: 1e-4", "low: 0.5", "expected low < high, got 0.5 and 0.1"),
        ("high: 1e-1, log", "log", "expected low < high"),
        ("choices: [0.1, ", "low: 1, choices: [0.1, ", "expected either choices, or low and high"),
        ("low: 2, high: 8", "low: 2.5, high: 8", "expected whole numbers, got 2.5 and 8"),
        ("num_measurements: {low", "num_mesurements: {low", "search of spen, .*did you mean 'num_measurements'"),
        ("low: 2,", "low: 0,", "search of spen, model.energy.num_measurements: spen: .*expected 1 or more, got 0"),
        ("config: cnn.yaml", "config: dnn.yaml", "dnn.yaml: cannot read the configuration"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = write_files(tmp_path)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError, match=said):
        load_plan(path)
