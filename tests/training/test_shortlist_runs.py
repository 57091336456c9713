"""Training, validation and evaluation of energies over a shortlist."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_label_chunk import ICNN, STAGES, never, peak_bytes, trace
from toy_run import SPEN, toy_data, toy_experiment

from energynets.config import Experiment
from energynets.data.batches import Batch, CachedFeatures, SparseBatch
from energynets.errors import ConfigError
from energynets.inference import Shortlist
from energynets.memory import estimate
from energynets.metrics import TopScores, evaluate_scores
from energynets.models import EnergyNetwork
from energynets.objectives import EndToEnd
from energynets.training import Interrupted, Progress, Sizes, build_model, evaluate, load_run, train

SHORT = SPEN | {"label_chunk": 3, "shortlist": {"candidates": 4, "negatives": 1}}


@pytest.mark.parametrize("model", [SPEN, ICNN], ids=["spen", "icnn"])
def test_a_run_with_all_labels_is_the_dense_run(
    model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_data(labels=7)
    dense = toy_experiment(model, stages=STAGES, monitor="loss")
    short = toy_experiment(model | {"label_chunk": 3, "shortlist": 7}, stages=STAGES, monitor="loss")
    assert short.hash() != dense.hash()
    assert short.hash() == toy_experiment(model | {"shortlist": 7}, stages=STAGES, monitor="loss").hash()
    expected = train(dense, folder=tmp_path / "dense", data=data)
    with monkeypatch.context() as patched:
        for method in ("forward", "infer"):  # all logits at once
            patched.setattr(EnergyNetwork, method, never)
        found = train(short, folder=tmp_path / "short", data=data)
    assert found.trace is None
    for mine, theirs in zip(trace(tmp_path / "short"), trace(tmp_path / "dense"), strict=True):
        assert mine["train_loss"] == (theirs["train_loss"] and pytest.approx(theirs["train_loss"], rel=1e-4))
        assert mine["validation"]["loss"] == pytest.approx(theirs["validation"]["loss"], rel=1e-4)
        recall = mine["validation"].get("shortlist_recall")
        assert recall == (None if mine["stage"] == "unary" else 1)  # the classifier of that stage has no shortlist
    for split, metrics in expected.metrics.items():
        assert found.metrics[split]["shortlist_recall"] == 1
        assert {name: found.metrics[split][name] for name in metrics} == pytest.approx(metrics, abs=0.05)


def test_recall_is_reported_everywhere(tmp_path: Path) -> None:
    data = toy_data(labels=7)
    result = train(toy_experiment(SHORT, stages=STAGES), folder=tmp_path / "run", data=data)
    row = json.loads((tmp_path / "run" / "result.json").read_text())
    lines = [line["validation"] for line in trace(tmp_path / "run") if line["stage"] != "unary"]
    run = load_run(tmp_path / "run")
    measured = evaluate(run.model, data.prepared, threshold=run.threshold)
    for metrics in (result.metrics["test"], row["metrics"]["validation"], row["metrics"]["test"], measured, *lines):
        assert 0.5 < metrics["shortlist_recall"] < 1
    assert measured["shortlist_recall"] == row["metrics"]["test"]["shortlist_recall"]
    assert (run.model.label_chunk, run.model.shortlist) == (3, Shortlist(4, 1))
    # By hand: the share of true labels among the four of the largest unary logits.
    test = data.prepared.split("test")
    with torch.no_grad():
        unary = run.model.as_classifier().eval().logits_in_chunks(_inputs(test.inputs))
        best = torch.cat(list(unary), 1).topk(4).indices.numpy()
    true = test.labels.toarray() > 0
    shares = [np.isin(np.flatnonzero(row), kept).mean() for row, kept in zip(true, best, strict=True) if row.any()]
    assert measured["shortlist_recall"] == pytest.approx(np.mean(shares), abs=1e-6)


def _inputs(matrix: Any) -> SparseBatch:
    from energynets.data.batches import sparse_batch

    return sparse_batch(matrix)


def test_recall_of_scores() -> None:
    labels = toy_data().raw.documents.labels[:3]
    scores = TopScores.from_dense(np.random.default_rng(0).random((3, 6)), 2)
    assert "shortlist_recall" not in evaluate_scores(scores, labels)
    recall = np.array([0.5, np.nan, 1], np.float32)
    known = TopScores(scores.indices, scores.values, 6, recall)
    assert evaluate_scores(known, labels)["shortlist_recall"] == 0.75
    assert np.array_equal(TopScores.concatenate([known[:1], known[1:]]).recall, recall, equal_nan=True)  # type: ignore[arg-type]
    assert TopScores.concatenate([known, scores]).recall is None
    nothing = TopScores(scores.indices, scores.values, 6, np.full(3, np.nan, np.float32))
    assert evaluate_scores(nothing, labels)["shortlist_recall"] == 0


class Stop(Progress):
    """As Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def step(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)


