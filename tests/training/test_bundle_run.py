"""`bundle_entropy` in a configuration: it trains, its memory is counted, what it cannot do is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_run import SPEN, run_toy, stage, toy_experiment

from energynets.config import Experiment
from energynets.errors import ConfigError
from energynets.memory import estimate
from energynets.training.build import Sizes


def model(**settings: Any) -> dict[str, Any]:
    return SPEN | {"energy": {"kind": "icnn", "hidden": [3, 3]}, "solver": {"kind": "bundle_entropy"}} | settings


@pytest.mark.parametrize("gradient", ["unroll", "implicit"])
def test_it_trains_as_a_long_unroll_does(gradient: str, tmp_path: Path) -> None:
    stages = [stage("unary", "features", "unary"), stage("joint", "features", "unary", "energy")]
    mode = {"kind": gradient} | ({"tolerance": 1e-2} if gradient == "implicit" else {})
    bundle = model(gradient=mode)
    mirror = model(solver={"kind": "mirror_descent", "steps": 40, "step_size": 0.5})
    ours, theirs = (
        run_toy(tmp_path / name, experiment=toy_experiment(settings, stages=stages))
        for name, settings in (("bundle", bundle), ("mirror", mirror))
    )
    assert ours.metrics["validation"] == pytest.approx(theirs.metrics["validation"], abs=0.03)


def test_memory_is_that_of_the_minimum_and_not_of_the_way_there() -> None:
    sizes = Sizes(20, 6, tokens=False)
    few, many = (
        estimate(toy_experiment(model(solver={"kind": "bundle_entropy", "steps": steps})), sizes) for steps in (1, 50)
    )
    assert few.stages[-1].step == many.stages[-1].step > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energy": {"kind": "spen"}}, "bundle_entropy needs a convex energy: use energy.kind icnn"),
        ({"gradient": {"kind": "truncated"}}, "bundle_entropy has no last steps"),
        ({"solver": {"kind": "bundle_entropy", "tolerance": 0}}, "model.solver.tolerance"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_experiment(model(**settings))


def test_losses_of_every_step_need_steps() -> None:
    tree = {"name": "a", "data": {"planted": {}}, "model": model(), "objective": {"steps": "all"}}
    with pytest.raises(ConfigError, match=r"objective\.steps: all needs steps, and model\.solver bundle_entropy"):
        Experiment.from_tree(tree)
