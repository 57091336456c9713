"""Training with revealed labels, and measuring what is found of the rest."""

from __future__ import annotations

import gzip
import importlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from scipy.sparse import csr_array, vstack
from test_resume import assert_same_run
from torch import Tensor, nn
from toy_run import CLASSIFIER, SPEN, run_toy, stage, toy_data, toy_experiment

from energynets.baselines import NearestNeighbours
from energynets.cli import main
from energynets.cli.known_labels import listed_labels
from energynets.config import Experiment
from energynets.data.batches import SparseBatch
from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers.npz import write as write_npz
from energynets.data.reveal import GivenReveal, RandomReveal, mask_of, rest_of
from energynets.errors import ConfigError, DataError, ShapeError
from energynets.inference import Observed
from energynets.metrics import (
    DECODERS,
    NOT_RANKED,
    ExpectedF1,
    TopScores,
    choose_threshold,
    evaluate_scores,
    observed_name,
    predict_above,
    split_name,
)
from energynets.training import Interrupted, Progress, TrainedRun, evaluate, load_run, predict, score, train
from energynets.training.run import RunFolder

ALL = ["features", "unary", "energy"]


def completing(model: dict[str, Any], *trains: str, epochs: int = 2, **evaluation: Any) -> Experiment:
    trains = trains or tuple(ALL[: 3 if model["kind"] == "energy_network" else 2])
    experiment = toy_experiment(
        model,
        stages=[stage("all", *trains, epochs=epochs, keep="last")],
        reveal={"low": 0.1, "high": 0.8},
        checkpoint_every=2,
    )
    tree = experiment.model_dump(mode="json")
    return Experiment.from_tree(tree | {"evaluation": {"observed": [0.0, 0.5], **evaluation}})


# ------------------------------------------------------------------------------------------------- ranking the rest