def test_one_seed_one_run_whether_it_was_stopped_or_not(tmp_path: Path) -> None:
    data, experiment = toy_data(labels=12), toy_experiment(SHORT, stages=STAGES)
    for folder in ("one", "two"):
        train(experiment, folder=tmp_path / folder, data=data)
    with pytest.raises(Interrupted):
        train(experiment, folder=tmp_path / "stopped", data=data, progress=Stop(14))
    train(experiment, folder=tmp_path / "stopped", data=data, resume=True)
    other = toy_experiment(SHORT | {"shortlist": {"candidates": 4, "negatives": 2}}, stages=STAGES)
    train(other, folder=tmp_path / "other", data=data)

    def losses(folder: str) -> list[float]:
        return [line["train_loss"] for line in trace(tmp_path / folder)]

    assert losses("one") == losses("two") == losses("stopped") != losses("other")


def test_a_number_is_that_many_candidates() -> None:
    section = {"candidates": 5, "negatives": 0, "positives": False}
    found, whole = (toy_experiment(SPEN | {"shortlist": given}) for given in (5, section))
    assert found == whole
    assert found.hash() == whole.hash()
    assert Experiment.from_tree(found.model_dump(mode="json"), ["model.shortlist=7"]).model.shortlist.candidates == 7  # type: ignore[union-attr]
    number, section = Experiment.json_schema()["$defs"]["ShortlistConfig"]["anyOf"]
    assert number == {"type": "integer", "minimum": 1}
    assert list(section["properties"]) == ["candidates", "negatives", "positives"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.shortlist=0"], "model.shortlist.candidates: expected 1 or more, got 0"),
        (["model.shortlist=many"], "model.shortlist: expected a number of labels, or a section with candidates"),
        (["model.shortlist={candidate: 4}"], "did you mean 'candidates'"),
        (["model.shortlist={candidates: 4, negatives: 4}"], "negatives: expected fewer than the 4 candidates, got 4"),
        (["model.solver={kind: anderson}"], "shortlist: does not go with solver.kind anderson"),
        (["model.solver.precision=bf16"], "shortlist: goes with solver.precision float32 alone, got bf16"),
        (["model.solver.memory=2"], "shortlist: its iterates are small: set solver.memory null"),
        (["model.energy={kind: icnn, gate: true}"], "shortlist: does not go with energy.gate"),
        (["model.keep_unary=true", "model.label_chunk=2"], "shortlist: does not go with keep_unary"),
        (["objective.loss=softmax"], "model.shortlist goes with bce alone, got softmax"),
        (["objective.steps=all"], "model.shortlist has the loss of the last step alone"),
        (["training.compile=engine"], "model.shortlist goes with none alone, got engine"),
    ],
)
def test_what_does_not_go_with_a_shortlist_is_refused_before_anything_runs(overrides: list[str], message: str) -> None:
    tree = toy_experiment(SPEN | {"shortlist": 3}).model_dump(mode="json")
    with pytest.raises(ConfigError, match=message):
        Experiment.from_tree(tree, overrides)


@pytest.mark.parametrize(
    "change",
    [
        {"solver": {"kind": "gradient_descent"}},
        {"solver": {"kind": "mirror_descent", "tolerance": 1e-3, "line_search": True}},
        {"gradient": {"kind": "truncated"}},
        {"energy": {"kind": "icnn"}, "solver": {"kind": "bundle_entropy"}},
    ],
)
def test_what_labels_in_chunks_alone_do_not_take(change: dict[str, Any], tmp_path: Path) -> None:
    stages = [{"name": "joint", "epochs": 1}]
    result = train(toy_experiment(SHORT | change, stages=stages), folder=tmp_path / "run", data=toy_data())
    assert 0 < result.metrics["test"]["shortlist_recall"] <= 1


# ------------------------------------------------------------------------------------------------ memory


def test_memory_of_a_shortlist_does_not_grow_with_labels() -> None:
    def step(labels: int, **model: Any) -> int:
        return estimate(toy_experiment(SPEN | model), Sizes(20, labels, False)).stages[-1].step

    short = {"label_chunk": 1000, "shortlist": 100}
    assert step(10**5, **short) == pytest.approx(step(10**4, **short), rel=0.1)
    assert step(10**4, **short) < step(10**4, **short | {"shortlist": 1000})
    assert step(10**4, **short) < step(10**4, shortlist=100)
    assert step(50, **short) == step(50, **short | {"shortlist": 50})


@pytest.mark.parametrize(("count", "chunk"), [(200, 500), (20, 2000)])
def test_what_a_step_holds_is_what_the_estimate_says(count: int, chunk: int) -> None:
    labels, size = 20_000, 64
    model = SPEN | {"energy": {"kind": "spen"}, "label_chunk": chunk, "shortlist": count}  # K = 16
    settings = toy_experiment(model, batch_size=size)
    network = build_model(settings, Sizes(20, labels, False))
    columns = torch.randint(labels, (size,), generator=torch.Generator().manual_seed(0))
    targets = SparseBatch(columns, torch.ones(size), torch.arange(size + 1), labels)
    batch = Batch(CachedFeatures(torch.randn(size, network.features.num_features)), targets, torch.arange(size))
    peak = peak_bytes(lambda: EndToEnd()(network, batch).backward())
    gradients = sum(4 * parameter.numel() for parameter in network.parameters() if parameter.grad is not None)
    said = estimate(settings, Sizes(20, labels, False)).stages[-1]
    assert peak == pytest.approx(said.gradients + said.step, rel=0.15)
    assert gradients == pytest.approx(said.gradients, rel=0.01)
