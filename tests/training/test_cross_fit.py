"""An energy that learns from unary logits of documents that their network has not seen."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from toy_run import SPEN, stage, toy_data, toy_experiment

from energynets import ICNN, BagOfWords, EnergyNetwork, MirrorDescent
from energynets import SPEN as Spen
from energynets.data.batches import CachedFeatures, sparse_batch
from energynets.energies import MeasuredEnergy
from energynets.errors import ConfigError
from energynets.inference.engine import path
from energynets.training import BuiltData, Interrupted, Progress, RunFolder, load_run, train
from energynets.training.cross_fit import fold_rows, held_out_unary, unary_logits
from energynets.training.loop import Loop

FOLDS = 3
OBSERVES = {**SPEN, "observes": True}


def crossed(model: dict[str, Any] = SPEN, *, keep: str = "last", **energy: Any) -> Any:
    return toy_experiment(
        model,
        checkpoint_every=2,
        reveal={"low": 0.2, "high": 0.8} if model.get("observes") else None,
        stages=[
            stage("unary", "features", "unary", epochs=3, keep=keep, optimizer={"learning_rate": 0.01}),
            stage("energy", "energy", epochs=2, keep="last", cross_fit=FOLDS, **energy),
        ],
    )


class Watching(Progress):
    """Keeps what was announced, and what the energy learned from; sends SIGINT at a stage's so-manieth step."""

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        self.stages: list[str] = []
        self.at, self.steps = at, 0

    def stage(self, name: str, *_: Any) -> None:
        self.stages.append(name)
        self.steps = 0

    def step(self, *_: Any) -> None:
        self.steps += 1
        if self.at == (self.stages[-1], self.steps):
            os.kill(os.getpid(), signal.SIGINT)


def position(run: RunFolder) -> dict[str, Any]:
    """Where its last checkpoint was taken."""
    checkpoint = run.checkpoints.latest()
    assert checkpoint is not None
    found: dict[str, Any] = checkpoint.state["position"]
    return found


