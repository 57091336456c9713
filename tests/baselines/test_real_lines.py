"""The lines that models are measured against, on real data: they must stay where they were measured."""

import os

import pytest

from energynets.baselines import Baseline, LabelTree, LinearOneVsRest, NearestNeighbours, TargetEmbedding
from energynets.data.load import load_dataset
from energynets.data.prepare import Preparation
from energynets.metrics import choose_threshold, evaluate_scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("ENERGYNETS_DATA"), reason="ENERGYNETS_DATA does not say where real data are"
    ),
]

LINES = [
    ("bibtex", LinearOneVsRest("logistic", 0.5), 0.62, 0.44),
    ("bibtex", LinearOneVsRest("hinge", 0.03), 0.625, 0.445),
    ("bibtex", TargetEmbedding(159), 0.635, 0.475),
    ("bibtex", LabelTree(), 0.625, 0.445),
    ("reuters", LinearOneVsRest("hinge", 1.0), 0.935, 0.895),
    ("goemotions", LinearOneVsRest("hinge", 0.3), 0.59, 0.56),
    ("citeulike-t", NearestNeighbours(50), 0.63, 0.29),
]


@pytest.mark.parametrize(("name", "baseline", "precision", "f1"), LINES)
def test_line(name: str, baseline: Baseline, precision: float, f1: float) -> None:
    if isinstance(baseline, LabelTree):
        pytest.importorskip("napkinxc")
    dataset = load_dataset(name)
    dataset = Preparation.fit(dataset).prepare(dataset)
    kept = min(dataset.num_labels, 256)
    baseline.fit(dataset.split("train"))
    validation, test = dataset.split("validation"), dataset.split("test")
    threshold = choose_threshold(baseline.scores(validation, kept), validation.labels)
    metrics = evaluate_scores(baseline.scores(test, kept), test.labels, threshold=threshold)
    assert metrics["precision@1"] > precision
    assert metrics["f1_example"] > f1
