"""The benchmarks of shortlists and of evaluation: their parts are a step, and what they print is what they measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks import evaluation, shortlist
from benchmarks.memory import _RESET
from energynets.inference import Shortlist

pytestmark = pytest.mark.skipif(not _RESET.exists(), reason="peaks are read from Linux's /proc")


def test_the_parts_are_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "free_at_once", lambda: None)  # for good, and this process goes on
    labels, features = 300, shortlist.make_batch(300)[0]
    model = shortlist.build(labels)[0]
    targets = shortlist.make_batch(labels)[1]
    parameters = [*model.parameters(), features]

    def stream() -> shortlist.ShortlistStream:
        settings = Shortlist(50, 5, torch.Generator().manual_seed(0))
        return shortlist.ShortlistStream(settings, model.energy, model.solver, model.gradient, features, 64)  # type: ignore[arg-type]

    expected = torch.autograd.grad(stream().bce(targets, training=True), parameters)  # type: ignore[arg-type]
    seconds, _ = shortlist.step_in_parts(stream(), targets)
    assert len(seconds) == 3
    assert min(seconds) > 0
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    found = shortlist.measure_one(labels, rounds=2, threads=1)
    assert [len(times) for times in found["ms"].values()] == [2] * 5


def test_slopes_and_ratios() -> None:
    def row(labels: int) -> dict:
        times = {"first pass": 1 + labels / 1e3, "steps": 5.0, "second pass": labels / 500, "label_chunk": labels / 100}
        times["products"] = labels / 400
        peaks = dict.fromkeys(shortlist.PEAKS, 100 + 3 * labels) | {"steps_peak_bytes": 10**6}
        return {"labels": labels, "median_ms": times, **peaks, "gradient_bytes": 1}

    rows = [row(labels) for labels in (1_000, 10_000, 100_000)]
    found = shortlist.lines(rows)
    line = {"slope": 1, "start": 1000, "largest_off": 0}
    assert found["us_a_label"]["first pass"] == pytest.approx(line, abs=1e-6)
    assert found["bytes_a_label"]["chunk_peak_bytes"] == pytest.approx({**line, "slope": 3, "start": 100}, abs=1e-6)
    assert found["share_of_limit"] == pytest.approx([0.25] * 3)
    assert (found["steps_ms_ratio"], found["steps_peak_ratio"]) == (1, 1)
    assert "second pass: 2 us a label" in shortlist.report(rows)
    bent = shortlist.lines([*rows[:2], {**rows[2], "chunk_peak_bytes": 10**6}])
    assert bent["bytes_a_label"]["chunk_peak_bytes"]["largest_off"] > 0.2


@pytest.mark.parametrize("name", evaluation.MODELS)
def test_memory_of_evaluation_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "free_at_once", lambda: None)
    found = evaluation.measure_one(name, 600, 70, 1)
    assert found["metrics"].get("shortlist_recall", 1) > 0.5
    assert found["peak_bytes"] >= 0
    few = {**found, "documents": 70, "peak_bytes": 0}
    many = {**found, "documents": 170, "peak_bytes": 204_800}
    monkeypatch.setattr(evaluation, "in_fresh_process", lambda _1, _2, count, _3: few if count == 70 else many)
    rows = evaluation.measure(600, [70, 170], [name], 1)
    assert rows[0]["bytes_a_document"] == 2048
    assert "2048" in evaluation.report(600, rows)
