"""Training and scoring with labels in chunks: the dense run is the oracle."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import SPEN, toy_data, toy_experiment

from energynets.config import Experiment
from energynets.data.batches import CachedFeatures, SparseBatch
from energynets.errors import ConfigError
from energynets.inference.engine import label_native
from energynets.inference.engine.native import library
from energynets.memory import estimate
from energynets.models import Classifier, EnergyNetwork
from energynets.training import Sizes, build_model, evaluate, load_run, train

STAGES = (
    {"name": "unary", "trains": ["features", "unary"], "epochs": 2},
    {"name": "energy", "trains": ["energy"], "epochs": 2, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
    {"name": "joint", "epochs": 2, "optimizer": {"clip_norm": 1.0}},
)
ICNN = SPEN | {"energy": {"kind": "icnn", "hidden": [3, 3], "dropout": 0.2}}


def trace(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", [SPEN, ICNN], ids=["spen", "icnn"])
def test_a_run_in_chunks_is_the_dense_run(
    model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_data(labels=7)
    dense = toy_experiment(model, stages=STAGES, monitor="loss")
    chunked = toy_experiment(model | {"label_chunk": 3}, stages=STAGES, monitor="loss")
    assert chunked.hash() == dense.hash() != toy_experiment(SPEN | {"gradient": {"kind": "truncated"}}).hash()
    expected = train(dense, folder=tmp_path / "dense", data=data)

    with monkeypatch.context() as patched:
        patched.setattr(EnergyNetwork, "forward", never)
        patched.setattr(EnergyNetwork, "infer", never)
        patched.setattr(Classifier, "forward", never)
        patched.setattr(SparseBatch, "dense", never_dense_labels(SparseBatch.dense))
        found = train(chunked, folder=tmp_path / "chunked", data=data)
    for mine, theirs in zip(trace(tmp_path / "chunked"), trace(tmp_path / "dense"), strict=True):
        assert mine["train_loss"] == (theirs["train_loss"] and pytest.approx(theirs["train_loss"], rel=1e-4))
        assert mine["validation"]["loss"] == pytest.approx(theirs["validation"]["loss"], rel=1e-4)
    for split, metrics in expected.metrics.items():
        assert found.metrics[split] == pytest.approx(metrics, abs=0.05)
    run = load_run(tmp_path / "chunked")
    assert run.model.label_chunk == 3
    measured = evaluate(run.model, data.prepared, threshold=run.threshold, on_inference=never)
    assert measured["precision@1"] == (pytest.approx(found.metrics["test"]["precision@1"]))


def never(*_: Any) -> Any:
    raise AssertionError("something asked for all logits or targets at once")


def never_dense_labels(dense: Any) -> Any:
    """Inputs may be dense, 20 columns; targets may not."""

    def checked(batch: SparseBatch, dtype: torch.dtype | None = None) -> Any:
        assert batch.num_columns == 20
        return dense(batch, dtype)

    return checked


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.solver={kind: gradient_descent}"], "label_chunk: goes with solver.kind mirror_descent alone"),
        (["model.solver.tolerance=0.1"], r"label_chunk: solver\.tolerance looks at all labels at once: set it to 0"),
        (["model.solver.line_search=true"], r"solver\.line_search looks at all labels at once: set it to false"),
        (["model.gradient={kind: truncated}"], "goes with gradient.kind unroll alone, got truncated"),
        (["model.gradient={kind: implicit}"], "goes with gradient.kind unroll alone, got implicit"),
        (["model.energy={kind: icnn, gate: true}"], "does not go with energy.gate"),
        (["objective.loss=softmax"], "goes with bce alone, got softmax"),
        (["objective.steps=all"], "last step alone"),
        (["training.compile=graph"], "goes with none alone, got graph"),
        (["model.label_chunk=0"], "label_chunk"),
        (["model.label_chunk=null", "model.keep_unary=true"], "keep_unary: goes with a label_chunk alone"),
    ],
)
def test_what_cannot_come_in_chunks_is_refused_before_anything_runs(overrides: list[str], message: str) -> None:
    tree = toy_experiment(SPEN | {"label_chunk": 3}).model_dump(mode="json")
    with pytest.raises(ConfigError, match=message):
        Experiment.from_tree(tree, overrides)


def test_memory_of_chunks_does_not_grow_with_labels() -> None:
    def step(labels: int, chunk: int | None, steps: int = 3) -> int:
        model = SPEN | {"label_chunk": chunk, "solver": {"kind": "mirror_descent", "steps": steps}}
        return estimate(toy_experiment(model), Sizes(20, labels, False)).stages[-1].step

    assert step(10**6, 1000) == pytest.approx(step(10**4, 1000), rel=0.05)
    assert step(10**4, 1000) < step(10**4, None) < step(10**6, None) / 90
    assert step(100, 1000) == step(100, 100)
    assert step(10**6, 1000, steps=6) < 2 * step(10**6, 1000)


def peak_bytes(call: Callable[[], None]) -> int:
    """Most bytes allocated at once on the CPU within a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
@pytest.mark.parametrize("model", [SPEN, ICNN], ids=["spen", "icnn"])
def test_a_step_holds_no_more_than_the_streamed_descent_says(
    model: dict[str, Any], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(label_native, "take", lambda *given: False)
    elif isinstance(library(torch.float32), str):
        pytest.skip(f"no native code: {library(torch.float32)}")
    labels, size, chunk, steps = 20_000, 64, 500, 3
    network = build_model(toy_experiment(model | {"label_chunk": chunk}), Sizes(20, labels, False))
    inputs = CachedFeatures(torch.randn(size, network.features.num_features))
    columns = torch.randint(labels, (size,), generator=torch.Generator().manual_seed(0))
    targets = SparseBatch(columns, torch.ones(size), torch.arange(size + 1), labels)
    peak = peak_bytes(lambda: network.streamed_bce(inputs, targets).backward())
    gradients = sum(4 * parameter.numel() for parameter in network.parameters() if parameter.grad is not None)
    measurements = network.energy.num_measurements
    of_a_chunk = 2 * size if native else (2 * steps + 2) * size + measurements
    numbers = (7 * steps + 1) * size * measurements + of_a_chunk * chunk
    assert network.solver.steps == steps
    assert peak - gradients == pytest.approx(4 * numbers, rel=0.25 if native else 0.15)
