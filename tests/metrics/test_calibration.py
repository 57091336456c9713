"""Calibration against scikit-learn and sums written out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.errors import ConfigError, DataError
from energynets.metrics import TopScores, calibration
from energynets.metrics import scores as scores_module


def random_case(seed: int, rows: int = 40, labels: int = 12, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are not calibrated, with ties where they have few digits, and labels."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((rows, labels)) ** 3, digits).astype(np.float32)
    return scores, rng.random((rows, labels)) < np.sqrt(scores)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_agreement_with_scikit_learn(seed: int, digits: int, strategy: str) -> None:
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    metrics = pytest.importorskip("sklearn.metrics")
    scores, true = random_case(seed, digits=digits)
    found = calibration(TopScores.from_dense(scores, 12), csr_array(true.astype(np.float32)), bins=10)
    values = scores.ravel().astype(np.float64)
    frequency, confidence = curve(true.ravel(), values, n_bins=10, strategy=strategy)
    assert found.brier == pytest.approx(metrics.brier_score_loss(true.ravel(), values), abs=1e-12)
    if strategy == "uniform":
        assert [entry.frequency for entry in found.bins] == pytest.approx(list(frequency))
        assert [entry.confidence for entry in found.bins] == pytest.approx(list(confidence))
        assert sum(entry.count for entry in found.bins) == found.pairs == scores.size
        by_hand = sum(entry.count * abs(entry.frequency - entry.confidence) for entry in found.bins) / scores.size
        assert found.ece == pytest.approx(by_hand)
    else:
        edges = np.quantile(values, np.linspace(0, 1, 11))
        counts = np.bincount(np.searchsorted(edges[1:-1], values))
        counts = counts[counts > 0]
        assert found.ece_equal_mass == pytest.approx(counts @ np.abs(frequency - confidence) / scores.size)


@given(st.integers(0, 1000), st.sampled_from([3, 8, 12]))
@settings(deadline=None, max_examples=30)
def test_labels_that_are_not_ranked_do_not_count(seed: int, kept: int) -> None:
    """As if each document had been scored of the others alone."""
    scores, true = random_case(seed, rows=10)
    out = np.random.default_rng(seed).random(scores.shape) < 0.4
    out[:, 0] = False
    dense = TopScores.from_dense(scores, 12)
    left = np.take_along_axis(out, dense.indices, axis=1)
    found = calibration(dense.leaving_out(left, (~out).sum(1), kept), csr_array((true & ~out).astype(np.float32)))
    values, hit = [], []
    for row, free, is_true in zip(scores, ~out, true, strict=True):
        best = np.argsort(-row[free], kind="stable")[:kept]
        values.append(row[free][best])
        hit.append(is_true[free][best])
    values, hit = np.concatenate(values), np.concatenate(hit)
    assert found.pairs == len(values)
    assert sum(entry.count for entry in found.bins) == len(values)
    assert found.brier == pytest.approx(((values.astype(np.float64) - hit) ** 2).mean(), abs=1e-12)
    with pytest.raises(DataError, match="no label of any document was ranked"):
        calibration(dense.leaving_out(np.ones_like(left), np.zeros(10), 12), csr_array((10, 12)))


def test_by_hand() -> None:
    scores = TopScores.from_dense(np.array([[0.2, 0.2, 1.0], [0.9, 0.0, 0.2]]), 3)
    found = calibration(scores, csr_array(np.array([[1.0, 0, 1], [0, 0, 0]])), bins=2)
    assert [(entry.low, entry.high, entry.count) for entry in found.bins] == [(0, 0.5, 4), (0.5, 1, 2)]
    assert [entry.confidence for entry in found.bins] == pytest.approx([0.15, 0.95])
    assert [entry.frequency for entry in found.bins] == [0.25, 0.5]
    assert found.ece == pytest.approx((4 * 0.1 + 2 * 0.45) / 6)
    assert found.brier == pytest.approx((0.8**2 + 0.2**2 + 0 + 0.9**2 + 0 + 0.2**2) / 6)
    assert (found.kept, found.of) == (None, "all labels")


def test_only_what_is_kept_is_counted_and_said() -> None:
    scores, true = random_case(0)
    labels = csr_array(true.astype(np.float32))
    found = calibration(TopScores.from_dense(scores, 5), labels)
    assert (found.kept, found.pairs, found.of) == (5, 40 * 5, "the 5 labels kept of each document")
    best = np.argsort(-scores, axis=1)[:, :5]
    values, hit = np.take_along_axis(scores, best, 1), np.take_along_axis(true, best, 1)
    assert found.brier == pytest.approx(((values.astype(np.float64) - hit) ** 2).mean())


def test_scores_that_come_true_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2000, 50), dtype=np.float32)
    right = calibration(TopScores.from_dense(scores, 50), csr_array((rng.random(scores.shape) < scores) * 1.0))
    wrong = calibration(TopScores.from_dense(scores**2, 50), csr_array((rng.random(scores.shape) < scores) * 1.0))
    assert max(right.ece, right.ece_equal_mass) < 0.01
    assert min(wrong.ece, wrong.ece_equal_mass) > 0.1  # mean of x - x^2 is 1/6


@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0, 1, 3]), st.integers(1, 20))
@settings(deadline=None, max_examples=100)
def test_range_and_reading_some_documents_at_a_time(seed: int, rows: int, digits: int, bins: int) -> None:
    scores, true = random_case(seed, rows, 6, digits)
    top, labels = TopScores.from_dense(scores, 6), csr_array(true.astype(np.float32))
    whole = calibration(top, labels, bins)
    assert 0 <= whole.ece <= 1
    assert 0 <= whole.ece_equal_mass <= 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scores_module, "_AT_ONCE", 1)
        parts = calibration(top, labels, bins)
    assert parts.ece == pytest.approx(whole.ece)
    assert parts.ece_equal_mass == pytest.approx(whole.ece_equal_mass)
    assert [entry.count for entry in parts.bins] == [entry.count for entry in whole.bins]


def test_errors() -> None:
    with pytest.raises(DataError, match="no documents"):
        calibration(TopScores.from_dense(np.zeros((0, 2)), 2), csr_array((0, 2)))
    with pytest.raises(ConfigError, match="1 bin or more, got 0"):
        calibration(TopScores.from_dense(np.zeros((1, 2)), 2), csr_array((1, 2)), bins=0)
