"""Every shipped configuration is executed, on few documents and for one epoch a stage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from energynets.compare.plan import load_plan
from energynets.config import Experiment
from energynets.memory import estimate, sizes_of
from energynets.training import train

ROOT = Path(__file__).parents[1]
# A name with an underscore is what experiments share, not an experiment.
COMPARISONS = sorted((ROOT / "configs" / "comparisons").glob("*.yaml"))
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("[!_]*.yaml") if path not in COMPARISONS)
DEMONSTRATION = sorted((ROOT / "energynets" / "compare" / "demonstration").glob("[!_]*.yaml"))
SMALL_PLANTED = {
    "num_labels": 12,
    "num_documents": 120,
    "num_test_documents": 40,
    "vocabulary_size": 300,
    "block_size": 4,
    "mean_labels": 3.0,
}


def small(experiment: Experiment) -> Experiment:
    """The same experiment on few documents: of its own data set where that is here, else planted ones."""
    tree: dict[str, Any] = experiment.model_dump(mode="json")
    data = tree["data"]
    if data["planted"] is not None:
        data["planted"] |= {key: min(data["planted"][key], value) for key, value in SMALL_PLANTED.items()}
    elif Path(os.environ.get("ENERGYNETS_DATA", "/nonexistent")).is_dir():
        data["max_documents"] = 120
    else:
        tables = tree["model"].get("features", {}).get("kind", "bag_of_words") == "bag_of_words"
        tree["data"] = {"planted": SMALL_PLANTED, "inputs": "counts" if tables else "tokens"}
    for stage in tree["training"]["stages"] or ():
        stage["epochs"] = 1
    return Experiment.from_tree(tree)


@pytest.mark.parametrize("path", CONFIGS + DEMONSTRATION, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_runs(path: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(path)
    if experiment.name == "memory-case-study":
        assert estimate(experiment, sizes_of(experiment)).parameters == 358_555_456
        return
    if experiment.model.kind == "label_tree":
        pytest.importorskip("napkinxc")
    result = train(small(experiment), folder=tmp_path / "run")
    assert 0 <= result.metrics["test"]["precision@1"] <= 1


def test_the_quick_comparison_is_part_of_the_whole_one() -> None:
    quick, whole = (load_plan(ROOT / "configs" / "comparisons" / f"{name}.yaml")[1] for name in ("quick", "table"))
    for data, rows in quick.items():
        hashes = {row.experiment.name: row.experiment.hash() for row in whole[data]}
        assert {row.experiment.name: row.experiment.hash() for row in rows}.items() <= hashes.items()


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_runs(path: Path, tmp_path: Path) -> None:
    """Every row on its first data set, at one end of what is searched; the other sets are read as settings alone."""
    _, tables = load_plan(path)
    for row in {row.experiment.name: row for rows in reversed(tables.values()) for row in rows}.values():
        experiment = row.at({setting: space.ends()[0] for setting, space in row.search.items()})
        result = train(small(experiment), folder=tmp_path / experiment.name)
        assert 0 <= result.metrics["test"]["precision@1"] <= 1


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 15
    assert len(COMPARISONS) >= 2
