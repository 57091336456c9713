"""The benchmark of ensembles: one member is the run itself, and all members of all seeds are one ensemble."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import ensembles
from energynets.compare.plan import load_plan
from energynets.compare.suite import compare_plan

PLANTED = {"num_labels": 12, "num_documents": 200, "num_test_documents": 60, "vocabulary_size": 60}
BASE = {
    "data": {"planted": PLANTED, "inputs": "counts"},
    "model": {"features": {"kind": "bag_of_words", "hidden": [8]}},
    "training": {"batch_size": 32},
}
UNARY = {"name": "unary", "trains": ["features", "unary"], "epochs": 2}
ENERGY = {"name": "energy", "trains": ["energy"], "epochs": 1, "cross_fit": 2}
SPEN = {"kind": "energy_network", "energy": {"kind": "spen", "num_measurements": 4}}


def write_table(folder: Path, *kinds: str) -> Path:
    rows = {
        "classifier": {"model": {"kind": "classifier"}, "training": {"stages": [UNARY]}},
        "spen": {"model": SPEN, "training": {"stages": [UNARY, ENERGY]}},
    }
    folder.mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    for kind in kinds:
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "name": kind, **rows[kind]}))
    plan = {"name": "table", "rows": [{"config": f"{kind}.yaml"} for kind in kinds], "seeds": 3, "linear": False}
    (folder / "table.yaml").write_text(
        yaml.safe_dump(plan | {"data": [{"name": "planted", "planted": PLANTED, "inputs": "counts"}]})
    )
    suite = compare_plan(*load_plan(folder / "table.yaml"), folder=folder / "out", processes=2)
    assert suite.failures == []
    return folder / "out" / "planted"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("ensembles") / "table", "classifier", "spen")


def test_one_member_is_the_run_itself(table: Path) -> None:
    found = ensembles.measure_set(table)
    assert found is not None
    rows = {row["name"]: row for row in json.loads((table / "results.json").read_text())["rows"]}
    for name in ("classifier", "spen"):
        for metric in ensembles.METRICS:
            own = [run["metrics"]["test"][metric] for run in rows[name]["results"]]
            np.testing.assert_allclose(found["rows"][name]["1"]["test"][metric]["values"], own, rtol=1e-6)
    assert "spen" in ensembles.report("planted", found)


def test_the_rival_has_as_many_trainings(table: Path) -> None:
    found = ensembles.measure_set(table)
    assert found is not None
    assert found["members"] == 3
    three = found["rows"]["classifier"]["3"]["test"]["precision@1"]
    assert three["std"] == pytest.approx(0, abs=1e-12)  # all three seeds, whichever is first
    (gain,) = (gain for gain in found["gains"] if gain["metric"] == "precision@1")
    assert (gain["energy"], gain["ensemble"]) == ("spen", "classifier")
    alone = found["rows"]["spen"]["1"]["test"]["precision@1"]["mean"]
    assert gain["mean"] == pytest.approx(alone - three["mean"], abs=1e-7)  # documents are float32
    assert gain["low"] <= gain["mean"] <= gain["high"]


def test_without_a_cross_fitted_energy_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert ensembles.measure_set(write_table(tmp_path / "table", "classifier")) is None