class Table(nn.Module):
    """A model that is its own answer, and says what it is given."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.from_numpy(logits))
        self.given: list[Observed] = []

    def forward(self, inputs: SparseBatch, observed: Observed | None = None) -> Tensor:
        logits = self.logits[inputs.dense().argmax(1)]
        if observed is None:
            return logits
        self.given.append(observed)
        return torch.where(observed.mask, 40 * (2 * observed.values - 1), logits)


class Fitted:
    """The same as a baseline has it."""

    def __init__(self, logits: np.ndarray) -> None:
        self.values = 1 / (1 + np.exp(-logits))

    def scores(self, documents: Documents, k: int) -> TopScores:
        return TopScores.from_dense(self.values, k)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Documents, Any, int, str]:
    rows, labels = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    # Ties, certain labels whose float32 probability is exactly 0 or 1, and ordinary ones.
    logits = rng.choice([-200.0, -3.0, 0.0, 0.5, 3.0, 200.0], (rows, labels)).astype(np.float32)
    true = rng.random((rows, labels)) < rng.random()
    unknown = (rng.random((rows, labels)) < 0.3) & ~true
    documents = Documents(
        csr_array(np.eye(rows, dtype=np.float32)),
        csr_array(true.astype(np.float32)),
        unknown=csr_array(unknown.astype(np.float32)) if draw(st.booleans()) else None,
    )
    share = draw(st.sampled_from([0.0, 0.3, 0.9]))
    reveal = GivenReveal(csr_array(np.ones((rows, labels)))) if draw(st.integers(0, 9)) == 0 else None
    loss = draw(st.sampled_from(["bce", "softmax"]))
    return logits, documents, reveal or RandomReveal.evaluation(share, 2), draw(st.integers(1, 7)), loss


@settings(max_examples=150)
@given(cases())
def test_what_is_known_is_never_ranked_never_predicted_and_never_a_hit(case: Any) -> None:
    logits, documents, reveal, k, loss = case
    rows, labels = logits.shape
    out = mask_of(reveal, np.arange(rows), labels)
    if documents.unknown is not None:
        out |= documents.unknown.toarray() > 0
    model = Table(logits)
    scores = score(model, documents, k=k, loss=loss, batch_size=4, reveal=reveal)
    there = scores.values != NOT_RANKED
    assert not np.take_along_axis(out, scores.indices, axis=1)[there].any()
    np.testing.assert_array_equal(there.sum(1), np.minimum(scores.k, (~out).sum(1)))
    np.testing.assert_array_equal(scores.ranked, (~out).sum(1))
    for given_, batch in zip(model.given, np.array_split(np.arange(rows), range(4, rows, 4)), strict=True):
        shown = given_.mask.numpy()
        np.testing.assert_array_equal(given_.values.numpy()[shown], documents.labels.toarray()[batch][shown])
    true = rest_of(documents.labels, reveal)
    for threshold in (choose_threshold(scores, true), 0.0, 0.5):
        assert not (predict_above(scores, threshold).toarray() * out).any()
    for decoder in (*(kind.fit(scores, true) for kind in DECODERS.values()), ExpectedF1()):
        assert not (decoder.predict(scores).toarray() * out).any()
    # every metric is that of a problem without these labels
    rest = evaluate_scores(scores, true, threshold=0.4)
    if (~out).any():
        assert rest == pytest.approx(_without(logits, true.toarray() > 0, out, scores.k, loss), abs=1e-6)


def _without(logits: np.ndarray, true: np.ndarray, out: np.ndarray, k: int, loss: str) -> dict[str, float]:
    """The metrics from dense arrays, document by document."""
    found: dict[str, list[float]] = {}
    wrong, right = {"": 0, "_at_0.5": 0}, 0
    sizes = {suffix: np.zeros((3, logits.shape[1])) for suffix in wrong}
    for z, t, free in zip(logits.astype(np.float64), true, ~out, strict=True):
        y = np.where(free, 1 / (1 + np.exp(-z)), 0)
        if loss == "softmax":
            y = np.where(free, np.exp(np.where(free, z, -np.inf) - z[free].max(initial=-1e9)), 0)
            y /= y.sum() or 1
        ranked = [label for label in np.argsort(-z, kind="stable") if free[label]][:k]
        right += int(free.sum())
        for at in (1, 3, 5):
            gains = [t[label] / np.log2(rank + 2) for rank, label in enumerate(ranked[:at])]
            ideal = sum(1 / np.log2(rank + 2) for rank in range(min(at, t.sum())))
            found.setdefault(f"precision@{at}", []).append(sum(t[label] for label in ranked[:at]) / at)
            found.setdefault(f"ndcg@{at}", []).append(sum(gains) / ideal if ideal else 0.0)
        for suffix, threshold in (("", 0.4), ("_at_0.5", 0.5)):
            p = np.zeros(len(z), bool)
            p[[label for label in ranked if np.float32(y[label]) > threshold]] = True
            total = p.sum() + t.sum()
            found.setdefault("f1_example" + suffix, []).append(2 * (p & t).sum() / total if total else 0.0)
            found.setdefault("subset_accuracy" + suffix, []).append(float((p == t).all()))
            wrong[suffix] += int((p != t).sum())
            sizes[suffix] += [p & t, p, t]
    metrics = {name: float(np.mean(values)) for name, values in found.items()}
    for suffix, (both, p, t) in sizes.items():
        metrics["hamming_loss" + suffix] = wrong[suffix] / right
        metrics["f1_micro" + suffix] = 2 * both.sum() / (p.sum() + t.sum()) if (p + t).any() else 0.0
        metrics["f1_macro" + suffix] = float(np.divide(2 * both, p + t, out=0 * both, where=p + t > 0).mean())
    return metrics


@given(cases())
def test_a_baseline_is_measured_like_a_network(case: Any) -> None:
    logits, documents, reveal, k, _ = case
    logits = np.clip(logits, -9, 9)  # so that probabilities tell apart what logits do
    network = score(Table(logits), documents, k=k, reveal=reveal)
    baseline = score(Fitted(logits), documents, k=k, reveal=reveal)
    there = network.values != NOT_RANKED
    np.testing.assert_array_equal(network.ranked, baseline.ranked)
    np.testing.assert_array_equal(baseline.values != NOT_RANKED, there)
    np.testing.assert_array_equal(network.indices[there], baseline.indices[there])


@pytest.mark.parametrize("at_once", [1, 2**24])
def test_a_baseline_has_its_k_scores_however_many_of_its_best_are_shown(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = csr_array(rng.random((50, 8)).astype(np.float32))
    labels = csr_array((rng.random((50, 60)) < 0.2).astype(np.float32))
    baseline, documents = NearestNeighbours(20).fit(Documents(rows, labels)), Documents(rows[:30], labels[:30])
    shown = RandomReveal(0.3, 1.0, (3,))
    whole = score(baseline, documents, k=6, reveal=shown)
    score_module = importlib.import_module("energynets.training.score")  # the package has a function of that name
    monkeypatch.setattr(score_module, "_SPARE_LEAST", 8)
    monkeypatch.setattr(score_module, "_SPARE", 1)
    monkeypatch.setattr(score_module, "_BASELINE_SCORES", at_once)
    found = score(baseline, documents, k=6, reveal=shown)
    assert whole.ranked is not None
    assert ((whole.values != NOT_RANKED).sum(1) == np.minimum(6, whole.ranked)).all()
    there = whole.values != NOT_RANKED
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.indices[there], whole.indices[there])
    np.testing.assert_array_equal(found.ranked, whole.ranked)


def test_without_anything_to_leave_out_scores_are_as_ever() -> None:
    data = toy_data().prepared.split("test")
    torch.manual_seed(0)
    logits = np.random.default_rng(0).normal(size=(len(data), 6)).astype(np.float32)
    documents = Documents(csr_array(np.eye(len(data), dtype=np.float32)), data.labels)
    plain = score(Table(logits), documents, k=6)
    nothing = score(Table(logits), documents, k=6, reveal=RandomReveal.evaluation(0.0, 2))
    np.testing.assert_array_equal(plain.indices, nothing.indices)
    np.testing.assert_array_equal(plain.values, nothing.values)
    assert plain.ranked is None
    assert nothing.ranked is not None


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    models = {
        "blind": CLASSIFIER,
        "seeing": CLASSIFIER | {"observes": True},
        "spen": SPEN,
        "seeing-spen": SPEN | {"observes": True},
    }
    for name, model in models.items():
        run_toy(folder / name, experiment=completing(model, epochs=6))
    return {name: folder / name for name in models}


def test_a_result_has_the_rest_of_both_splits_at_every_fraction(runs: dict[str, Path]) -> None:
    for name, folder in runs.items():
        row = json.loads((folder / "result.json").read_text())
        assert row["observed"].keys() == {"0", "0.5"}, name
        for found in row["observed"].values():
            assert found.keys() == {"threshold", "validation", "test"}
        nothing, half = row["observed"]["0"], row["observed"]["0.5"]
        assert nothing["threshold"] == row["threshold"]
        for split in ("validation", "test"):
            with_labels = nothing[split].pop("with_labels")
            assert nothing[split] == row["metrics"][split]
            assert half[split]["precision@1"] <= half[split]["with_labels"] < with_labels
        data = toy_data().prepared
        labels = rest_of(data.split("test").labels, RandomReveal.evaluation(0.5, 2))
        assert half["test"]["with_labels"] == (np.diff(labels.indptr) > 0).mean()


def test_documents_are_what_the_rest_is_the_mean_of(runs: dict[str, Path]) -> None:
    for name, folder in runs.items():
        row = json.loads((folder / "result.json").read_text())
        values = RunFolder(folder).read_documents()
        plain = [metric for metric in values if not split_name(metric)[1]]
        assert len(values) == 3 * len(plain), "as it is, and at both shares"
        for share, found in row["observed"].items():
            for metric in plain:
                own = values[observed_name(metric, share)]
                assert own.shape == (30,)
                assert own.mean(dtype=np.float64) == pytest.approx(found["test"][metric], abs=1e-6), (name, metric)
        np.testing.assert_array_equal(values[observed_name("f1_example", "0")], values["f1_example"])
        assert (values[observed_name("f1_example", "0.5")] != values["f1_example"]).any()


@given(st.sampled_from(["f1_example", "f1_example_at_0.5", "precision@1"]), st.sampled_from(["", "0", "0.5", "1e-05"]))
def test_names_of_the_rest_are_told_apart(metric: str, share: str) -> None:
    assert split_name(observed_name(metric, share)) == (metric, share)


def test_evaluate_measures_what_the_run_did_and_other_fractions_too(runs: dict[str, Path]) -> None:
    row = json.loads((runs["spen"] / "result.json").read_text())
    data = toy_data().raw
    run = load_run(runs["spen"])
    for split in ("validation", "test"):
        assert evaluate(run, data, split=split, observed=0.5) == row["observed"]["0.5"][split]
    other = evaluate(run, data, observed=0.25)
    assert run.decoder_at(0.25) is None
    reveal = RandomReveal.evaluation(0.25, 1)
    validation = run.prepare(data).split("validation")
    scores = score(run.model, validation, k=6, reveal=reveal)
    threshold = choose_threshold(scores, rest_of(validation.labels, reveal))
    assert evaluate(run, data, observed=0.25, threshold=threshold) == other
    with pytest.raises(ConfigError, match=r"expected a fraction of observed labels in \[0, 1\), got 1"):
        evaluate(run, data, observed=1.0)


def test_several_draws_of_what_is_shown_are_averaged(tmp_path: Path) -> None:
    run_toy(tmp_path / "run", experiment=completing(SPEN, draws=3))
    run, data = load_run(tmp_path / "run"), toy_data().raw
    dataset, found = run.prepare(data), (run.result.observed or {})
    parts: dict[str, list[tuple[TopScores, csr_array]]] = {}
    for place, split in ((1, "validation"), (2, "test")):
        documents = dataset.split(split)
        for reveal in (RandomReveal.evaluation(0.5, place, draw) for draw in range(3)):
            scores = score(run.model, documents, k=6, reveal=reveal)
            parts.setdefault(split, []).append((scores, rest_of(documents.labels, reveal)))
    pool = TopScores.concatenate([scores for scores, _ in parts["validation"]])
    threshold = choose_threshold(pool, csr_array(vstack([labels for _, labels in parts["validation"]])))
    assert found["0.5"]["threshold"]["value"] == pytest.approx(threshold)
    each = [evaluate_scores(*part, threshold=threshold, ks=(1, 3, 5)) for part in parts["test"]]
    assert len({one["precision@1"] for one in each}) > 1
    for metric in ("precision@1", "f1_example", "f1_macro", "hamming_loss"):
        mean = np.mean([one[metric] for one in each])
        assert found["0.5"]["test"][metric] == pytest.approx(mean, abs=1e-6), metric
    values = RunFolder(tmp_path / "run").read_documents()[observed_name("f1_example", "0.5")]
    assert values.shape == (30,)
    assert values.mean() == pytest.approx(found["0.5"]["test"]["f1_example"], abs=1e-6)
    assert found["0"]["test"]["precision@1"] == run.result.metrics["test"]["precision@1"], "nothing is drawn"
    pools: list[int] = []
    again = evaluate(run, data, observed=0.5, on_scores=lambda scores, labels: pools.append(len(scores)))
    assert again == found["0.5"]["test"]
    assert pools == [90]
    one = evaluate(run.model, dataset, observed=0.5)
    assert evaluate(run.model, dataset, observed=0.5, draws=3) == pytest.approx(again)
    assert one != again
    with pytest.raises(ConfigError, match="expected one draw of the labels shown or more, got 0"):
        evaluate(run.model, dataset, observed=0.5, draws=0)


@pytest.mark.parametrize("decoding", DECODERS)
def test_every_decoder_is_chosen_where_as_much_is_shown(decoding: str, tmp_path: Path) -> None:
    run_toy(tmp_path / "run", experiment=completing(SPEN, decoding=decoding))
    run, data = load_run(tmp_path / "run"), toy_data().raw
    found = (run.result.observed or {})["0.5"]
    assert found["threshold"]["decoding"] == decoding
    assert (run.decoder_at(0.5) is None) == (decoding == "per_label")  # whose thresholds are chosen anew
    for split in ("validation", "test"):
        assert evaluate(run, data, split=split, observed=0.5) == found[split]
        assert evaluate(run, data, split=split, observed=0.5, decoding=decoding) == found[split]
    assert evaluate(run, data, observed=0.5, decoding="global") == evaluate(run, data, observed=0.5) or (
        decoding != "global"
    )


def test_models_that_are_shown_labels_use_them(runs: dict[str, Path]) -> None:
    """All but the blind classifier answer otherwise when other labels are shown; it gives the same rest."""
    documents = toy_data().prepared.split("test")
    flipped = csr_array(1 - documents.labels.toarray())
    changed = Documents(documents.inputs, flipped)
    reveal = RandomReveal.evaluation(0.5, 2)
    for name, folder in runs.items():
        model = load_run(folder).model
        one, other = (score(model, d, k=6, reveal=reveal) for d in (documents, changed))
        same = np.array_equal(one.values, other.values) and np.array_equal(one.indices, other.indices)
        assert same == (name == "blind"), name


@pytest.mark.parametrize("trains", [ALL, ["unary", "energy"], ["energy"]])
def test_resumed_runs_reveal_the_same_labels(trains: list[str], tmp_path: Path) -> None:
    """Also where features are frozen: of x alone they are cached, of known labels they cannot be."""
    experiment = completing(SPEN | {"observes": True}, *trains)
    run_toy(tmp_path / "whole", experiment=experiment)

    class StopAt(Progress):
        def step(self, epoch: int, step: int, batches: int, loss: float) -> None:
            if (epoch, step) == (2, 3):
                raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        run_toy(tmp_path / "cut", experiment=experiment, progress=StopAt())
    run_toy(tmp_path / "cut", experiment=experiment, resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_frozen_features_are_as_a_cache_has_them(tmp_path: Path) -> None:
    """Dropout is off in a network that a stage does not train, whether or not its features are cached."""
    experiment = completing(CLASSIFIER | {"observes": True}, "unary", epochs=1)
    modes: list[bool] = []

    class Watch(Progress):
        def step(self, *_: Any) -> None:
            modes.append(watched.features.training)

    from energynets.training import Sizes, build_model

    watched = build_model(experiment, Sizes.of(toy_data().prepared))
    before = {name: weight.clone() for name, weight in watched.features.named_parameters()}
    run_toy(tmp_path / "run", experiment=experiment, model=watched, progress=Watch())
    assert modes
    assert not any(modes)
    assert all(torch.equal(before[name], weight) for name, weight in watched.features.named_parameters())


def test_epochs_reveal_anew(tmp_path: Path) -> None:
    """With nothing else that is random, two epochs over the same batch still differ."""
    seen: list[Tensor] = []
    from energynets.training import loop

    class Watching(loop.Loop):
        def _step(self, current: Any, batch: Any) -> None:
            seen.append(batch.revealed[batch.rows.argsort()])
            super()._step(current, batch)

    experiment = completing(SPEN, epochs=2)
    tree = experiment.model_dump(mode="json")
    tree["training"]["batch_size"] = 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("energynets.training.trainer.Loop", Watching)
        run_toy(tmp_path / "run", experiment=Experiment.from_tree(tree))
    first, second = seen
    assert 0.3 < first.float().mean() < 0.6
    assert 0.3 < (first == second).float().mean() < 0.7


def test_baselines_are_blind_and_measured_at_fractions(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    tree = toy_experiment({"kind": "linear"}).model_dump(mode="json")
    experiment = Experiment.from_tree(tree | {"evaluation": {"observed": [0.5]}})
    result = train(experiment, folder=tmp_path / "run", data=toy_data())
    assert result.observed is not None
    found = result.observed["0.5"]["test"]
    assert 0 < found["precision@1"] <= found["with_labels"]
    assert evaluate(tmp_path / "run", toy_data().raw, observed=0.5) == found


def test_positive_unlabelled_training_finds_what_is_not_listed(tmp_path: Path) -> None:
    """With half of the labels missing, scores learned with the propensity are of true labels, not of listed ones."""
    from dataclasses import replace as replaced

    from energynets.data.missing import take_out
    from energynets.training import BuiltData

    data = toy_data(documents=1200)
    cut = take_out(data.raw, 0.5)
    cut_data = BuiltData(cut, data.preparation, replaced(data.preparation.prepare(cut)))
    test = data.prepared.split("test")
    means = {}
    for propensity in (None, 0.5, "jain"):
        tree = toy_experiment(CLASSIFIER, stages=[stage("all", epochs=15, optimizer={"learning_rate": 0.01})])
        tree = tree.model_dump(mode="json")
        experiment = Experiment.from_tree(tree | {"objective": {"propensity": propensity}})
        folder = tmp_path / str(propensity)
        train(experiment, folder=folder, data=cut_data)
        means[propensity] = score(load_run(folder).model, test, k=6).values.mean()
    truth = test.labels.toarray().mean()
    assert means[0.5] == pytest.approx(truth, abs=0.05)
    assert means[None] == pytest.approx(truth / 2, abs=0.05)
    assert means["jain"] > means[None] + 0.01


def test_unknown_labels_of_training_are_learned_neither_way(tmp_path: Path) -> None:
    """Half of a label's true documents made unknown: its scores stay; made false, they halve."""
    data, built = toy_data(documents=800), None
    labels = data.raw.documents.labels.toarray()
    hide = np.zeros_like(labels)
    hide[:, 0] = labels[:, 0] * (np.random.default_rng(0).random(len(labels)) < 0.5)
    hide[data.raw.splits["test"]] = 0
    means = {}
    from dataclasses import replace as replaced

    from energynets.training import BuiltData

    for name in ("unknown", "false"):
        documents = Documents(
            data.raw.documents.inputs,
            csr_array(labels - hide),
            unknown=csr_array(hide) if name == "unknown" else None,
        )
        raw = replaced(data.raw, documents=documents)
        built = BuiltData(raw, data.preparation, data.preparation.prepare(raw))
        experiment = toy_experiment(
            CLASSIFIER, stages=[stage("all", epochs=15, optimizer={"learning_rate": 0.01}, keep="last")]
        )
        train(experiment, folder=tmp_path / name, data=built)
        scores = score(load_run(tmp_path / name).model, data.prepared.split("test"), k=6)
        means[name] = scores.values[scores.indices == 0].mean()
    truth = labels[data.raw.splits["test"], 0].mean()
    assert means["unknown"] > means["false"] + 0.05
    assert abs(means["unknown"] - truth) < 0.1


