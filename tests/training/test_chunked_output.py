"""Training with an output in chunks of labels, and with optimisers of its own for each group of parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_run import CLASSIFIER, SPEN, stage, toy_data, toy_experiment

from energynets.config import Experiment
from energynets.data.batches import SparseBatch, batches
from energynets.errors import CheckpointError, ConfigError, TrainingError
from energynets.memory import estimate
from energynets.objectives import EndToEnd
from energynets.output import ChunkedLinear, ChunkedSGD
from energynets.output.descent import KeptSlopes
from energynets.training import Progress, build_model, train
from energynets.training.build import Sizes
from energynets.training.optimizers import Optimizers
from energynets.training.stages import trained
from energynets.training.update import Update

SGD = {"kind": "sgd", "learning_rate": 0.05, "weight_decay": 0.01}


def model(**output: Any) -> dict[str, Any]:
    return CLASSIFIER | {"output": {"kind": "chunked", "chunk": 4, **output}}


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["train_loss"] for row in rows if row["train_loss"] is not None]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "model.safetensors")


def no_targets(batch: SparseBatch, dtype: torch.dtype | None = None, dense: Any = SparseBatch.dense) -> torch.Tensor:
    assert batch.num_columns != toy_data().prepared.num_labels, "dense targets"
    return dense(batch, dtype)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize(
    "optimizer",
    [
        {"learning_rate": 0.01, "clip_norm": 0.5},
        {"learning_rate": 0.01, "schedule": "linear", "clip_norm": 0.5, "unary": SGD},
        {**SGD, "schedule": "cosine", "features": {"kind": "adamw", "learning_rate": 0.01}},
        {**SGD, "unary": {"momentum": 0.9}},
    ],
    ids=["adam", "clipped, the head on sgd", "sgd, features on adamw", "the head with momentum"],
)
def test_a_chunked_output_trains_as_a_linear_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: dict[str, Any], loss: str
) -> None:
    settings = {"stages": [stage("unary", "features", "unary", epochs=4, optimizer=optimizer)]}
    found = {}
    for name, kind in (("linear", CLASSIFIER), ("chunked", model())):
        tree = toy_experiment(kind, **settings).model_dump(mode="json") | {"objective": {"loss": loss}}
        train(Experiment.from_tree(tree), folder=tmp_path / name, data=toy_data())
        found[name] = losses(tmp_path / name)
        # From here on nothing may ask for dense targets.
        monkeypatch.setattr(SparseBatch, "dense", no_targets)
    assert found["chunked"] == pytest.approx(found["linear"], rel=1e-5)
    expected = weights(tmp_path / "linear")
    for name, tensor in weights(tmp_path / "chunked").items():
        assert torch.allclose(tensor, expected[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("features", ["kim_cnn", "xml_cnn", "bag_of_words"])
def test_every_feature_network_takes_it_by_one_line(tmp_path: Path, features: str) -> None:
    small = {"hidden": [8]} if features == "bag_of_words" else {"embedding_dim": 8, "num_filters": 4}
    planted = {"num_labels": 12, "num_documents": 60, "num_test_documents": 20, "vocabulary_size": 100}
    tree = {
        "name": "small",
        "data": {"planted": planted, "inputs": "counts" if features == "bag_of_words" else "tokens"},
        "model": {"kind": "classifier", "features": {"kind": features, **small}},
        "training": {"stages": [stage("unary", epochs=2)]},
    }
    for name, line in (("linear", []), ("chunked", ["model.output={kind: chunked, chunk: 5}"])):
        train(Experiment.from_tree(tree, line), folder=tmp_path / name)
    assert losses(tmp_path / "chunked") == pytest.approx(losses(tmp_path / "linear"), rel=1e-5)


class DiesAt(Progress):
    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyError("died")


TWO_STAGES = [
    stage("sgd", "features", "unary", optimizer={"learning_rate": 0.01, "clip_norm": 1.0, "unary": SGD}),
    stage("again", "features", "unary", optimizer={"kind": "sgd", "momentum": 0.5, "features": {"kind": "adam"}}),
]
GROUPS = [
    stage(
        "joint", "features", "unary", "energy", epochs=6, optimizer={"features": {"learning_rate": 1e-4}, "unary": SGD}
    )
]


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        (model(), TWO_STAGES),
        (model(weights="bf16"), TWO_STAGES[:1]),
        (SPEN, GROUPS),
        (SPEN | {"label_chunk": 3, "keep_unary": True}, GROUPS),
    ],
    ids=["two stages", "bf16 weights, rounded at random", "optimisers by group", "a kept unary"],
)
@pytest.mark.parametrize("step", [3, 7, 11])
def test_resumption_is_bit_identical(tmp_path: Path, kind: dict[str, Any], stages: Any, step: int) -> None:
    experiment = toy_experiment(kind, stages=stages, checkpoint_every=3)
    train(experiment, folder=tmp_path / "whole", data=toy_data())
    with pytest.raises(KeyError, match="died"):
        train(experiment, folder=tmp_path / "run", data=toy_data(), progress=DiesAt(step))
    train(experiment, folder=tmp_path / "run", data=toy_data(), resume=True)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "run")
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert losses(tmp_path / "whole") == losses(tmp_path / "run")
    assert any(tensor.dtype == torch.bfloat16 for tensor in found.values()) == (kind == model(weights="bf16"))


def test_not_finite_stops_before_a_chunk_changes(tmp_path: Path) -> None:
    data = toy_data()
    network = build_model(toy_experiment(model()), Sizes.of(data.prepared))
    with torch.no_grad():
        network.unary.bias[-1] = float("inf")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    experiment = toy_experiment(model(), stages=TWO_STAGES)
    no_validation = toy_data(validation=False)
    with pytest.raises(TrainingError, match=r"step 1 of 4: the loss is (inf|nan)") as error:
        train(experiment, folder=tmp_path / "run", data=no_validation, model=network)
    assert "training.stages.0.optimizer.unary.learning_rate (now 0.05)" in str(error.value)
    for name, tensor in before.items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    assert not network.unary.deferred  # what trains it next gets gradients


def test_each_group_has_its_optimiser() -> None:
    """Three hand-made optimisers beside ours."""
    experiment = toy_experiment(
        SPEN, stages=[stage("j", optimizer={"learning_rate": 0.02, "unary": SGD, "energy": {"kind": "adamw"}})]
    )
    settings = experiment.stages[0].optimizer
    data = toy_data().prepared
    ours, theirs = (build_model(experiment, Sizes.of(data)).eval() for _ in range(2))
    groups = theirs.parameter_groups()
    by_hand = [
        torch.optim.Adam(groups["features"], lr=0.02),
        torch.optim.SGD(groups["unary"], lr=0.05, weight_decay=0.01),
        torch.optim.AdamW(groups["energy"], lr=0.02, weight_decay=0),
    ]
    with trained(ours, ("features", "unary", "energy"), "j") as parameters:
        optimizers = Optimizers(settings, ours, ("features", "unary", "energy"))
        update = Update(ours, EndToEnd(), parameters, optimizers)
        optimizers.set_factor(0.5)
        for optimizer in by_hand:
            optimizer.param_groups[0]["lr"] *= 0.5
        for batch in batches(data.split("train"), 16):
            update.gradients(batch)
            update.apply()
            for optimizer in by_hand:
                optimizer.zero_grad()
            EndToEnd()(theirs, batch).backward()
            for optimizer in by_hand:
                optimizer.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_checkpoints_name_what_the_state_belongs_to() -> None:
    network = build_model(toy_experiment(CLASSIFIER), Sizes.of(toy_data().prepared))
    settings = toy_experiment(CLASSIFIER).stages[0].optimizer
    optimizers = Optimizers(settings, network, ("features", "unary"))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step()
    found, groups = optimizers.tensors(), network.parameter_groups()
    names = {f"{group}.{place}" for group, weights in groups.items() for place in range(len(weights))}
    assert {key.partition("/")[0] for key in found} == names
    assert optimizers.weight("unary.0/exp_avg") is groups["unary"][0]
    with pytest.raises(CheckpointError, match=r"'0' in the checkpoint: expected one of features\.0, "):
        optimizers.load_tensors({"0/exp_avg": torch.zeros(1)})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("objective.loss=mse",), "objective.loss: model.output chunked computes bce and softmax, got mse"),
        (
            ("model.output.weights=bf16",),
            "set training.stages.0.optimizer.unary: {kind: sgd, momentum: 0}",
        ),
        (("model.output.kind=chunky",), "did you mean 'chunked'?"),
        (
            ("training.stages=[{name: a, trains: [unary], optimizer: {features: {kind: sgd}}}]",),
            "training.stages.0.optimizer.features: the stage trains unary alone",
        ),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], said: str) -> None:
    tree = toy_experiment(model()).model_dump(mode="json")
    with pytest.raises(ConfigError) as error:
        Experiment.from_tree(tree, overrides)
    assert said in str(error.value)


def test_memory_counts_no_gradient_where_there_is_none() -> None:
    sizes = Sizes(inputs=30, labels=1000, tokens=False)
    of_adam, of_sgd, of_momentum = (
        estimate(toy_experiment(kind, stages=[stage("u", "features", "unary", optimizer=optimizer)]), sizes)
        for kind, optimizer in (
            (CLASSIFIER, {}),
            (model(), {"unary": SGD}),
            (model(), {"unary": SGD | {"momentum": 0.9}}),
        )
    )
    head, rest = (12 + 1) * 1000 * 4, (30 + 1) * 12 * 4
    assert of_adam.weights == of_sgd.weights == head + rest
    assert (of_adam.stages[0].gradients, of_adam.stages[0].optimizer) == (head + rest, 2 * (head + rest))
    assert (of_sgd.stages[0].gradients, of_sgd.stages[0].optimizer) == (rest, 2 * rest)
    assert (of_momentum.stages[0].gradients, of_momentum.stages[0].optimizer) == (head + rest, head + 2 * rest)
    half = estimate(
        toy_experiment(model(weights="bf16"), stages=[stage("u", "unary", optimizer={"unary": SGD})]), sizes
    )
    assert half.weights == of_adam.weights - 12 * 1000 * 2


def test_a_layer_of_ones_own() -> None:
    """In a loop of one's own, without configuration."""
    torch.manual_seed(0)
    layer = ChunkedLinear(8, 40, chunk=7)
    optimizer = ChunkedSGD(layer, lr=1.0)
    features = torch.randn(30, 8)
    columns = torch.arange(30)
    labels = SparseBatch(columns, torch.ones(30), torch.from_numpy(np.arange(31)), 40)
    first = last = None
    for _ in range(300):
        optimizer.zero_grad()
        loss = layer.loss(features, labels, "softmax")
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    assert last < 0.2 * first


def test_a_kept_unary_is_trained_as_one_with_a_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [stage("joint", optimizer={"learning_rate": 0.01, "clip_norm": 0.5, "unary": SGD})]
    kept = SPEN | {"label_chunk": 3, "keep_unary": True}
    made: list[int] = []
    descend = KeptSlopes.descend
    monkeypatch.setattr(KeptSlopes, "descend", lambda self, *given: made.append(1) or descend(self, *given))
    for name, kind in (("dense", SPEN), ("kept", kept)):
        train(toy_experiment(kind, stages=stages), folder=tmp_path / name, data=toy_data())
        assert bool(made) == (name == "kept")
    for mine, theirs in zip(losses(tmp_path / "kept"), losses(tmp_path / "dense"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
