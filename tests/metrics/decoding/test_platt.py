"""Platt scaling against scikit-learn, and where there is little to fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.errors import DataError
from energynets.metrics import TopScores
from energynets.metrics import scores as scores_module
from energynets.metrics.decoding.platt import fit_platt, log_odds


def case(seed: int, rows: int = 200) -> tuple[TopScores, csr_array]:
    rng = np.random.default_rng(seed)
    p = rng.random((rows, 6)) ** 2
    return TopScores.from_dense(p, 4), csr_array((rng.random(p.shape) < p**1.5).astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_scikit_learn(seed: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    scores, labels = case(seed)
    dense = labels.toarray()
    true = np.take_along_axis(dense, scores.indices, axis=1).ravel()
    # the targets between 0 and 1 are weights of both classes
    target = np.where(true > 0, (true.sum() + 1) / (true.sum() + 2), 1 / (len(true) - true.sum() + 2))
    x = np.tile(log_odds(scores.values).ravel(), 2)[:, None]
    y, weights = np.repeat([1, 0], len(true)), np.concatenate([target, 1 - target])
    fitted = linear.LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(x, y, weights)
    expected = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    assert fit_platt(scores, labels) == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_finite_whatever_the_labels_and_a_minimum(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1e-30, 0.2, 0.5, 0.9, 1.0], (rows, 5)).astype(np.float32)
    labels = csr_array((rng.random((rows, 5)) < rng.random()).astype(np.float32))
    scores = TopScores.from_dense(values, 5)
    slope, intercept = fit_platt(scores, labels)
    assert np.isfinite([slope, intercept]).all()
    assert slope > 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scores_module, "_AT_ONCE", 1)
        assert fit_platt(scores, labels) == pytest.approx((slope, intercept), rel=1e-3, abs=1e-3)


def test_nothing_to_fit_leaves_scores_as_they_are() -> None:
    zeros = TopScores.from_dense(np.zeros((3, 4)), 4)
    assert fit_platt(zeros, csr_array((3, 4))) == (1.0, 0.0)
    inverted = TopScores.from_dense(np.array([[0.9, 0.1]] * 20), 2)
    assert fit_platt(inverted, csr_array(np.array([[0.0, 1.0]] * 20))) == (1.0, 0.0)
    with pytest.raises(DataError, match="no documents"):
        fit_platt(TopScores.from_dense(np.zeros((0, 2)), 2), csr_array((0, 2)))


def test_scores_of_zero_are_left_out() -> None:
    scores, labels = case(0)
    padded = TopScores(
        np.hstack([scores.indices, np.full((200, 1), 6)]), np.hstack([scores.values, np.zeros((200, 1))]), 7
    )
    wider = csr_array((labels.data, labels.indices, labels.indptr), shape=(200, 7))
    assert fit_platt(padded, wider) == fit_platt(scores, labels)
