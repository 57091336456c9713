"""Which objectives go with which models, and what is said where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from energynets import config_objectives
from energynets.config import Experiment
from energynets.errors import ConfigError
from energynets.objectives import OBJECTIVES, EndToEnd, InferenceNetwork
from energynets.training.build import Sizes, build_model, build_objective

FEATURES = {"kind": "bag_of_words", "hidden": [8]}
SPEN: dict[str, Any] = {"kind": "energy_network", "features": FEATURES, "energy": {"kind": "spen"}}
CLASSIFIER = {"kind": "classifier", "features": FEATURES}
OTHERS = [kind for kind in OBJECTIVES if kind != "end_to_end"]


def experiment(objective: Any, model: Any = None, **training: Any) -> Experiment:
    tree = {"name": "a", "data": {"planted": {}}, "objective": objective, "training": training}
    return Experiment.from_tree(tree | {"model": SPEN if model is None else model})


def fitting(kind: str, **extra: Any) -> dict[str, Any]:
    """A model that goes with an objective of this kind."""
    return SPEN | ({"amortized": {"hidden": [4]}} if kind == "inference_network" else {}) | extra


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_kind_is_built_and_comes_back_from_its_own_yaml(kind: str) -> None:
    found = experiment({"kind": kind}, fitting(kind))
    assert type(build_objective(found)) is OBJECTIVES[kind]
    assert build_objective(found).loss == found.objective.loss == "bce"
    assert Experiment.from_tree(found.model_dump(mode="json")) == found
    assert experiment({"kind": kind}, fitting(kind)).hash() == found.hash()


def test_a_section_without_a_kind_is_end_to_end() -> None:
    found = build_objective(experiment({"loss": "sample_f1", "convergence_penalty": 0.5}))
    assert isinstance(found, EndToEnd)
    assert (found.loss, found.convergence_penalty) == ("sample_f1", 0.5)


def test_an_amortised_start_is_built_and_trained_under_its_own_name() -> None:
    tree = fitting("inference_network", solver={"kind": "mirror_descent", "steps": 0})
    found = experiment({"kind": "inference_network"}, tree, stages=[{"name": "all"}])
    assert found.stages[0].trains == ("features", "unary", "energy", "inference")
    model = build_model(found, Sizes(20, 6, tokens=False))
    assert [len(group) > 0 for group in model.parameter_groups().values()] == [True] * 4
    assert isinstance(build_objective(found), InferenceNetwork)
    plain = build_model(experiment({}, SPEN), Sizes(20, 6, tokens=False))
    assert plain.energy.measure.equal(model.energy.measure)  # drawn before it


def test_a_stage_of_the_start_alone_may_have_its_own_optimizer() -> None:
    stage = {"name": "start", "trains": ["inference"], "optimizer": {"inference": {"learning_rate": 0.1}}}
    found = experiment({"kind": "inference_network"}, fitting("inference_network"), stages=[stage])
    assert found.stages[0].optimizer.of("inference").learning_rate == 0.1


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_chunk": 2}, r"model\.label_chunk goes with end_to_end alone, got {kind}: set it to null"),
        ({"shortlist": 2}, r"model\.shortlist goes with end_to_end alone, got {kind}: set it to null"),
        ({"gradient": {"kind": "truncated"}}, r"model\.gradient: {kind} does not differentiate inference"),
        ({"solver": {"kind": "mirror_descent", "learn_step_sizes": True}}, r"learn_step_sizes: {kind} does not"),
    ],
)
def test_what_reads_energies_reads_all_labels_and_does_not_differentiate_inference(
    kind: str, change: dict[str, Any], message: str
) -> None:
    model = fitting(kind, **change)
    if "label_chunk" in change or "shortlist" in change:
        model |= {"amortized": None}
    with pytest.raises(ConfigError, match=message.format(kind=kind)):
        experiment({"kind": kind}, model)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_reads_energies_needs_one(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind} needs model.kind energy_network, got classifier"):
        experiment({"kind": kind}, CLASSIFIER)
    with pytest.raises(ConfigError, match=f"compile: {kind} goes with none alone, got graph"):
        experiment({"kind": kind}, fitting(kind), compile="graph")


@pytest.mark.parametrize(
    ("objective", "model", "message"),
    [
        (
            {"kind": "inference_network"},
            {},
            r"objective\.kind: inference_network trains an amortised start: set model\.",
        ),
        ({"kind": "contrastive"}, {"amortized": {}}, r"model\.amortized: contrastive does not train it"),
        ({"kind": "value_network"}, {"solver": {"kind": "anderson"}}, "value_network changes the energy"),
        (
            {"kind": "structured_hinge", "cost": "f1"},
            {"solver": {"kind": "anderson"}},
            "structured_hinge with cost f1 changes the energy that is minimised, which anderson does not take",
        ),
        ({"convergence_penalty": 1.0}, {"label_chunk": 2}, "convergence_penalty: reads all labels at once"),
        ({"convergence_penalty": 1.0}, {"gradient": {"kind": "implicit"}}, "implicit assumes convergence"),
        ({}, {"amortized": {}, "label_chunk": 2}, "amortized: its start is of all labels at once"),
        (
            {},
            {"amortized": {}, "solver": {"kind": "mirror_descent", "initial": "uniform"}},
            r"amortized: says where inference starts: leave out solver\.initial uniform",
        ),
        ({"kind": "structured_hinges"}, {}, r"unknown kind 'structured_hinges' \(did you mean 'structured_hinge'"),
        ({"kind": "contrastive", "sample": 3}, {}, r"objective\.sample: unknown key 'sample' \(did you mean 'samples'"),
        ({"kind": "structured_hinge", "cost": "haming"}, {}, "did you mean 'hamming'"),
    ],
)
def test_what_does_not_go_together_is_named(objective: Any, model: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(objective, SPEN | model)


def test_hamming_hinge_takes_every_solver() -> None:
    experiment({"kind": "structured_hinge"}, SPEN | {"solver": {"kind": "anderson"}})
    icnn = SPEN | {"energy": {"kind": "icnn"}, "solver": {"kind": "bundle_entropy"}}
    experiment({"kind": "structured_hinge"}, icnn)


def test_a_stage_of_inference_needs_an_amortised_start() -> None:
    with pytest.raises(ConfigError, match=r"training\.stages\.0\.trains: 'inference' needs model\.amortized"):
        experiment({}, SPEN, stages=[{"name": "a", "trains": ["inference"]}])


def test_penalty_needs_inference() -> None:
    with pytest.raises(ConfigError, match=r"convergence_penalty: needs model\.kind energy_network, got classifier"):
        experiment({"convergence_penalty": 1.0}, CLASSIFIER)


def test_every_objective_has_a_section() -> None:
    arms = config_objectives.Objective.__args__[0].__args__  # type: ignore[attr-defined]
    assert [arm.model_fields["kind"].default for arm in arms] == list(OBJECTIVES)
