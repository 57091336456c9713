"""Comparison files: what they may say, and what each mistake is called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trials import RATE, SETS, write_files

from energynets.compare.plan import is_plan, load_plan
from energynets.config import Experiment
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


def test_a_row_as_written_takes_the_documents_alone(tmp_path: Path) -> None:
    path = write_files(tmp_path, SETS)
    text = path.read_text().replace(
        "    set: {model.features.num_filters: 3",
        "    missing: {fraction: 0.25}\n    text: {max_tokens: 5}\n    set: {model.features.num_filters: 3",
    )
    path.write_text(text.replace("{config: spen.yaml, only", "{config: cnn.yaml, name: own, as_written: true, only"))
    written = Experiment.load(tmp_path / "cnn.yaml")
    *_, cnn, _, own = (row.experiment for row in load_plan(path)[1]["two"])
    assert (cnn.data.text.max_tokens, cnn.training.batch_size) == (5, 16)
    assert (own.data.text, own.training, own.model) == (written.data.text, written.training, written.model)
    assert own.data.planted == cnn.data.planted != written.data.planted
    assert own.data.missing == cnn.data.missing is not None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "name: two,",
            "name: two, set: {training.batch_sise: 7},",
            "data two, set: no row .*did you mean 'training.batch_size'",
        ),
        ("name: two,", "name: two, set: 7,", "data.1.set: expected a section of settings, got 7"),
        (
            "config: cnn.yaml",
            "only: [too]\n    config: cnn.yaml",
            "rows.0.only: unknown data set 'too' .*did you mean 'two'",
        ),
        ("seeds: 5", "seed: 5", r"plan.yaml: seed: unknown key 'seed' \(did you mean 'seeds'"),
        ("trials: 6", "trials: 0", "tuning.trials: expected 1 or more, got 0"),
        ("trials: 6", "metric: f1_exmple, trials: 6", "tuning.metric: unknown metric 'f1_exmple' .*'f1_example'"),
        (
            "trials: 6",
            "metric: precision@2, trials: 6",
            r"rows of one: tuning.metric: cnn does not measure 'precision@2' \(did you mean 'precision@[135]'",
        ),
        (
            "name: two,",
            "name: two, validation_share: 0,",
            "rows of two: tuning: cnn has a search space and no validation split .*validation_share above 0, got 0",
        ),
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


def test_settings_go_with_a_data_set_and_rows_may_deviate(tmp_path: Path) -> None:
    _, tables = load_plan(write_files(tmp_path, SETS))
    found = {name: {row.experiment.name: row.experiment for row in rows} for name, rows in tables.items()}
    assert {name: list(rows) for name, rows in found.items()} == {
        "one": ["linear", "cnn", "wide"],
        "two": ["linear", "cnn", "wide", "spen"],
    }
    filters = {
        (name, row): e.model.features.num_filters  # type: ignore[union-attr]
        for name, rows in found.items()
        for row, e in rows.items()
        if row != "linear"
    }
    assert filters == {
        ("one", "cnn"): 2,
        ("two", "cnn"): 3,
        ("one", "wide"): 8,
        ("two", "wide"): 8,
        ("two", "spen"): 3,
    }
    assert [rows["wide"].stages[0].epochs for rows in found.values()] == [2, 1]
    assert [rows["linear"].training.stages for rows in found.values()] == [None, None]
    assert [rows["linear"].training.batch_size for rows in found.values()] == [64, 16], "a key that every row has"
    assert [rows["cnn"].data.planted.seed for rows in found.values()] == [0, 1]  # type: ignore[union-attr]


def test_a_section_of_the_row_wins_whole(tmp_path: Path) -> None:
    path = write_files(tmp_path, SETS)
    section = "model.features: {kind: kim_cnn, embedding_dim: 4, windows: [1]}"
    path.write_text(path.read_text().replace("model.features.num_filters: 8", section))
    _, tables = load_plan(path)
    assert tables["one"][2].experiment.model.features.num_filters == 100  # type: ignore[union-attr]
    bags = "model.features: {kind: bag_of_words, hidden: [4]}"
    path.write_text(path.read_text().replace(section, bags))
    _, tables = load_plan(path)
    assert tables["one"][2].experiment.model.features.hidden == (4,)  # type: ignore[union-attr]


def test_search_wins_over_settings(tmp_path: Path) -> None:
    path = write_files(tmp_path, SETS)
    space = "search: {model.features.num_filters: {choices: [5, 6]}}"
    path.write_text(path.read_text().replace("only: [two]", f"only: [two], {space}"))
    row = load_plan(path)[1]["two"][3]
    assert row.experiment.model.features.num_filters == 3  # type: ignore[union-attr]
    assert row.at({"model.features.num_filters": 6}).model.features.num_filters == 6  # type: ignore[union-attr]


def test_stages_of_the_models_kind_can_be_set(tmp_path: Path) -> None:
    path = write_files(tmp_path, SETS)
    path.write_text(path.read_text().replace("config: spen.yaml, only: [two]", "config: default.yaml"))
    path.write_text(path.read_text().replace("stages.0.epochs: 2", "stages.1.epochs: 2"))
    _, tables = load_plan(path)
    default, one = (tables[name][3].experiment for name in ("two", "one"))
    assert [stage.epochs for stage in default.stages] == [30, 10, 10]
    assert [stage.epochs for stage in one.stages] == [30, 2, 10]
    assert [stage.trains for stage in one.stages] == [stage.trains for stage in default.stages]
    assert tables["one"][1].experiment.stages[0].epochs == 1, "it has no second stage"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("num_filters: 2", "num_filtres: 2", "data one, set: no row .*mean 'model.features.num_filters'"),
        ("stages.0.epochs: 2", "stages.4.epochs: 2", "data one, set: no row has a setting 'training.stages.4.epochs'"),
        ("training.batch_size: 16", "training.reveal.share: 1", "data two, set: no row has .*'training.reveal.share'"),
        ("training.batch_size: 16", "training.batch_size: 0", "set of linear on two: .*batch_size: expected 1 or more"),
        ("num_filters: 8", "num_fliters: 8", "set of wide on one: .*did you mean 'num_filters'"),
        ("only: [two]", "name: wide, only: [two]", "rows of two: .*2 experiments are called 'wide'; give each its own"),
        ("name: two", "names: two", "data.1.name: missing"),
    ],
)  # fmt: skip
def test_mistakes_of_settings_are_told_before_anything_runs(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = write_files(tmp_path, SETS)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError, match=said):
        load_plan(path)
