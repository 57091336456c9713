"""A finished run's weights, measured as another run of the same training would be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from toy_run import CLASSIFIER, SPEN, run_toy, stage, toy_data, toy_experiment

from energynets.cli import main
from energynets.compare.cells import Cell
from energynets.config import Experiment
from energynets.errors import CheckpointError, ConfigError
from energynets.training import evaluate, load_run
from energynets.training.run import RunFolder

OTHERWISE = {"observed": [0.0, 0.5], "draws": 2, "decoding": "expected_f1"}


def experiment(model: dict[str, Any], evaluation: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    trains = ["features", "unary", *(["energy"] if model["kind"] == "energy_network" else [])]
    tree = toy_experiment(model, stages=[stage("all", *trains, epochs=2)]).model_dump(mode="json")
    if model["kind"] == "linear":
        tree["training"] = {}
    return Experiment.from_tree({**tree, "evaluation": evaluation or {}, **changes})


def row(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.mark.parametrize("model", [CLASSIFIER, SPEN, {"kind": "linear"}], ids=["classifier", "spen", "linear"])
def test_it_is_what_training_anew_would_give(model: dict[str, Any], tmp_path: Path) -> None:
    before, anew, direct = (tmp_path / name for name in ("before", "anew", "direct"))
    run_toy(before, experiment=experiment(model))
    run_toy(anew, experiment=experiment(model, OTHERWISE), trained=before)
    run_toy(direct, experiment=experiment(model, OTHERWISE))
    found, wanted, old = row(anew), row(direct), row(before)
    for key in (
        "config_hash",
        "metrics",
        "threshold",
        "observed",
        "calibration",
        "parameters",
        "seed",
        "data",
        "trace",
    ):
        assert found.get(key) == wanted.get(key), key
    assert found["threshold"] != old["threshold"]
    assert found["observed"].keys() == {"0", "0.5"}
    for key in ("train_seconds", "stages"):
        assert found[key] == old[key], key
    assert found["examples_per_second"] == pytest.approx(old["examples_per_second"], rel=0.01)
    for name, values in RunFolder(direct).read_documents().items():
        np.testing.assert_array_equal(RunFolder(anew).read_documents()[name], values)
    assert (anew / "metrics.jsonl").exists() == (before / "metrics.jsonl").exists() == (model["kind"] != "linear")
    environment = json.loads((anew / "environment.json").read_text())
    assert environment["trained"]["torch"] == environment["torch"]
    assert "command" not in environment["trained"]
    assert row(before) == old
    run = load_run(anew)
    assert run.result.config_hash == run.experiment.hash() == wanted["config_hash"]
    assert evaluate(run, toy_data().raw, observed=0.5) == wanted["observed"]["0.5"]["test"]


def test_the_weights_are_the_same(tmp_path: Path) -> None:
    run_toy(tmp_path / "a", experiment=experiment(SPEN))
    run_toy(tmp_path / "b", experiment=experiment(SPEN, OTHERWISE), trained=tmp_path / "a")
    run_toy(tmp_path / "c", experiment=experiment(SPEN), trained=tmp_path / "b")
    first, *others = (load_file(RunFolder(tmp_path / name).model) for name in "abc")
    for other in others:
        assert first.keys() == other.keys()
        assert all((first[name] == other[name]).all() for name in first)
    assert row(tmp_path / "c")["metrics"] == row(tmp_path / "a")["metrics"]
    chunked = experiment({**SPEN, "label_chunk": 4})  # how, not what
    run_toy(tmp_path / "d", experiment=chunked, trained=tmp_path / "a")
    assert row(tmp_path / "d")["config_hash"] == row(tmp_path / "a")["config_hash"]
    learned = json.loads((tmp_path / "c" / "environment.json").read_text())["trained"]
    assert "trained" not in learned, "where it was trained, not where it was measured"


def test_other_training_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    run_toy(tmp_path / "a", experiment=experiment(CLASSIFIER))
    for other, told in (
        (experiment(CLASSIFIER, seed=1), "seed: 0 there, 1 now"),
        (experiment(CLASSIFIER, {"ks": [1]}), r"evaluation.ks: \[1, 3, 5\] there, \[1\] now"),
        (experiment(SPEN), "was trained with other settings than are to be measured"),
    ):
        with pytest.raises(ConfigError, match=told):
            run_toy(tmp_path / "b", experiment=other, trained=tmp_path / "a")
        assert not (tmp_path / "b").exists()
    with pytest.raises(CheckpointError, match="not a run folder"):
        run_toy(tmp_path / "b", experiment=experiment(CLASSIFIER), trained=tmp_path / "none")
    (tmp_path / "a" / "result.json").unlink()
    with pytest.raises(CheckpointError, match="not a finished run"):
        run_toy(tmp_path / "b", experiment=experiment(CLASSIFIER), trained=tmp_path / "a")


def test_a_measurement_that_was_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_toy(tmp_path / "a", experiment=experiment(SPEN))
    changed = experiment(SPEN, OTHERWISE)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_documents", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path / "b", experiment=changed, trained=tmp_path / "a")
    assert not (tmp_path / "b" / "result.json").exists()
    run_toy(tmp_path / "b", experiment=changed, trained=tmp_path / "a", resume=True)
    run_toy(tmp_path / "c", experiment=changed, trained=tmp_path / "a")
    assert row(tmp_path / "b")["observed"] == row(tmp_path / "c")["observed"]


def test_a_comparison_finds_weights_beside_the_cell(tmp_path: Path) -> None:
    before, now = experiment(CLASSIFIER), experiment(CLASSIFIER, OTHERWISE)
    assert before.hash() != now.hash()
    assert before.hash(trained=True) == now.hash(trained=True)
    cells = [Cell(each, 0, tmp_path / f"toy-{each.hash()[:8]}-seed0") for each in (before, now)]
    assert cells[1].with_weights() == cells[1], "nothing there"
    run_toy(cells[0].folder, experiment=before)
    found = cells[1].with_weights()
    assert found.trained == cells[0].folder
    assert found.command(tmp_path / "toy.yaml")[-4:] == ["--trained", str(cells[0].folder), "--resume", "--quiet"]
    other = experiment(CLASSIFIER, OTHERWISE, objective={"kind": "end_to_end", "loss": "softmax"})
    for stranger in (Cell(other, 0, tmp_path / "toy-0-seed0"), Cell(now, 1, tmp_path / "toy-0-seed1")):
        assert stranger.with_weights().trained is None
    RunFolder(cells[0].folder).model.unlink()
    assert cells[1].with_weights().trained is None


def test_one_runs_weights_are_not_several_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(experiment(CLASSIFIER).to_yaml())
    status = main(
        ["train", str(config), "--seeds", "2", "--trained", str(tmp_path / "a"), "--folder", str(tmp_path / "b")]
    )
    assert status == 2
    assert "--trained: is one run's weights, and --seeds asks for several" in capsys.readouterr().err
