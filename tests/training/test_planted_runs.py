"""Every model kind of a configuration, from `train` to `evaluate`, on a little planted data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_run import stage

from energynets.config import Experiment
from energynets.training import build_dataset, evaluate, predict, train

PLANTED = {"num_labels": 12, "num_documents": 120, "num_test_documents": 40, "vocabulary_size": 200, "mean_length": 12}
KIM = {"kind": "kim_cnn", "embedding_dim": 8, "windows": [2, 3], "num_filters": 4}
XML = {"kind": "xml_cnn", "embedding_dim": 8, "windows": [2, 3], "num_filters": 4, "pooling_chunks": 2, "hidden": 8}
BAG = {"kind": "bag_of_words", "hidden": [16]}
STAGES = [stage("unary", "features", "unary", epochs=2), stage("energy", "energy", epochs=1)]


def network(features: dict[str, Any], energy: str) -> dict[str, Any]:
    return {"kind": "energy_network", "features": features, "energy": {"kind": energy}, "solver": {"steps": 3}}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ({"kind": "classifier", "features": KIM}, "auto"),
        ({"kind": "classifier", "features": XML}, "tokens"),
        ({"kind": "classifier", "features": BAG}, "tfidf"),
        (network(XML, "spen"), "auto"),
        (network(BAG, "icnn"), "counts"),
        ({"kind": "linear"}, "auto"),
        ({"kind": "neighbours"}, "auto"),
        ({"kind": "label_frequency"}, "auto"),
        ({"kind": "bayes_optimal"}, "auto"),
    ],
    ids=["kim_cnn", "xml_cnn", "bag_of_words", "spen", "icnn", "linear", "neighbours", "frequency", "bayes"],
)
def test_train_evaluate_predict(tmp_path: Path, model: dict[str, Any], inputs: str) -> None:
    training: dict[str, Any] = {}
    if model["kind"] == "energy_network":
        model["solver"].setdefault("kind", "mirror_descent")
        training = {"stages": STAGES}
    elif "features" in model:
        training = {"stages": STAGES[:1]}
    if model["kind"] in ("linear", "neighbours"):
        pytest.importorskip("sklearn")
    tree = {"name": "x", "device": "cpu", "data": {"planted": PLANTED, "inputs": inputs}, "model": model}
    experiment = Experiment.from_tree(tree | {"training": training})
    result = train(experiment, folder=tmp_path / "run")
    # Reading the data again, preparing them with what was saved, loading the weights: all as it was.
    assert evaluate(tmp_path / "run") == result.metrics["test"]
    assert evaluate(tmp_path / "run", split="validation") == result.metrics["validation"]
    top = predict(tmp_path / "run", build_dataset(experiment).raw.split("test").inputs)
    assert top.indices.shape[1] == 5
    assert (result.trace is not None) == (model["kind"] == "energy_network")
