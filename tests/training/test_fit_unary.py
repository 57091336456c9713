"""An output layer that is solved for: the linear baseline as a network, and an energy on top of it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from test_cross_fit import learned_from
from toy_run import CLASSIFIER, FEATURES, SPEN, stage, toy_data, toy_experiment

from energynets.baselines import LinearOneVsRest
from energynets.errors import ConfigError
from energynets.parallel.launch import check
from energynets.training import BuiltData, Interrupted, Progress, RunFolder, load_run, train
from energynets.training.cross_fit import fold_rows
from energynets.training.seeds import cannot

pytest.importorskip("sklearn")
LINEAR = {"kind": "bag_of_words", "hidden": []}
FIT = {"name": "unary", "trains": ["unary"], "fit": {"C": 3.0}}
BF16 = {"kind": "chunked", "weights": "bf16"}
ENERGY = stage("energy", "energy", epochs=2, keep="last", cross_fit=3, loss="mse")


def with_unknown(data: BuiltData) -> BuiltData:
    """The same, and of some labels that are false nobody knows."""
    documents = data.prepared.documents
    hidden = np.random.default_rng(1).random(documents.labels.shape) < 0.2
    unknown = csr_array((hidden & (documents.labels.toarray() == 0)).astype(np.float32))
    return replace(data, prepared=replace(data.prepared, documents=replace(documents, unknown=unknown)))


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
def test_without_hidden_layers_it_is_the_linear_baseline(tmp_path: Path, loss: str, unknown: bool) -> None:
    data = with_unknown(toy_data()) if unknown else toy_data()
    fit = {**FIT, "fit": {"C": 3.0, "loss": loss}}
    train(toy_experiment({**CLASSIFIER, "features": LINEAR}, stages=[fit]), folder=tmp_path / "run", data=data)
    model = load_run(tmp_path / "run").model
    baseline = LinearOneVsRest(loss, 3.0).fit(data.prepared.split("train"))  # type: ignore[arg-type]
    np.testing.assert_allclose(model.unary.weight.detach().numpy().T, baseline.weights, rtol=1e-6)
    np.testing.assert_allclose(model.unary.bias.detach().numpy(), baseline.bias, rtol=1e-6)


def test_its_gradient_is_zero(tmp_path: Path) -> None:
    """On features that a stage before it has trained: |U|^2 / 2 + |u0|^2 / 2 + C sum loss is least there."""
    data = toy_data()
    stages = [stage("both", "features", "unary", epochs=2), FIT]
    train(toy_experiment(stages=stages), folder=tmp_path / "run", data=data)
    model, documents = load_run(tmp_path / "run").model.double(), data.prepared.split("train")
    table = torch.from_numpy(documents.inputs.toarray()).double()  # type: ignore[union-attr]
    features = torch.relu(table @ model.features.first.weight + model.features.first.bias).detach()
    logits = model.unary(features)
    targets = torch.from_numpy(documents.labels.toarray()).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    penalty = (model.unary.weight.square().sum() + model.unary.bias.square().sum()) / 2
    gradients = torch.autograd.grad(penalty + 3.0 * loss, [model.unary.weight, model.unary.bias])
    scale = torch.autograd.grad(model.unary(features).square().sum(), model.unary.weight)[0].norm()
    assert all(gradient.norm() < 1e-3 * scale for gradient in gradients)


def test_a_stage_before_it_keeps_its_features(tmp_path: Path) -> None:
    stages = [stage("both", "features", "unary", epochs=2, keep="last")]
    train(toy_experiment(stages=stages), folder=tmp_path / "one", data=toy_data())
    train(toy_experiment(stages=[*stages, FIT]), folder=tmp_path / "two", data=toy_data())
    one, two = (load_run(tmp_path / name).model for name in ("one", "two"))
    for ours, theirs in zip(one.features.parameters(), two.features.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(one.unary.weight, two.unary.weight)


def test_the_energy_learns_from_held_out_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, data = learned_from(monkeypatch), toy_data()
    train(toy_experiment({**SPEN, "features": LINEAR}, stages=[FIT, ENERGY]), folder=tmp_path / "run", data=data)
    documents = data.prepared.split("train")
    for rows in fold_rows(len(documents), 3, 0):
        rest = np.setdiff1d(np.arange(len(documents)), rows)
        own = LinearOneVsRest("logistic", 3.0).fit(documents[rest]).decisions(documents[rows].inputs)
        np.testing.assert_allclose(found[0][torch.from_numpy(rows)], own, rtol=1e-4, atol=1e-5)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [(row["name"], row["epochs"]) for row in result["stages"]] == [("unary", 1), ("energy", 2)]
    assert result["stages"][0]["best_epoch"] == 1
    assert result["examples_per_second"] > 0


class Stopping(Progress):
    """Sends SIGINT once so many labels have been fitted, 7 is all and a document scored, in that stage announced."""

    def __init__(self, at: tuple[int, int]) -> None:
        self.at, self.stages = at, 0
        self.steps: list[int] = []

    def stage(self, name: str, number: int, stages: int, epochs: int, steps: int) -> None:
        self.stages += 1
        self.steps.append(steps)

    def fitting(self, done: int, total: int) -> None:
        if (self.stages, done) == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def scoring(self, *_: Any) -> None:
        self.fitting(7, 6)


@pytest.mark.parametrize(
    ("at", "left"),
    [((1, 2), 4), ((1, 6), 4), ((1, 7), 3), ((4, 3), 2), ((4, 7), 1)],
    ids=["midway", "at its end", "evaluated", "in a fold", "in a fold, evaluated"],
)
def test_an_interrupted_fit_goes_on(tmp_path: Path, at: tuple[int, int], left: int) -> None:
    """Of the four fits, all documents' and three folds', as many are left."""
    experiment = toy_experiment({**SPEN, "features": LINEAR}, stages=[FIT, ENERGY])
    train(experiment, folder=tmp_path / "whole", data=toy_data())
    progress = Stopping(at)
    with pytest.raises(Interrupted):
        train(experiment, folder=tmp_path / "run", data=toy_data(), progress=progress)
    assert [steps > 0 for steps in progress.steps] == [False, True, False, False][: at[0]]  # energy, then its folds
    fits: list[int] = []

    class Counting(Progress):
        def fitting(self, done: int, total: int) -> None:
            fits.extend([1] * (done == total))

    train(experiment, folder=tmp_path / "run", data=toy_data(), resume=True, progress=Counting())
    assert len(fits) == left
    one, two = (load_run(tmp_path / name).model.state_dict() for name in ("whole", "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    lines = [RunFolder(tmp_path / name).metrics.read_text().splitlines() for name in ("whole", "run")]
    assert [json.loads(line)["validation"] for line in lines[0]] == [
        json.loads(line)["validation"] for line in lines[1]
    ]


def test_no_validation_documents(tmp_path: Path) -> None:
    experiment = toy_experiment({**CLASSIFIER, "features": LINEAR}, stages=[FIT])
    result = train(experiment, folder=tmp_path / "run", data=toy_data(validation=False))
    assert result.stages[0]["best_value"] is None


@pytest.mark.parametrize(
    ("model", "stages", "words"),
    [
        ({}, [{**FIT, "trains": ["features", "unary"]}], "trains: [unary]"),
        ({}, [{**FIT, "trains": []}], "trains: [unary]"),
        ({}, [{**FIT, "epochs": 3}], "epochs: a stage with fit"),
        ({}, [{**FIT, "optimizer": {"learning_rate": 0.1}}], "optimizer: a stage with fit"),
        ({}, [{**FIT, "loss": "mse"}], "loss: a stage with fit"),
        ({}, [{**FIT, "patience": 2}], "patience: a stage with fit"),
        ({}, [{**FIT, "fit": {"C": 0.0}}], "C"),
        ({"bias": False}, [FIT], "model.bias to true"),
        ({"neighbours": {}}, [FIT], "model.neighbours to null"),
        ({"output": BF16}, [FIT], "training.stages.0.fit: what it solves for .* model.output.weights to float32"),
        (
            {"output": BF16},
            [stage("both", optimizer={"kind": "sgd"}), FIT],
            "training.stages.1.fit: what it solves for .* model.output.weights to float32",
        ),
        ({**SPEN, "features": FEATURES}, [FIT, ENERGY], "stages before it train features and unary"),
        ({**SPEN, "features": LINEAR}, [ENERGY], "stages before it train unary"),
    ],
)
def test_what_does_not_go_with_it_is_said(model: dict[str, Any], stages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", r"\[").replace("]", r"\]")):
        toy_experiment({**CLASSIFIER, **model}, stages=stages)


def test_a_bias_that_it_would_overwrite_is_refused() -> None:
    words = "training.stages.0.fit: the first stage .* training.initial_bias frequencies: set it to random"
    with pytest.raises(ConfigError, match=words):
        toy_experiment(stages=[FIT], initial_bias="frequencies")
    first = stage("features", "features", epochs=1)
    assert toy_experiment(stages=[first, FIT], initial_bias="frequencies").stages[1].fit, "u0 counts before it"


def test_it_goes_neither_with_softmax_nor_propensity_nor_known_labels_nor_processes() -> None:
    good = toy_experiment({**CLASSIFIER, "features": LINEAR}, stages=[FIT])
    tree = good.model_dump(mode="json")
    for change, words in (
        ({"objective": {"kind": "end_to_end", "loss": "softmax"}}, "objective.loss is softmax"),
        ({"objective": {"propensity": 0.5}}, "training.stages.0.fit: counts .* set objective.propensity to null"),
        (
            {"model": {**tree["model"], "observes": True}, "training": {**tree["training"], "reveal": {}}},
            "model.observes to false",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            type(good).from_tree({**tree, **change})
    with pytest.raises(ConfigError, match="fit: expected one process, got 2"):
        check(good, 2)
    assert cannot(good) == "training.stages: expected fit null, which has no steps to share"


def test_settings_that_have_none_are_the_settings_of_before() -> None:
    """Runs of before there was a choice are found by their hash."""
    assert toy_experiment().hash() == "f8d01cec5593cbfe"
