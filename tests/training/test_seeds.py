"""Seeds that train at once end where each ends alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn
from toy_run import CLASSIFIER, FEATURES, SPEN, stage, staged_experiment, toy_data, toy_experiment

from energynets.config import Experiment
from energynets.data.batches import collate
from energynets.errors import ConfigError, TrainingError
from energynets.features import BagOfWords
from energynets.features.stacked import stacked_features
from energynets.objectives import EndToEnd
from energynets.training import Sizes, build_model, evaluate, load_run, train
from energynets.training.seeds import FEW_WEIGHTS, Stack, _Step, cannot, train_in_one_process, train_seeds, worth_it

ICNN = SPEN | {"energy": {"kind": "icnn", "hidden": [4, 3], "gate": True}}
DEEP = SPEN | {
    "features": FEATURES | {"hidden": [12, 7], "activation": "softplus"},
    "energy": {"kind": "spen", "num_measurements": 4, "hidden": [5], "learn_tau": True},
    "solver": {"kind": "gradient_descent", "steps": 2, "learn_step_sizes": True, "momentum": 0.5},
}
LINEAR = {"kind": "classifier", "features": FEATURES | {"hidden": []}}
SEEDS = (3, 0, 11)


def together_and_alone(experiment: Experiment, folder: Path, **data: Any) -> list[tuple[Any, Any]]:
    """Finished runs of each seed, read back."""
    built = toy_data(**data)
    train_seeds(experiment, SEEDS, [folder / f"together{seed}" for seed in SEEDS], data=built)
    for seed in SEEDS:
        train(experiment.model_copy(update={"seed": seed}), folder=folder / f"alone{seed}", data=built)
    return [(load_run(folder / f"together{seed}"), load_run(folder / f"alone{seed}")) for seed in SEEDS]


def lines(run: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", [CLASSIFIER, LINEAR, SPEN, DEEP, ICNN], ids=["bag", "linear", "spen", "deep", "icnn"])
def test_each_seed_is_as_alone(model: dict[str, Any], tmp_path: Path) -> None:
    stages = [stage("all", epochs=3, optimizer={"kind": "sgd", "learning_rate": 0.05, "clip_norm": 0.5})]
    pairs = together_and_alone(toy_experiment(model, stages=stages), tmp_path)
    for together, alone in pairs:
        for name, weight in alone.model.state_dict().items():
            torch.testing.assert_close(together.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
        assert together.result.metrics["test"] == pytest.approx(alone.result.metrics["test"], abs=1e-6)
        assert together.threshold == pytest.approx(alone.threshold, rel=1e-4)
        assert [line["epoch"] for line in lines(together)] == [0, 1, 2, 3]
        for ours, theirs in zip(lines(together), lines(alone), strict=True):
            assert (ours["train_loss"] or 0) == pytest.approx(theirs["train_loss"] or 0, rel=1e-4)
            assert ours["validation"] == pytest.approx(theirs["validation"], abs=1e-6)
    first, second = (
        pair[0].model.unary.weight if model["kind"] == "classifier" else pair[0].model.energy.measure
        for pair in pairs[:2]
    )
    assert (first - second).abs().max() > 0.01


def test_stages_schedules_and_every_optimiser(tmp_path: Path) -> None:
    """Cached features, frozen weights, Adam, momentum: the losses of every epoch are those of the seed alone."""
    for together, alone in together_and_alone(staged_experiment(3), tmp_path):
        ours, theirs = lines(together), lines(alone)
        assert [(line["stage"], line["epoch"], line["step"]) for line in ours] == [
            (line["stage"], line["epoch"], line["step"]) for line in theirs
        ]
        for our, their in zip(ours, theirs, strict=True):
            assert (our["train_loss"] or 0) == pytest.approx(their["train_loss"] or 0, rel=1e-3)


def test_each_seed_stops_for_itself(tmp_path: Path) -> None:
    """Those that have ended neither move nor draw while the others go on, and the next stage finds all of them."""
    optimizer = {"kind": "sgd", "learning_rate": 0.3}
    stages = [
        stage("early", "features", "unary", epochs=12, patience=1, optimizer=optimizer),
        stage("last", "energy", epochs=2, keep="last", patience=1, optimizer=optimizer),
        stage("all", epochs=2, optimizer=optimizer),
    ]
    pairs = together_and_alone(toy_experiment(SPEN, stages=stages, monitor="loss"), tmp_path)
    ended = [[(row["epochs"], row["best_epoch"]) for row in together.result.stages] for together, _ in pairs]
    assert len({rows[0] for rows in ended}) > 1, "the seeds stop at different epochs"
    for (together, alone), rows in zip(pairs, ended, strict=True):
        assert rows == [(row["epochs"], row["best_epoch"]) for row in alone.result.stages]
        for name, weight in alone.model.state_dict().items():
            torch.testing.assert_close(together.model.state_dict()[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", [SPEN, DEEP, ICNN], ids=["spen", "deep", "icnn"])
@pytest.mark.parametrize("loss", ["bce", "soft_f1"])
def test_gradients_are_those_of_each_seed(model: dict[str, Any], loss: str) -> None:
    data = toy_data()
    sizes, train_split = Sizes.of(data.prepared), data.prepared.split("train")
    experiment = toy_experiment(model)
    seeds = [experiment.model_copy(update={"seed": seed}) for seed in SEEDS]
    alone = [build_model(settings, sizes).double().eval() for settings in seeds]
    skeleton = build_model(seeds[0], sizes).double()
    stack = Stack([skeleton, *[build_model(settings, sizes).double() for settings in seeds[1:]]])
    objective = EndToEnd(loss, steps="all")
    batches = [collate(train_split, np.arange(start, start + 9)) for start in (0, 20, 40)]
    step = _Step(skeleton, objective, stack.of(skeleton), list(stack.weights.values()), None)
    numbers = step.gradients(batches, [None] * 3)
    for number, (single, batch) in enumerate(zip(alone, batches, strict=True)):
        value = objective(single, batch)
        value.backward()
        assert numbers[number, 0].item() == pytest.approx(value.item(), rel=1e-6)
        grads = {name: weight.grad for name, weight in single.named_parameters() if weight.grad is not None}
        for name, grad in grads.items():
            torch.testing.assert_close(stack.weights[name].grad[number], grad, rtol=1e-9, atol=1e-12)
        assert numbers[number, 1].item() == pytest.approx(nn.utils.get_total_norm(list(grads.values())).item())


@pytest.mark.parametrize("share", [0.02, 0.5], ids=["sparse", "dense"])
def test_stacked_features_are_those_of_each(share: float) -> None:
    torch.manual_seed(0)
    from scipy.sparse import random_array

    from energynets.data.batches import sparse_batch

    networks = [BagOfWords(60, hidden=(8, 5), dropout=0.4, input_dropout=0.3) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(networks)
    rng = np.random.default_rng(0)
    tables = [sparse_batch(random_array((6, 60), density=share, format="csr", rng=rng)) for _ in networks]
    generators = [torch.Generator().manual_seed(7), None, torch.Generator().manual_seed(9)]
    found = stacked_features(networks[0], weights, tables, generators)
    for number, (network, seed) in enumerate(zip(networks, (7, None, 9), strict=True)):
        network.train(seed is not None)
        torch.manual_seed(seed or 0)
        torch.testing.assert_close(found[number], network(tables[number]))


def test_runs_are_as_train_writes_them(tmp_path: Path) -> None:
    stages = [stage("all", epochs=1)]
    experiment = toy_experiment(SPEN, stages=stages)
    results = train_seeds(experiment, (1, 2), [tmp_path / "a", tmp_path / "b"], data=toy_data())
    assert [result.seed for result in results] == [1, 2]
    assert evaluate(tmp_path / "b", toy_data().raw) == pytest.approx(results[1].metrics["test"])
    assert load_run(tmp_path / "a").experiment.seed == 1
    one = experiment.model_copy(update={"seed": 1})
    assert train(one, folder=tmp_path / "a", data=toy_data(), resume=True) == results[0]
    with pytest.raises(ConfigError, match="there is a run here already"):
        train_seeds(experiment, (1, 3), [tmp_path / "a", tmp_path / "c"], data=toy_data())


def test_what_cannot_is_refused_by_name(tmp_path: Path) -> None:
    chunked = CLASSIFIER | {"output": {"kind": "chunked"}}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"kind": "linear"}, {}, "model.kind linear"),
        (CLASSIFIER | {"features": {"kind": "kim_cnn"}}, {}, "model.features.kind: expected bag_of_words"),
        (chunked, {}, "model.output.kind"),
        (SPEN | {"energy": {"kind": "spen", "dropout": 0.1}}, {}, "model.energy.dropout"),
        (SPEN | {"gradient": {"kind": "implicit"}}, {}, "model.gradient.kind"),
        (SPEN | {"solver": {"kind": "anderson"}}, {}, "model.solver.kind"),
        (SPEN | {"shortlist": 3}, {}, "model.shortlist"),
        (SPEN | {"solver": {"kind": "mirror_descent", "precision": "bf16"}}, {}, "model.solver.precision"),
        (SPEN, {"compile": "engine"}, "training.compile"),
        (SPEN, {"reveal": {}}, "training.reveal: expected null"),
        (CLASSIFIER | {"observes": True}, {"reveal": {}}, "training.reveal: expected null"),
    ]
    for model, training, reason in cases:
        experiment = toy_experiment(model, **training)
        assert reason in (cannot(experiment) or "")
        assert not worth_it(experiment, 5, Sizes(20, 6, False))
        with pytest.raises(ConfigError, match="several seeds at once"):
            train_seeds(experiment, (0, 1), [tmp_path / "a", tmp_path / "b"], data=toy_data())
    with pytest.raises(ConfigError, match="different seeds"):
        train_seeds(toy_experiment(SPEN), (0, 0), [tmp_path / "a", tmp_path / "b"], data=toy_data())
    assert not list(tmp_path.iterdir())


def test_labels_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    data = toy_data()
    unknown = csr_array(1 - data.raw.documents.labels.toarray())
    prepared = replace(data.prepared, documents=replace(data.prepared.documents, unknown=unknown))
    folders = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(ConfigError, match="expected data whose labels are all known"):
        train_seeds(toy_experiment(SPEN), (0, 1), folders, data=replace(data, prepared=prepared))


@pytest.mark.parametrize("propensity", [0.5, "jain"])
def test_a_propensity_and_a_rest_that_is_measured_are_as_alone(propensity: Any, tmp_path: Path) -> None:
    stages = [stage("all", epochs=2, optimizer={"kind": "sgd", "learning_rate": 0.05})]
    tree = toy_experiment(CLASSIFIER, stages=stages).model_dump(mode="json")
    tree |= {"objective": {"propensity": propensity}, "evaluation": {"observed": [0.5]}}
    for together, alone in together_and_alone(Experiment.from_tree(tree), tmp_path):
        for ours, theirs in zip(lines(together), lines(alone), strict=True):
            assert (ours["train_loss"] or 0) == pytest.approx(theirs["train_loss"] or 0, rel=1e-4)
        assert together.result.observed["0.5"]["test"] == pytest.approx(alone.result.observed["0.5"]["test"], abs=1e-6)


def test_a_seed_that_diverges_stops_all(tmp_path: Path) -> None:
    stages = [stage("all", epochs=3, optimizer={"kind": "sgd", "learning_rate": 1e30})]
    with pytest.raises(TrainingError, match="learning_rate"):
        train_seeds(toy_experiment(SPEN, stages=stages), (0, 1), [tmp_path / "a", tmp_path / "b"], data=toy_data())


def test_it_is_worth_it_for_several_seeds_of_few_weights() -> None:
    few, many = Sizes(20, 6, False), Sizes(FEW_WEIGHTS // 12 + 1, 6, False)
    experiment = toy_experiment(SPEN)
    assert cannot(experiment) is None
    assert worth_it(experiment, 2, few)
    assert not worth_it(experiment, 1, few)
    assert not worth_it(experiment, 2, many)


def planted(features: dict[str, Any], inputs: str) -> Experiment:
    data = {"num_labels": 4, "num_documents": 60, "num_test_documents": 20, "vocabulary_size": 60}
    return Experiment.from_tree(
        {
            "name": "planted",
            "data": {"planted": data, "inputs": inputs},
            "model": {"kind": "classifier", "features": features},
            "training": {"stages": [stage("all", epochs=2)]},
        }
    )


def test_in_one_process_small_networks_train_at_once_and_finished_runs_are_kept(tmp_path: Path) -> None:
    experiment = planted({"kind": "bag_of_words", "hidden": [8]}, "counts")
    folders = [tmp_path / f"seed{seed}" for seed in range(4)]
    first = train_in_one_process(experiment, (0, 1, 3), [folders[0], folders[1], folders[3]])
    assert [(result.seed, result.together) for result in first] == [(0, 3), (1, 3), (3, 3)]
    with pytest.raises(ConfigError, match="there is a run here already; continue it with --resume"):
        train_in_one_process(experiment, (2, 0), [folders[2], folders[0]])
    assert not folders[2].exists(), "told before anything trains"
    (folders[3] / "result.json").unlink()
    again = train_in_one_process(experiment, range(4), folders, resume=True)
    assert [(result.seed, result.together) for result in again] == [(0, 3), (1, 3), (2, 1), (3, 1)]
    assert [result.finished for result in again[:2]] == [result.finished for result in first[:2]]
    assert again[3].metrics["test"] == pytest.approx(first[2].metrics["test"], abs=1e-6)
    assert json.loads((folders[1] / "result.json").read_text())["together"] == 3


def test_in_one_process_others_train_in_turn_to_the_bits_of_each_alone(tmp_path: Path) -> None:
    experiment = planted({"kind": "kim_cnn", "embedding_dim": 4, "windows": [1], "num_filters": 4}, "tokens")
    found = train_in_one_process(experiment, (5, 2), [tmp_path / "five", tmp_path / "two"])
    for result, name in zip(found, ("five", "two"), strict=True):
        train(experiment.model_copy(update={"seed": result.seed}), folder=tmp_path / f"alone-{name}")
        ours, theirs = (load_run(tmp_path / each).model.state_dict() for each in (name, f"alone-{name}"))
        assert result.together == 1
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
