"""The estimator keeps scikit-learn's contract, and learns what `train` learns."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from energynets import Experiment, estimator, train
from energynets.data.dataset import Documents
from energynets.data.prepare import Preparation
from energynets.data.splits import Source, with_splits
from energynets.errors import ConfigError, DataError, MissingExtraError
from energynets.estimator import EnergyNetClassifier
from energynets.training import load_run
from energynets.training import predict as predict_scores
from energynets.training.build import BuiltData
from energynets.training.score import score

SMALL: dict[str, Any] = {
    "hidden": (32,),
    "num_measurements": 8,
    "steps": 3,
    "epochs": 12,
    "learning_rate": 0.02,
    "random_state": 0,
    "device": "cpu",
}


def small(**settings: Any) -> EnergyNetClassifier:
    return EnergyNetClassifier(**SMALL | settings)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # NaN as a class, by the check
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([small(epochs=6)])
def test_scikit_learns_contract(estimator: EnergyNetClassifier, check: Any) -> None:
    """All of it: no failure is expected."""
    check(estimator)


def sets(seed: int = 0, *, num_samples: int = 240) -> tuple[csr_matrix, csr_matrix]:
    """Counts of words, and label sets."""
    x, y = make_multilabel_classification(num_samples, n_features=30, n_classes=6, random_state=seed)
    return csr_matrix(x), csr_matrix(y)


def test_it_is_train_of_the_same_settings(tmp_path: Path) -> None:
    x, y = sets()
    model = small(epochs={"unary": 3, "joint": 2}, scaling="unit_norm").fit(x[:200], y[:200])
    seed = model.experiment_.seed
    documents = Documents(csr_array(x.astype(np.float32)), csr_array(y.astype(np.float32)))
    splits = {"train": np.arange(200), "test": np.arange(200, 240)}
    raw = with_splits(Source("sets", documents, splits, "by position"), 0.1, 0.0, seed, None)
    preparation = Preparation.fit(raw, scaling="unit_norm")
    data = BuiltData(raw, preparation, preparation.prepare(raw))
    ending = {"keep": "last", "optimizer": {"learning_rate": 0.02, "weight_decay": 1e-5, "schedule": "linear"}}
    tree = {
        "name": "plain",
        "seed": seed,
        "device": "cpu",
        "data": {"name": "sets"},
        "model": {
            "kind": "energy_network",
            "features": {"kind": "bag_of_words", "hidden": [32], "input_dropout": 0.1, "dropout": 0.5},
            "energy": {"kind": "spen", "num_measurements": 8},
            "solver": {"kind": "mirror_descent", "steps": 3, "learn_step_sizes": True},
        },
        "training": {
            "batch_size": 64,
            "stages": [
                {"name": "first", "trains": ["features", "unary"], "epochs": 3, **ending},
                {"name": "all", "epochs": 2, **ending},
            ],
        },
    }
    result = train(Experiment.from_tree(tree), folder=tmp_path / "run", data=data)
    top = score(load_run(tmp_path / "run").model, data.prepared.split("test"), k=6)
    expected = np.zeros((40, 6), dtype=np.float32)
    np.put_along_axis(expected, top.indices.astype(int), top.values, axis=1)
    np.testing.assert_allclose(model.predict_proba(x[200:]), expected, rtol=1e-5)
    assert model.threshold_ == result.threshold["value"]
    f1 = f1_score(y[200:], model.predict(x[200:]), average="samples", zero_division=0)
    assert f1 == pytest.approx(result.metrics["test"]["f1_example"])


@pytest.mark.parametrize("energy", ["spen", "icnn", "none"])
@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_label_sets_sparse_and_dense(energy: Any, loss: str) -> None:
    x, y = sets()
    sparse = small(energy=energy, loss=loss).fit(x[:200], y[:200])
    dense = small(energy=energy, loss=loss).fit(x[:200].toarray().astype(np.float32), y[:200].toarray())
    proba = sparse.predict_proba(x[200:])
    np.testing.assert_array_equal(dense.predict_proba(x[200:].toarray()), proba)
    found = sparse.predict(x[200:])
    assert isinstance(found, csr_array)
    np.testing.assert_array_equal(found.toarray(), dense.predict(x[200:]))
    np.testing.assert_array_equal(found.toarray(), proba > sparse.threshold_)
    np.testing.assert_array_equal(found.toarray(), sparse.decision_function(x[200:]) > 0)
    assert sparse.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    truth = y[200:].toarray()
    assert proba[truth > 0].mean() > proba[truth == 0].mean() + 0.1
    assert f1_score(truth, dense.predict(x[200:]), average="micro") > f1_score(
        truth, np.ones_like(truth), average="micro"
    )


@pytest.mark.parametrize("loss", [None, "bce"])
def test_classes(loss: str | None) -> None:
    x, codes = make_classification(300, 10, n_informative=6, n_classes=3, random_state=0)
    y = np.array(["ant", "bee", "cat"])[codes]
    model = small(loss=loss, epochs=30).fit(x[:200], y[:200])
    assert model.score(x[200:], y[200:]) > 0.6
    assert model.classes_.tolist() == ["ant", "bee", "cat"]
    proba = model.predict_proba(x[200:])
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert (model.classes_[proba.argmax(axis=1)] == model.predict(x[200:])).all()
    assert model.result_.data["sizes"] == {"train": 200}, "nothing is chosen, so nothing is held out"


def test_patience_and_thresholds_hold_samples_out() -> None:
    x, y = sets()
    cases: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({}, {"train": 216, "validation": 24}),
        ({"threshold": 0.3}, {"train": 240}),
        ({"threshold": 0.3, "patience": 1}, {"train": 216, "validation": 24}),
        ({"validation_fraction": 0.0}, {"train": 240}),
    ]
    for settings, sizes in cases:
        model = small(epochs=2, **settings).fit(x, y)
        assert model.result_.data["sizes"] == sizes
        assert model.threshold_ == (0.3 if "threshold" in settings else model.result_.threshold["value"])
    assert model.threshold_ == 0.5
    stopped = small(epochs=60, patience=1, learning_rate=0.05).fit(x, y)
    (stage,) = stopped.result_.stages
    assert stage["epochs"] < 60
    assert stage["best_epoch"] == stage["epochs"] - 1


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("decoding", ["per_label", "expected_f1"])
def test_sets_are_made_by_the_decoder_that_the_run_chose(decoding: str, sparse: bool, tmp_path: Path) -> None:
    x, y = sets()
    y = y if sparse else y.toarray()
    model = small(
        epochs=3, settings=(f"evaluation.decoding={decoding}",), validation_fraction=0.4, folder=tmp_path / "run"
    ).fit(x, y)
    run = load_run(tmp_path / "run")
    assert model.decoder_.row() == run.decoder.row()
    expected = run.decoder.predict(predict_scores(run, csr_array(x, dtype=np.float32), top=run.kept)).toarray()
    found = model.predict(x)
    np.testing.assert_array_equal(found.toarray() if sparse else found, expected)
    assert (expected != (model.predict_proba(x) > (run.threshold or 0.5))).any(), "it matters here"
    margins = model.decision_function(x)
    assert np.isfinite(margins).all()
    if decoding == "per_label":
        np.testing.assert_array_equal(margins > 0, expected)
    else:
        assert np.isnan(model.threshold_)
        assert expected.any(axis=1).all()
    again = pickle.loads(pickle.dumps(model)).predict(x)
    np.testing.assert_array_equal(again.toarray() if sparse else again, expected)


def test_seeds_and_the_callers_random_numbers() -> None:
    x, y = sets()
    first, again = (small(epochs=2).fit(x, y).predict_proba(x) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = small(epochs=2, random_state=1).fit(x, y).predict_proba(x)
    assert np.abs(first - other).max() > 1e-3
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small(epochs=1).fit(x, y)
    assert torch.equal(torch.rand(3), expected)


def test_pickled_and_cloned() -> None:
    x, y = sets()
    model = small(epochs=2).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert not hasattr(clone(model), "model_")


def test_in_a_pipeline_and_a_grid() -> None:
    x, y = sets()
    pipeline = make_pipeline(MaxAbsScaler(), small(epochs=2))
    grid = {
        "energynetclassifier__energy": ["spen", "none"],
        "energynetclassifier__num_measurements": np.arange(4, 5),
        "energynetclassifier__learning_rate": np.array([1e-6, 1e-2]),
    }
    search = GridSearchCV(pipeline, grid, cv=2, scoring="f1_micro", error_score="raise")
    search.fit(x, y)
    assert search.best_params_["energynetclassifier__learning_rate"] == 1e-2
    assert search.predict(x).shape == y.shape


def test_a_run_is_kept_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sets()
    monkeypatch.chdir(tmp_path)
    small(epochs=1).fit(x, y)
    assert list(tmp_path.iterdir()) == []
    model = small(epochs=1, folder=tmp_path / "kept").fit(x, y)
    assert load_run(tmp_path / "kept").result == model.result_


def test_every_setting_is_reached() -> None:
    x, y = sets()
    settings = ("objective.steps=all", "model.energy.hidden=[5]", "training.stages.0.optimizer.clip_norm=1")
    model = small(epochs=1, settings=settings).fit(x, y)
    assert model.experiment_.objective.steps == "all"
    assert model.experiment_.stages[0].optimizer.clip_norm == 1


def test_few_samples_have_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator, "EPOCHS", 2)
    monkeypatch.setattr(estimator, "UPDATES", 30)
    x, y = sets()  # 240
    assert small(epochs=None, batch_size=64).fit(x, y).experiment_.stages[0].epochs == 8
    assert small(epochs=None, batch_size=8).fit(x, y).experiment_.stages[0].epochs == 2


def test_errors() -> None:
    x, y = sets()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"energy": "spenn"}, "did you mean 'spen'"),
        ({"epochs": {"unry": 1}}, "did you mean 'unary'"),
        ({"energy": "none", "epochs": {"energy": 1}}, "'energy' needs model.kind energy_network"),
        ({"threshold": "f1_exampel"}, "threshold_rule"),
        ({"loss": "bec"}, "objective.loss"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"settings": ("training.batchsize=3",)}, "did you mean 'batch_size'"),
        ({"settings": ("data.inputs=tfidf",)}, "data.inputs=tfidf: data is not chosen here: use X and y, and"),
        ({"settings": ("seed=3",)}, "seed is not chosen here: use the argument random_state"),
        ({"settings": ("device=cpu",)}, "device is not chosen here: use the argument device"),
        ({"threshold": 0.3, "settings": ("evaluation.decoding=per_label",)}, "threshold: expected 'f1_example' with"),
    ]
    for settings, message in cases:
        with pytest.raises(ConfigError, match=message):
            small(**settings).fit(x, y)
    with pytest.raises(DataError, match="of 0 and 1, got -1"):
        small().fit(x, 2 * y.toarray() - 1)
    with pytest.raises(ValueError, match="1d array"):
        small().fit(x, y.toarray() + np.arange(6))


def test_without_scikit_learn_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "energynets.estimator")
    with pytest.raises(MissingExtraError, match=r"energynets\[baselines\]"):
        import energynets.estimator  # noqa: F401