@pytest.mark.parametrize("model", [CLASSIFIER, SPEN], ids=["classifier", "spen"])
def test_test_documents_of_which_nothing_is_known_cost_no_result(
    tmp_path: Path, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_data()
    hidden = np.zeros(data.raw.documents.labels.shape, np.float32)
    hidden[data.raw.splits["test"]] = 1
    labels = csr_array(data.raw.documents.labels.toarray() * (1 - hidden))
    raw = replace(data.raw, documents=replace(data.raw.documents, labels=labels, unknown=csr_array(hidden)))
    data = replace(data, raw=raw, prepared=data.preparation.prepare(raw))

    class Noting(Progress):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, message: str) -> None:
            self.notes.append(message)

    progress, experiment = Noting(), toy_experiment(model, stages=[stage("all", epochs=1)])
    result = train(experiment, folder=tmp_path / "run", data=data, progress=progress)
    assert result.calibration is None
    assert [note for note in progress.notes if "calibration" in note] == [
        "no calibration: every label of every test document is unknown"
    ]
    row = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "calibration" not in row
    assert row["metrics"]["validation"]["f1_example"] > 0
    assert train(experiment, folder=tmp_path / "run", data=data, resume=True) == result

    monkeypatch.setattr(TrainedRun, "dataset", lambda run: data.prepared)
    assert main(["evaluate", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] is None
    assert main(["evaluate", str(tmp_path / "run"), "--quiet"]) == 0
    assert "no calibration: no label of any document" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--split", "validation", "--quiet"]) == 0
    assert "expected calibration error" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.reveal.low=0.95", "training.reveal.low: expected at most high, 0.9, got 0.95"),
        ("training.reveal.hihg=0.5", "training.reveal.hihg: unknown key 'hihg' (did you mean 'high'?"),
        ("evaluation.observed=[1.0]", "evaluation.observed.0: expected less than 1.0, got 1.0"),
        (
            "model.output={kind: chunked}",
            "training.reveal: needs all labels at once: set model.output.kind to linear",
        ),
        ("objective={propensity: 0.5, loss: mse}", "objective.propensity: goes with loss bce alone, got mse"),
        ("objective={propensity: jane}", "objective.propensity"),
        ("objective={propensity: 1.5}", "objective.propensity"),
        ("objective={kind: contrastive, propensity: 0.5}", "objective.propensity: unknown key"),
    ],
)
def test_mistakes_are_named(override: str, expected: str) -> None:
    tree = toy_experiment(CLASSIFIER, reveal={}).model_dump(mode="json")
    with pytest.raises(ConfigError) as caught:
        Experiment.from_tree(tree, [override])
    assert expected in str(caught.value)


