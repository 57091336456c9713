"""Runs of models that look up their training documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_run import CLASSIFIER, SPEN, stage, toy_data, toy_experiment

from energynets.baselines import NearestNeighbours
from energynets.cli import main
from energynets.config import Experiment
from energynets.errors import ConfigError
from energynets.estimator import EnergyNetClassifier
from energynets.memory import estimate
from energynets.training import Progress, evaluate, load_run, train
from energynets.training.build import Sizes, build_model, build_neighbours
from energynets.training.load import predict
from energynets.training.seeds import cannot, worth_it

NEIGHBOURS = {"num_neighbours": 5, "power": 1.5, "smoothing": 0.02}
STAGES = [
    stage("unary", "features", "unary", epochs=2, optimizer={"learning_rate": 0.01}),
    stage("energy", "energy", epochs=2),
    stage("all", epochs=2, keep="last"),
]


def experiment(model: dict[str, Any] = SPEN, **training: Any) -> Experiment:
    return toy_experiment(model | {"neighbours": NEIGHBOURS}, **training)


class _StopAt(Progress):
    """Ctrl-C at the n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("model", [CLASSIFIER, SPEN], ids=["classifier", "spen"])
def test_a_finished_run_needs_nothing_but_its_folder(model: dict[str, Any], tmp_path: Path) -> None:
    stages = STAGES if model is SPEN else [STAGES[0] | {"keep": "last"}]
    data = toy_data()
    result = train(experiment(model, stages=stages), folder=tmp_path / "run", data=data)
    run = load_run(tmp_path / "run")
    assert isinstance(run.model.neighbours.nearest, NearestNeighbours)
    assert (run.model.neighbours.nearest.power, run.model.neighbours.smoothing) == (1.5, 0.02)
    assert evaluate(run, data.raw) == pytest.approx(result.metrics["test"])
    assert run.model.neighbours.weight != 1
    test = data.prepared.split("test")
    scores = predict(run, data.raw.split("test").inputs, top=6)
    model_ = build_model(
        run.experiment, Sizes.of(data.prepared), neighbours=build_neighbours(run.experiment, data.prepared)
    )
    model_.load_state_dict(load_file(tmp_path / "run" / "checkpoints" / "model.safetensors"))
    from energynets.training.score import score

    np.testing.assert_array_equal(scores.values, score(model_, test, k=6).values)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "model.safetensors",
        "neighbours",
    ]


@pytest.mark.parametrize("stopped_at", [3, 11, 19])
def test_what_was_interrupted_ends_where_it_would_have(tmp_path: Path, stopped_at: int) -> None:
    """In a stage of each kind: of the classifier, on features that no step changes, and of all."""
    settings = experiment(stages=STAGES, checkpoint_every=1)
    train(settings, folder=tmp_path / "whole", data=toy_data())
    with pytest.raises(KeyboardInterrupt):
        train(settings, folder=tmp_path / "cut", data=toy_data(), progress=_StopAt(stopped_at))
    train(settings, folder=tmp_path / "cut", data=toy_data(), resume=True)
    ours, theirs = (load_file(tmp_path / name / "checkpoints" / "model.safetensors") for name in ("cut", "whole"))
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_validation_finds_neighbours_and_training_is_not_its_own(tmp_path: Path) -> None:
    """Where training documents found themselves, the weight of the neighbours would grow without need."""
    result = train(experiment(CLASSIFIER, stages=[stage("unary", epochs=3)]), folder=tmp_path / "run", data=toy_data())
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    blind = train(toy_experiment(stages=[stage("unary", epochs=3)]), folder=tmp_path / "blind", data=toy_data())
    started = json.loads((tmp_path / "blind" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["validation"]["precision@1"] > started["validation"]["precision@1"] + 0.1
    assert result.parameters == blind.parameters + 1
    assert result.config_hash != blind.config_hash


def test_settings_without_neighbours_keep_their_hash() -> None:
    """A run from before there were any is still one of these settings."""
    for model in (CLASSIFIER, SPEN):
        assert toy_experiment(model).hash() == toy_experiment(model | {"neighbours": None}).hash()
    assert toy_experiment(CLASSIFIER).hash() == "f8d01cec5593cbfe"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            CLASSIFIER | {"output": {"kind": "chunked"}},
            "model.neighbours: add to the logits of all labels at once: set output.kind to linear",
        ),
        (SPEN | {"label_chunk": 3}, "model.neighbours: add to phi of all labels at once: set label_chunk to null"),
        (SPEN | {"shortlist": 3}, "model.neighbours: add to phi of all labels at once: set shortlist to null"),
        (CLASSIFIER | {"neighbours": {"smoothing": 0}}, "smoothing"),
        (CLASSIFIER | {"neighbours": {"num_neighbors": 3}}, "num_neighbours"),
    ],
)
def test_settings_that_do_not_go_together(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as error:
        toy_experiment({"neighbours": NEIGHBOURS} | change)
    assert "\n" not in str(error.value)


def test_folds_and_shards_have_no_neighbours() -> None:
    folds = [STAGES[0], {**STAGES[1], "cross_fit": 2}]
    with pytest.raises(ConfigError, match=r"cross_fit: .* set model.neighbours to null"):
        experiment(stages=folds)
    with pytest.raises(ConfigError, match=r"set model\.label_chunk"):
        experiment(parallel={"labels": 2})


def test_seeds_train_one_after_another() -> None:
    reason = cannot(experiment(stages=STAGES))
    assert reason is not None
    assert reason.startswith("model.neighbours: expected null")
    assert not worth_it(experiment(stages=STAGES), 3, Sizes(20, 6, False))


def test_the_estimate_counts_the_weight_and_needs_no_documents() -> None:
    sizes = Sizes(20, 6, False)
    ours, without = estimate(experiment(stages=STAGES), sizes), estimate(toy_experiment(SPEN, stages=STAGES), sizes)
    assert dict(ours.components)["neighbours"] == 1
    assert ours.parameters == without.parameters + 1
    assert ours.total >= without.total


def test_the_estimator_looks_up_its_samples() -> None:
    data = toy_data()
    train_, test = data.raw.split("train"), data.raw.split("test")
    settings = ("model.neighbours={num_neighbours: 5}",)
    model = EnergyNetClassifier(energy="none", epochs=2, hidden=(8,), settings=settings, random_state=0)
    model.fit(train_.inputs, train_.labels.toarray())
    assert model.model_.neighbours.nearest.rows.shape[0] == len(train_) - round(0.1 * len(train_))
    assert model.predict_proba(test.inputs).shape == (len(test), 6)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "n.yaml"
    config.write_text(
        "data: {planted: {num_labels: 8, num_documents: 60, num_test_documents: 20, vocabulary_size: 100}}\n"
        "model: {kind: classifier, features: {kind: kim_cnn, num_filters: 4}, neighbours: {num_neighbours: 3}}\n"
        "training: {stages: [{name: unary, epochs: 1}]}\n"
    )
    run = str(tmp_path / "run")
    assert main(["config", "check", str(config)]) == 0
    assert main(["memory", str(config)]) == 0
    assert main(["train", str(config), "--folder", run, "-q"]) == 0
    assert main(["train", str(config), "--folder", run, "--resume", "-q"]) == 0
    assert main(["evaluate", run, "--split", "validation"]) == 0
    (tmp_path / "in.txt").write_text("w00067 w00019\n\n")
    capsys.readouterr()
    assert main(["predict", run, str(tmp_path / "in.txt"), "--top", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["train", str(config), "--set", "model.output={kind: chunked}", "--folder", run]) == 2
    assert capsys.readouterr().err.count("\n") == 1