def learned_from(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Gets the unary logits that each run's energy learns from."""
    found: list[torch.Tensor] = []
    cross_fit = Loop._cross_fit

    def spy(self: Loop, current: Any, folds: int) -> None:
        cross_fit(self, current, folds)
        found.append(current.train_features)

    monkeypatch.setattr(Loop, "_cross_fit", spy)
    return found


def trained_without(fold: np.ndarray, experiment: Any, data: BuiltData, folder: Path) -> Any:
    """What an experiment's first stage makes of the training documents outside a fold."""
    first = experiment.training.model_copy(update={"stages": experiment.stages[:1]})
    rows = data.prepared.splits["train"]
    splits = {**data.prepared.splits, "train": np.setdiff1d(rows, rows[fold])}
    rest = type(data.prepared)(**{**vars(data.prepared), "splits": splits})
    train(
        experiment.model_copy(update={"training": first}),
        folder=folder,
        data=BuiltData(data.raw, data.preparation, rest),
    )
    return load_run(folder).model


@given(st.integers(2, 40), st.integers(2, 8), st.integers(0, 9))
def test_folds_are_a_partition_of_even_sizes(documents: int, folds: int, seed: int) -> None:
    rows = fold_rows(documents, folds, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(documents))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert all((np.diff(part) > 0).all() for part in rows)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_each_fold_is_a_training_of_its_own_on_the_other_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    found, data, experiment = learned_from(monkeypatch), toy_data(), crossed(keep=keep)
    train(experiment, folder=tmp_path / "run", data=data)
    for number, fold in enumerate(fold_rows(len(data.prepared.splits["train"]), FOLDS, experiment.seed)):
        network = trained_without(fold, experiment, data, tmp_path / str(number))
        expected = unary_logits(network, data.prepared.split("train"), 64, "cpu", rows=fold)
        torch.testing.assert_close(found[0][torch.from_numpy(fold)], expected, rtol=0, atol=0)
    assert not (tmp_path / "run" / "cross-fit").exists()


def test_a_documents_own_labels_do_not_reach_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, data = learned_from(monkeypatch), toy_data()
    fold = fold_rows(len(data.prepared.splits["train"]), FOLDS, 0)[1]
    train(crossed(), folder=tmp_path / "a", data=data)
    labels = data.prepared.documents.labels.toarray()
    labels[data.prepared.splits["train"][fold]] = 1 - labels[data.prepared.splits["train"][fold]]
    documents = type(data.prepared.documents)(data.prepared.documents.inputs, csr_array(labels))
    turned = type(data.prepared)(**{**vars(data.prepared), "documents": documents})
    train(crossed(), folder=tmp_path / "b", data=BuiltData(data.raw, data.preparation, turned))
    same = (found[0] == found[1]).all(1).numpy()
    np.testing.assert_array_equal(np.flatnonzero(same), fold)


def test_features_and_unary_stay_as_the_first_stage_left_them(tmp_path: Path) -> None:
    experiment = crossed()
    alone = experiment.training.model_copy(update={"stages": experiment.stages[:1]})
    train(experiment, folder=tmp_path / "crossed", data=toy_data())
    train(experiment.model_copy(update={"training": alone}), folder=tmp_path / "alone", data=toy_data())
    one, other = (load_run(tmp_path / name).model.state_dict() for name in ("crossed", "alone"))
    moved = {key for key in one if not torch.equal(one[key], other[key])}
    assert moved == {key for key in one if key.startswith("energy.") and ".unary." not in key}


def test_where_features_see_known_labels_each_epoch_has_logits_of_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Any, torch.Tensor]] = []

    def spy(*arguments: Any) -> torch.Tensor:
        found.append((arguments[-1], held_out_unary(*arguments)))
        return found[-1][1]

    monkeypatch.setattr("energynets.training.loop.held_out_unary", spy)
    data, experiment = toy_data(), crossed(OBSERVES)
    train(experiment, folder=tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "cross-fit").exists()
    documents = data.prepared.split("train")
    assert [reveal is None for reveal, _ in found] == [False, False], "once an epoch"
    assert (found[0][1] != found[1][1]).any()
    x, y = sparse_batch(documents.inputs).dense(), torch.from_numpy(documents.labels.toarray())
    for number, fold in enumerate(fold_rows(len(documents), FOLDS, experiment.seed)):
        network = trained_without(fold, experiment, data, tmp_path / str(number))
        own = sparse_batch(csr_array(x[fold].numpy()))
        for reveal, phi in found:
            mask = torch.from_numpy(reveal.at(fold[:, None], np.arange(6)))
            assert 0.2 < mask.float().mean() < 0.8
            expected = network.energy.unary(network.features(own, y[fold], mask))
            torch.testing.assert_close(phi[torch.from_numpy(fold)], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [("unary-fold-2-of-3", 3), ("unary-fold-3-of-3", 1), ("energy", 3)])
