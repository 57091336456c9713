"""u0 starts at the log odds of the training labels where `training.initial_bias` says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from toy_run import CLASSIFIER, SPEN, stage, toy_data, toy_experiment

from energynets.errors import ConfigError
from energynets.estimator import EnergyNetClassifier
from energynets.training import load_run, train
from energynets.training.initial_bias import log_odds
from energynets.training.seeds import train_seeds

STILL = {"kind": "sgd", "learning_rate": 1e-12}


def test_log_odds_are_of_the_documents_that_know_of_a_label() -> None:
    labels = csr_array(np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=np.float32))
    unknown = csr_array(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=np.float32))
    expected = [math.log(4.1 / 0.1), math.log(0.1 / 4.1), math.log(1.1 / 3.1)]
    assert log_odds(labels).tolist() == pytest.approx(expected, rel=1e-6)
    expected = [math.log(4.1 / 0.1), math.log(0.1 / 3.1), math.log(1.1 / 1.1)]
    assert log_odds(labels, unknown).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("model", [CLASSIFIER, SPEN], ids=["classifier", "spen"])
def test_a_run_starts_there(model: dict[str, Any], tmp_path: Path) -> None:
    data = toy_data()
    still = stage("unary", "features", "unary", epochs=1, optimizer=STILL)
    experiment = toy_experiment(model, stages=[still], initial_bias="frequencies")
    train(experiment, folder=tmp_path / "alone", data=data)
    train_seeds(experiment, [experiment.seed], [tmp_path / "together"], data=data)
    expected = log_odds(data.prepared.split("train").labels)
    for name in ("alone", "together"):
        found = load_run(tmp_path / name).model
        torch.testing.assert_close(getattr(found, "energy", found).unary.bias.data, expected)


def test_an_output_without_bias_is_refused(tmp_path: Path) -> None:
    still = stage("unary", "features", "unary", epochs=1, optimizer=STILL)
    experiment = toy_experiment(CLASSIFIER | {"bias": False}, stages=[still], initial_bias="frequencies")
    with pytest.raises(ConfigError, match="initial_bias"):
        train(experiment, folder=tmp_path / "run", data=toy_data())


def test_an_estimator_starts_there() -> None:
    train_ = toy_data().raw.split("train")
    still = (f"training.stages.0.optimizer={{kind: sgd, learning_rate: {STILL['learning_rate']}}}",)
    settings = ("training.initial_bias=frequencies", "training.batch_size=1000", *still)
    model = EnergyNetClassifier(energy="none", epochs=1, hidden=(8,), settings=settings, random_state=0)
    model.fit(train_.inputs, train_.labels.toarray())
    bias = model.model_.unary.bias.detach()
    frequent = np.argsort(-train_.labels.sum(0))
    assert (bias < 2).all()
    assert bias[int(frequent[0])] > bias[int(frequent[-1])]
    other = EnergyNetClassifier(energy="none", epochs=1, hidden=(8,), settings=still, random_state=0)
    other.fit(train_.inputs, train_.labels.toarray())
    assert (bias - other.model_.unary.bias.detach()).abs().max() > 0.5
