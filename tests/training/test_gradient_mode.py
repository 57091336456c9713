"""`model.gradient` of a configuration: how training differentiates inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from toy_run import SPEN, run_toy, stage, toy_experiment

from energynets.data.batches import CachedFeatures
from energynets.errors import ConfigError
from energynets.inference import Implicit, NoGradient, Truncated, Unroll
from energynets.training.build import Sizes, build_model

MODES: dict[str, Any] = {
    "unroll": Unroll(),
    "truncated": Truncated(2),
    "implicit": Implicit(tolerance=1e-3, max_iterations=30),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "unroll": {"kind": "unroll"},
    "truncated": {"kind": "truncated", "steps": 2},
    "implicit": {"kind": "implicit", "tolerance": 1e-3, "max_iterations": 30},
}


def _model(**settings: Any) -> dict[str, Any]:
    return SPEN | settings


@pytest.mark.parametrize("kind", MODES)
def test_training_differentiates_as_the_configuration_says(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build_model(toy_experiment(_model(gradient=SETTINGS[kind])), Sizes(20, 6, tokens=False))
    assert model.gradient == MODES[kind]
    seen = []
    solve = model.solver.solve

    def watched(*arguments: Any, gradient: Any, **others: Any) -> torch.Tensor:
        seen.append(gradient)
        return solve(*arguments, gradient=gradient, **others)

    monkeypatch.setattr(model.solver, "solve", watched)
    features = CachedFeatures(torch.randn(3, 12))
    if kind != "implicit":  # which warns of three steps
        assert model(features).requires_grad
        with torch.no_grad():
            model(features)
        assert seen == [MODES[kind], NoGradient()]


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("solver", ["mirror_descent", "anderson"])
def test_every_mode_trains_the_energy(kind: str, solver: str) -> None:
    settings = toy_experiment(_model(solver={"kind": solver, "steps": 12}, gradient=SETTINGS[kind]))
    model: Any = build_model(settings, Sizes(20, 6, tokens=False))
    torch.manual_seed(0)
    features, targets = CachedFeatures(torch.randn(16, 12)), (torch.rand(16, 6) < 0.3).float()
    optimizer = torch.optim.Adam([*model.energy.parameters()], lr=0.03)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(features), targets)
        loss.backward()
        assert model.energy.measure.grad.abs().max() > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_whole_run_by_the_fixed_point(tmp_path: Path) -> None:
    stages = [stage("unary", "features", "unary"), stage("joint", "features", "unary", "energy", epochs=2)]
    model = _model(solver={"kind": "anderson"}, gradient=SETTINGS["implicit"])
    result = run_toy(tmp_path / "run", experiment=toy_experiment(model, stages=stages))
    assert result.metrics["test"]["f1_example"] > 0.4


def test_default_is_to_unroll() -> None:
    model: Any = build_model(toy_experiment(SPEN), Sizes(20, 6, tokens=False))
    assert model.gradient == Unroll()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gradient": {"kind": "implicit"}, "solver": {"kind": "mirror_descent", "learn_step_sizes": True}},
            "step sizes",
        ),
        ({"gradient": {"kind": "truncated", "steps": 0}}, "model.gradient.steps: expected 1 or more"),
        ({"gradient": {"kind": "implict"}}, "did you mean 'implicit'"),
        ({"solver": {"kind": "mirror_descent", "line_search": True, "momentum": 0.5}}, "set momentum 0"),
        ({"solver": {"kind": "anderson", "mixing": 0}}, "model.solver.mixing"),
        ({"solver": {"kind": "anderson", "momentum": 0.5}}, "model.solver.momentum: unknown key"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_experiment(_model(**settings))


def test_losses_of_every_step_need_steps() -> None:
    from energynets.config import Experiment

    tree = {"name": "a", "data": {"planted": {}}, "model": _model(gradient={"kind": "implicit"})}
    with pytest.raises(ConfigError, match=r"objective\.steps: all needs steps"):
        Experiment.from_tree(tree | {"objective": {"steps": "all"}})