@pytest.mark.parametrize("model", [SPEN, OBSERVES], ids=["blind", "observes"])
def test_interrupted_anywhere_it_ends_as_if_it_had_not_been(
    tmp_path: Path, model: dict[str, Any], at: tuple[str, int]
) -> None:
    whole = train(crossed(model), folder=tmp_path / "whole", data=toy_data(), progress=(watching := Watching()))
    folds = [f"unary-fold-{fold}-of-3" for fold in (1, 2, 3)]
    assert watching.stages == ["unary", "energy", *folds, "energy"]
    with pytest.raises(Interrupted, match=f"saved in {tmp_path / 'cut'}:"):
        train(crossed(model), folder=tmp_path / "cut", data=toy_data(), progress=Watching(at))
    cut = RunFolder(tmp_path / "cut")
    if at[0] in folds:  # their time is the stage's
        spent = [position(RunFolder(folder))["seconds"] for folder in cut.cross_fit.iterdir()]
        assert position(cut)["stage_seconds"] >= sum(spent) > 0
    watching = Watching()
    resumed = train(crossed(model), folder=tmp_path / "cut", data=toy_data(), resume=True, progress=watching)
    assert watching.stages[1:-1] == folds[folds.index(at[0]) :] if at[0] in folds else watching.stages == ["energy"] * 2
    assert resumed.metrics == whole.metrics
    one, other = (load_run(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_stage_has_its_own_loss(tmp_path: Path) -> None:
    def first_losses(**settings: Any) -> list[float]:
        folder = tmp_path / "-".join(f"{key}-{value}" for key, value in settings.items())
        objective = {"loss": settings.get("objective", "bce")}
        own = {"loss": settings["own"]} if "own" in settings else {}
        tree = crossed(**own).model_dump(mode="json") | {"objective": objective}
        experiment = type(crossed()).from_tree(tree)
        train(experiment, folder=folder, data=toy_data())
        lines = map(json.loads, RunFolder(folder).metrics.read_text().splitlines())
        return [line["train_loss"] for line in lines if line["epoch"] == 1]

    bce, mse, mixed = first_losses(objective="bce"), first_losses(objective="mse"), first_losses(own="mse")
    assert mixed[0] == bce[0] != mse[0]
    assert mixed[1] < 0.5 * bce[1]


@pytest.mark.parametrize("energy", [Spen(7, 5, num_measurements=6), ICNN(7, 5, hidden=(3, 3))])
def test_the_model_that_reads_phi_is_the_same_model(energy: MeasuredEnergy) -> None:
    model = EnergyNetwork(BagOfWords(4, hidden=(7,)), energy, MirrorDescent(steps=3, learn_step_sizes=True)).eval()
    x = sparse_batch(csr_array(np.eye(4, dtype=np.float32)))
    reads_phi, phi = model.on_unary(), CachedFeatures(model.as_classifier()(x))
    torch.testing.assert_close(reads_phi(phi), model(x))
    assert path(reads_phi.energy, reads_phi.solver) == path(energy, model.solver)
    groups, own = reads_phi.parameter_groups(), model.parameter_groups()
    assert [*map(id, groups["energy"])] == [*map(id, own["energy"])]
    assert groups["features"] == groups["unary"] == []
    assert reads_phi.train().energy.training  # a mask of its own for dropout
    assert not energy.training


@pytest.mark.parametrize(
    "energy",
    [
        Spen(7, 5, condition_measurements=True),
        ICNN(7, 5, hidden=(3, 3), gate=True),
        MeasuredEnergy(7, 5, 2, type("Head", (torch.nn.Module,), {"forward": lambda self, m, f: m.sum(-1)})()),
    ],
)
def test_an_energy_that_sees_features_has_no_such_model(energy: MeasuredEnergy) -> None:
    with pytest.raises(ConfigError, match="more than its unary logits"):
        EnergyNetwork(BagOfWords(4, hidden=(7,)), energy).on_unary()


@pytest.mark.parametrize(
    ("model", "stages", "message"),
    [
        ({}, {"trains": ["energy", "unary"]}, "stages.1.cross_fit: the stage trains the energy alone"),
        ({"energy": {"kind": "spen", "condition_measurements": True}}, {}, "set model.energy.condition_measurements"),
        ({"label_chunk": 2}, {}, "set model.label_chunk to null"),
        ({}, {"cross_fit": 1}, "cross_fit"),
        ({}, {"loss": "softmax"}, "stages.1.loss: scores are softmax"),
    ],
)
def test_what_cannot_be_is_named(model: dict[str, Any], stages: dict[str, Any], message: str) -> None:
    tree = crossed({**SPEN, **model} if "energy" in model else SPEN).model_dump(mode="json") if not model else None
    if tree is None:
        tree = crossed().model_dump(mode="json")
        tree["model"] |= model
    tree["training"]["stages"][1] |= stages
    with pytest.raises(ConfigError, match=message):
        type(crossed()).from_tree(tree)


def test_it_needs_a_stage_of_features_and_unary_before_it() -> None:
    tree = crossed().model_dump(mode="json")
    tree["training"]["stages"][0]["trains"] = ["unary"]
    with pytest.raises(ConfigError, match="stages before it train features and unary"):
        type(crossed()).from_tree(tree)


def test_more_folds_than_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 1 folds"):
        train(crossed(), folder=tmp_path / "run", data=toy_data(documents=2, validation=False, test=False))


@pytest.mark.parametrize("kind", [Spen, ICNN])
def test_counting_measurements_count_labels(kind: Any) -> None:
    energy = kind(7, 5, counting_measurements=2, **({"num_measurements": 6} if kind is Spen else {"hidden": (3, 3)}))
    y = torch.rand(4, 5)
    torch.testing.assert_close(
        energy.measurements(y, energy.condition(torch.randn(4, 7)))[:, :2], y.sum(1, True).expand(4, 2)
    )
    plain = kind(7, 5, **({"num_measurements": 6} if kind is Spen else {"hidden": (3, 3)}))
    assert not (plain.measure == 1).any()
    with pytest.raises(ConfigError, match="counting_measurements: expected 0 to 6"):
        kind(7, 5, counting_measurements=7, **({"num_measurements": 6} if kind is Spen else {"hidden": (3, 3)}))