def test_what_does_not_fit_together_is_named() -> None:
    for tree, message in (
        (
            {"model": CLASSIFIER | {"observes": True}},
            "model.observes: no labels are shown in training",
        ),
        ({"model": {"kind": "linear"}, "training": {"reveal": {}}}, "model.kind linear cannot be shown labels"),
        (
            {"model": SPEN | {"shortlist": 3}, "evaluation": {"observed": [0.5]}},
            "evaluation.observed: needs all labels at once: set model.shortlist to null",
        ),
        (
            {"model": SPEN | {"label_chunk": 3, "shortlist": 3}, "objective": {"propensity": 0.5}},
            "objective.propensity: .*: set model.label_chunk to null and model.shortlist to null",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            Experiment.from_tree({"name": "toy", "data": {"planted": {}}, **tree})


# -------------------------------------------------------------------------------------------------------- predict, CLI


def test_predict_with_known_labels(runs: dict[str, Path]) -> None:
    run, raw = load_run(runs["spen"]), toy_data().raw.split("test")
    known = np.zeros((3, 6), np.float32)
    known[0, 2], known[0, 4], known[2, :] = 1, -1, -1
    scores = predict(run, raw.inputs[np.arange(3)], top=6, observed=csr_array(known))
    assert {2, 4}.isdisjoint(scores.indices[0, :4])
    assert (scores.values[0, 4:] == NOT_RANKED).all()
    assert (scores.values[2] == NOT_RANKED).all()
    blind = predict(run, raw.inputs[np.arange(3)], top=6)
    np.testing.assert_allclose(scores.values[1], blind.values[1], atol=1e-6)
    assert not np.allclose(np.sort(scores.values[0, :4]), np.sort(blind.values[0][~np.isin(blind.indices[0], [2, 4])]))
    with pytest.raises(ShapeError, match=r"observed: expected \(3, 6\), got \(2, 6\)"):
        predict(run, raw.inputs[np.arange(3)], observed=csr_array(known[:2]))
    with pytest.raises(DataError, match="observed: expected 1 for a label known to be true, -1"):
        predict(run, raw.inputs[np.arange(3)], observed=csr_array(2 * known))


@pytest.fixture
def planted_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    sizes = {"num_labels": 4, "num_documents": 60, "num_test_documents": 20, "vocabulary_size": 60}
    tree = {
        "name": "small",
        "data": {"planted": sizes},
        "model": {"kind": "classifier", "features": {"kind": "kim_cnn", "embedding_dim": 4, "windows": [1]}},
        "training": {"stages": [{"name": "all", "epochs": 1}], "reveal": {}},
        "evaluation": {"observed": [0.5]},
    }
    path = tmp_path / "small.yaml"
    path.write_text(Experiment.from_tree(tree).to_yaml())
    assert main(["train", str(path), "--folder", str(tmp_path / "run"), "--quiet"]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_evaluate_and_predict_from_the_command_line(planted_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((planted_run / "result.json").read_text())["observed"]["0.5"]
    assert main(["evaluate", str(planted_run), "--observed", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    value = result["threshold"]["value"]
    assert (found["metrics"], found["threshold"], found["observed"]) == (result["test"], value, 0.5)
    assert found["decoding"] == "global"
    assert 0 < found["calibration"]["pairs"] < 20 * 4
    assert main(["evaluate", str(planted_run), "--observed", "0.5", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"small on test, 50 % of the labels shown, threshold {value:.4f}\n")
    assert "with_labels" in out
    assert main(["evaluate", str(planted_run), "--observed", "0.3", "--quiet"]) == 0
    assert ", 30 % of the labels shown, decoding global\n" in capsys.readouterr().out
    assert main(["evaluate", str(planted_run), "--observed", "0.5", "--decoding", "per_label", "--quiet"]) == 0
    assert ", 50 % of the labels shown, decoding per_label\n" in capsys.readouterr().out
    several = str(planted_run.parent / "several")
    config = [str(planted_run.parent / "small.yaml"), "--set", "evaluation.draws=3", "--trained", str(planted_run)]
    assert main(["train", *config, "--folder", several, "--quiet"]) == 0
    assert "trained in" in capsys.readouterr().out
    assert main(["evaluate", several, "--observed", "0.5", "--quiet"]) == 0
    assert ", 50 % of the labels shown in 3 draws, threshold" in capsys.readouterr().out
    assert main(["evaluate", several, "--observed", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["draws"] == 3

    names = load_run(planted_run).label_names
    assert names is not None
    source = planted_run.parent / "new.jsonl"
    lines = [{"text": "w00012 w00013", "known": {names[1]: True, names[2]: False}}, {"text": "w00014"}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["predict", str(planted_run), str(source), "--top", "4", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["known"] for row in rows] == [{names[1]: True, names[2]: False}, {}]
    assert [sorted(label["id"] for label in row["labels"]) for row in rows] == [[0, 3], [0, 1, 2, 3]]
    assert main(["predict", str(planted_run), str(source), "--top", "1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("\t")[1] == f"known: {names[1]}, not {names[2]}"
    assert len(second.split("\t")) == 2


def refused(run: Path, name: str, content: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What is said of a wrong file, NAME standing for the run's first label in it and in what is said."""
    names = load_run(run).label_names
    assert names is not None
    source = run.parent / name
    source.write_text(content.replace("NAME", names[0]))
    assert main(["predict", str(run), str(source), *options]) == 2
    return capsys.readouterr().err.replace(names[0], "NAME")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object with 'text', got [1]"),
        ('{"txt": "a"}', "line 2: unknown key 'txt' (did you mean 'text'? valid: known, text)"),
        ('{"text": 3}', "line 2: text: expected text, got 3"),
        ('{"text": "a", "known": ["label-0"]}', "line 2: known: expected an object of labels and true or false, got"),
        ('{"text": "a", "known": {"NAME": 1}}', "line 2: known: NAME: expected true or false, got 1"),
        ('{"text": "a", "known": {"NAMEE": true}}', "line 2: known: unknown label 'NAMEE': did you mean 'NAME'?"),
    ],
)
def test_mistakes_in_json_lines_are_named(
    line: str, expected: str, planted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(planted_run, "new.jsonl", '{"text": "w00012"}\n' + line + "\n", capsys)


def test_json_lines_of_a_table(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text('{"features": {"0": 1.5, "7": 2}, "known": {"3": true}}\n')
    assert main(["predict", str(runs["spen"]), str(source), "--top", "6", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["known"] == {"3": True}
    table = np.zeros((1, 20), np.float32)
    table[0, [0, 7]] = 1.5, 2
    known = csr_array(([1.0], ([0], [3])), shape=(1, 6))
    scores = predict(runs["spen"], csr_array(table), top=5, observed=known)
    assert [label["id"] for label in row["labels"]] == scores.indices[0].tolist()
    for text, expected in (
        ('{"features": {"20": 1}}', "line 1: features: expected columns from 0 to 19, got '20'"),
        ('{"features": {"2": "x"}}', 'line 1: features: column 2: expected a number, got "x"'),
        ('{"features": {}, "known": {"6": true}}', "line 1: known: expected label numbers from 0 to 5, got '6'"),
    ):
        source.write_text(text + "\n")
        assert main(["predict", str(runs["spen"]), str(source)]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "ONE,!TWO\tw00012 w00013\n\tw00014\n",
        " ! TWO , ONE\tw00012 w00013\r\n\tw00014",
        "ONE !TWO\tw00012 w00013\n\tw00014\n",
        "Text\tid\tKnown\tLabels\nw00012 w00013\t7\tONE,!TWO\tTHREE\nw00014\t8\t\tONE\n",
        "labels\ttext\nONE,!TWO\tw00012 w00013\n\tw00014\n",
    ],
)
def test_a_column_of_known_labels_says_what_json_lines_say(
    content: str, planted_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = load_run(planted_run).label_names
    assert names is not None
    for word, name in zip(("ONE", "TWO", "THREE"), names, strict=False):
        content = content.replace(word, name)
    lines = [{"text": "w00012 w00013", "known": {names[0]: True, names[1]: False}}, {"text": "w00014"}]
    files = {name: planted_run.parent / name for name in ("new.jsonl", "new.tsv", "new.tsv.gz", "new.txt")}
    files["new.jsonl"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    files["new.tsv"].write_bytes(content.encode())
    files["new.tsv.gz"].write_bytes(gzip.compress(content.encode()))
    files["new.txt"].write_text("w00012 w00013\nw00014\n")

    def predicted(source: object, *options: str) -> list[dict[str, Any]]:
        assert main(["predict", str(planted_run), str(source), "--top", "4", "--json", *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    expected = predicted(files["new.jsonl"])
    assert [row["known"] for row in expected] == [{names[0]: True, names[1]: False}, {}]
    assert predicted(files["new.tsv"], "--known") == expected
    assert predicted(files["new.tsv.gz"], "--known", "--format", "tsv") == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert predicted("-", "--known") == expected
    blind = predicted(files["new.txt"])  # as this classifier is: the others are ranked as ever
    assert [[label for label in row["labels"] if label["id"] > 1] for row in blind[:1]] == [expected[0]["labels"]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ta\nNAMEE\ta", "new.tsv: line 2: known: unknown label 'NAMEE': did you mean 'NAME'?"),
        ("\ta\n!NAMEE\ta", "new.tsv: line 2: known: unknown label 'NAMEE': did you mean 'NAME'?"),
        ("text\tlabels\na\tNAMEE", "new.tsv: line 2: labels: unknown label 'NAMEE': did you mean 'NAME'?"),
        ("NAME,!NAME\ta", "line 1: known: expected label 'NAME' once, got it as true and as false"),
        ("NAME,NAME\ta", "line 1: known: duplicate label 'NAME'"),
        ("NAME,,\ta", "line 1: known: expected a label between commas, got none in"),
        ("w1 w2", "line 1: expected 2 columns (known, text; a header line may name others), got 1: 'w1 w2'"),
        ("text\tid\tknown\na\tb", "line 2: expected 3 columns (text, id, known; "),
        ("text\tknwon\na\tb", "line 1: unknown column 'knwon' (did you mean 'known'? valid: id, known, labels, text)"),
        ("text\tid\na\tb", "line 1: expected a column `known` beside the text, got text, id"),
        ("known\ttext\n", "expected documents after the header line, got none"),
    ],
)
def test_mistakes_in_a_column_of_known_labels_are_named(
    content: str, expected: str, planted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(planted_run, "new.tsv", content, capsys, "--known")
    assert expected in told
    assert told.count("\n") == 1
    assert main(["predict", str(planted_run), "-", "--format", "jsonl", "--known"]) == 2
    assert "JSON lines have a field `known` of their own" in capsys.readouterr().err


def test_labels_that_a_data_file_lists_may_be_known(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def predicted(source: Path, *options: str) -> list[dict[str, Any]]:
        assert main(["predict", str(runs["spen"]), str(source), "--top", "6", "--json", *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    lines, table, archive = tmp_path / "new.jsonl", tmp_path / "new.svm", tmp_path / "new.npz"
    lines.write_text('{"features": {"0": 1.5, "7": 2}, "known": {"3": true}}\n{"features": {"1": 1}}\n')
    table.write_text("3 0:1.5 7:2\n 1:1\n")
    assert predicted(table, "--format", "svmlight", "--known") == predicted(lines)
    assert "known" not in predicted(table, "--format", "svmlight")[0]
    table.write_text("3 0:1.5\n6 1:1\n")
    assert main(["predict", str(runs["spen"]), str(table), "--format", "svmlight", "--known"]) == 2
    assert f"{table}: line 2: label index 6 is out of range: expected 0 to 5" in capsys.readouterr().err

    inputs = csr_array(np.eye(1, 20, dtype=np.float32))
    true, unknown = (csr_array(np.array([row], np.float32)) for row in ([0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1]))
    write_npz(archive, Documents(inputs, true, unknown=unknown))
    (row,) = predicted(archive, "--format", "npz", "--known")
    assert row["known"] == {"2": False, "3": True, "4": False}, "an archive that says what is unknown knows the rest"
    assert sorted(label["id"] for label in row["labels"]) == [0, 1, 5]
    write_npz(archive, Documents(inputs, csr_array(np.ones((1, 5), np.float32))))
    assert main(["predict", str(runs["spen"]), str(archive), "--format", "npz", "--known"]) == 2
    assert f"{archive}: expected the 6 labels of the run, got 5" in capsys.readouterr().err


def test_labels_of_a_data_file_are_matched_by_name(planted_run: Path) -> None:
    run = load_run(planted_run)
    names, texts = run.label_names, TextDocuments(("a", "b"))
    assert names is not None
    marks = csr_array(np.array([[1, 0, 1], [0, 0, 0]], np.float32))
    found = listed_labels(run, Documents(texts, marks, (names[3], "of another set", names[0])), "new.npz")
    assert found.toarray().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    with pytest.raises(DataError, match=f"new.npz: unknown label '{names[3]}e': did you mean '{names[3]}'"):
        listed_labels(run, Documents(texts, marks, (f"{names[3]}e", names[1], names[0])), "new.npz")


def test_labels_in_chunks_take_no_known_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = toy_experiment(SPEN | {"label_chunk": 3}, stages=[stage("all", *ALL, epochs=1)])
    run_toy(tmp_path / "run", experiment=experiment)
    table = tmp_path / "new.svm"
    table.write_text("3 0:1.5 7:2\n")
    assert main(["predict", str(tmp_path / "run"), str(table), "--format", "svmlight", "--known"]) == 2
    assert "labels in chunks or a shortlist: none can be known beforehand" in capsys.readouterr().err


def test_weights_do_not_depend_on_what_evaluation_shows(tmp_path: Path) -> None:
    for name, observed in (("a", []), ("b", [0.2, 0.5])):
        run_toy(tmp_path / name, experiment=completing(SPEN, epochs=1, observed=observed))
    a, b = (load_file(tmp_path / name / "checkpoints" / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert "observed" not in json.loads((tmp_path / "a" / "result.json").read_text())


def test_objectives_that_read_every_label_refuse_unknown_ones_before_training(tmp_path: Path) -> None:
    data = toy_data()
    documents = data.prepared.documents
    unknown = np.zeros(documents.labels.shape, np.float32)
    row, label = np.argwhere(documents.labels.toarray() == 0)[0]
    unknown[row, label] = 1
    prepared = replace(data.prepared, documents=replace(documents, unknown=csr_array(unknown)))
    experiment = toy_experiment(SPEN)
    tree = experiment.model_dump(mode="json") | {"objective": {"kind": "contrastive"}}
    with pytest.raises(ConfigError, match="some labels of toy are unknown: use end_to_end"):
        train(Experiment.from_tree(tree), folder=tmp_path / "run", data=replace(data, prepared=prepared))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("observes", [False, True], ids=["blind features", "features that observe"])
@pytest.mark.parametrize("kind", ["structured_hinge", "value_network", "inference_network", "contrastive"])
def test_objectives_that_read_an_energys_values_learn_with_known_labels(
    kind: str, observes: bool, tmp_path: Path
) -> None:
    amortized = {"amortized": {}} if kind == "inference_network" else {}
    tree = completing({**SPEN, **amortized, "observes": observes}).model_dump(mode="json")
    trains = [*ALL, "inference"] if amortized else ALL
    tree["training"]["stages"] = [stage("all", *trains, epochs=25, keep="last", optimizer={"learning_rate": 2e-2})]
    run_toy(tmp_path / "run", experiment=Experiment.from_tree(tree | {"objective": {"kind": kind}}))
    rest = json.loads((tmp_path / "run" / "result.json").read_text())["observed"]["0.5"]
    assert rest["test"]["precision@1"] > 0.35, "0.13 untrained, and 0.47 of the documents have one left"


def test_a_stage_that_cannot_see_known_labels_learns_from_all(tmp_path: Path) -> None:
    def losses(name: str, **settings: Any) -> dict[str, list[float]]:
        stages = [stage("unary", "features", "unary"), stage("energy", "energy")]
        run_toy(tmp_path / name, experiment=toy_experiment(SPEN, stages=stages, **settings))
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return {
            kind: [line["train_loss"] for line in lines if line["stage"] == kind and line["epoch"]]
            for kind in ("unary", "energy")
        }

    plain, revealed = losses("plain"), losses("revealed", reveal={"low": 0.5, "high": 0.5})
    assert plain["unary"] == revealed["unary"]
    assert plain["energy"][0] > 1.5 * revealed["energy"][0], "the loss is of the rest"
