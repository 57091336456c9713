"""Several processes: the run of one process is the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Server
from safetensors.torch import load_file

FEATURES = {"kind": "bag_of_words", "hidden": [12], "dropout": 0.2, "input_dropout": 0.1}
SOLVER = {"kind": "mirror_descent", "steps": 3}
SPEN = {
    "kind": "energy_network",
    "features": FEATURES,
    "energy": {"kind": "spen", "num_measurements": 4, "dropout": 0.2, "condition_measurements": True},
    "solver": SOLVER,
    "label_chunk": 3,
}
LEARNED = SPEN | {
    "energy": {"kind": "spen", "num_measurements": 4, "learn_tau": True},
    "solver": {**SOLVER, "learn_step_sizes": True, "momentum": 0.3},
}
# Documents have up to four labels or so: some batches have more candidates than three.
SHORTLISTED = {key: value for key, value in SPEN.items() if key != "label_chunk"} | {
    "shortlist": {"candidates": 3, "negatives": 2, "positives": True}
}
ICNN = SPEN | {"energy": {"kind": "icnn", "hidden": [3, 3], "dropout": 0.2}}
HEAD = {"kind": "classifier", "features": FEATURES, "output": {"kind": "chunked", "chunk": 3}}
DENSE = {"kind": "classifier", "features": FEATURES}
TOKENS = {"embedding_dim": 6, "num_filters": 3, "embedding_dropout": 0.3, "dropout": 0.3}
KIM = {"kind": "classifier", "features": {"kind": "kim_cnn", **TOKENS}}
XML = {"kind": "classifier", "features": {"kind": "xml_cnn", "hidden": 8, **TOKENS}}
XML_OTHER = {"kind": "classifier", "features": {**XML["features"], "conv_axis": "embedding", "embedding_dim": 24}}

STAGED = (
    {"name": "unary", "trains": ["features", "unary"], "epochs": 2, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
    {"name": "energy", "trains": ["energy"], "epochs": 1, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
    {"name": "joint", "epochs": 2, "optimizer": {"clip_norm": 0.5, "schedule": "cosine"}},
)
CLIPPED_SGD = ({"name": "sgd", "epochs": 2, "optimizer": {"kind": "sgd", "learning_rate": 0.5, "clip_norm": 0.5}},)
ADAM = ({"name": "adam", "epochs": 2, "optimizer": {"learning_rate": 0.01}},)


def tree(
    model: dict[str, Any], stages: tuple[dict[str, Any], ...], *, shards: int = 1, loss: str = "bce", **training: Any
) -> dict[str, Any]:
    return {
        "name": "toy",
        "device": "cpu",
        "data": {"planted": {}},
        "model": model,
        "objective": {"loss": loss},
        # The last batch of 30 or 60 documents is smaller, and of odd size.
        "training": {"batch_size": 17, "stages": stages, "monitor": "loss", "parallel": {"labels": shards}, **training},
        "evaluation": {"batch_size": 7},
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(found: Path, expected: Path, tolerance: float) -> None:
    for mine, theirs in zip(lines(found), lines(expected), strict=True):
        for key in ("train_loss", "epoch", "step"):
            assert mine[key] == (theirs[key] and pytest.approx(theirs[key], rel=tolerance))
        assert mine["validation"] == pytest.approx(theirs["validation"], rel=max(tolerance, 1e-6))
    mine, theirs = (json.loads((folder / "result.json").read_text()) for folder in (found, expected))
    for split, metrics in theirs["metrics"].items():
        assert mine["metrics"][split] == pytest.approx(metrics, rel=max(tolerance, 1e-6))
    for key in ("parameters", "config_hash", "data"):
        assert mine[key] == theirs[key]
    weights = [load_file(folder / "checkpoints" / "model.safetensors") for folder in (found, expected)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=100 * tolerance, atol=100 * tolerance)


@pytest.mark.parametrize(
    ("model", "stages", "loss", "spread"),
    [
        pytest.param(SPEN, STAGED, "bce", [(2, 2), (3, 3), (2, 1)], id="spen"),
        pytest.param(ICNN, STAGED[2:], "bce", [(2, 2), (3, 1)], id="icnn"),
        pytest.param(LEARNED, STAGED[2:], "bce", [(3, 3)], id="learned"),
        pytest.param(SPEN, STAGED[2:], "bce", [(4, 2)], id="both"),
        pytest.param(SHORTLISTED, STAGED[2:], "bce", [(2, 1), (3, 1)], id="shortlist"),
        pytest.param(HEAD, CLIPPED_SGD, "bce", [(2, 2), (2, 1)], id="head-sgd"),
        pytest.param(HEAD, ADAM, "softmax", [(3, 3), (2, 1)], id="head-softmax"),
        pytest.param(DENSE, ADAM, "bce", [(3, 1)], id="dense"),
        pytest.param(DENSE | {"neighbours": {"num_neighbours": 5}}, ADAM, "bce", [(3, 1)], id="neighbours"),
        pytest.param(KIM, ADAM, "bce", [(2, 1)], id="kim"),
        pytest.param(XML, ADAM, "bce", [(3, 1)], id="xml"),
        pytest.param(XML_OTHER, ADAM, "bce", [(2, 1)], id="xml-embedding"),
    ],
)
def test_the_run_is_that_of_one_process(
    server: Server,
    tmp_path: Path,
    model: dict[str, Any],
    stages: tuple[dict[str, Any], ...],
    loss: str,
    spread: list[tuple[int, int]],
) -> None:
    data = {"labels": 7}
    server.succeed(1, "training", folder=tmp_path / "one", tree=tree(model, stages, loss=loss), data=data)
    for processes, shards in spread:
        folder = tmp_path / f"{processes}-{shards}"
        given = {"folder": folder, "tree": tree(model, stages, loss=loss, shards=shards), "data": data}
        rows = server.succeed(processes, "training", **given)
        assert rows[0] == json.loads((folder / "result.json").read_text())
        assert all(row == rows[0] for row in rows)
        assert_same_run(folder, tmp_path / "one", 1e-10)


@pytest.mark.parametrize("model", [LEARNED, ICNN, HEAD | {"features": KIM["features"]}], ids=["spen", "icnn", "head"])
def test_in_float32(server: Server, tmp_path: Path, model: dict[str, Any]) -> None:
    """Models as the configuration has them, drawn by one process."""
    for processes, shards in ((1, 1), (2, 2), (2, 1)):
        given = {"tree": tree(model, ADAM, shards=shards, cache="disk"), "double": False}
        server.succeed(processes, "training", folder=tmp_path / f"{processes}-{shards}", **given)
    assert_same_run(tmp_path / "2-2", tmp_path / "1-1", 1e-5)
    assert_same_run(tmp_path / "2-1", tmp_path / "1-1", 1e-5)


def test_features_on_disk(server: Server, tmp_path: Path) -> None:
    """Stage `energy` reads them from the run's folder, where one process has put them."""
    for processes in (1, 2):
        given = {"tree": tree(SPEN, STAGED[1:2], shards=processes, cache="disk")}
        server.succeed(processes, "training", folder=tmp_path / str(processes), **given)
    assert_same_run(tmp_path / "2", tmp_path / "1", 1e-10)
