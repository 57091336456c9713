"""TopScores against a full sort, on data full of ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.errors import DataError, ShapeError
from energynets.metrics import TopScores


def oracle(scores: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda label: (-row[label], label))[:k] for row in scores]


dense_scores = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 5), st.integers(0, 10_000)).map(
    lambda a: (np.random.default_rng(a[3]).integers(0, a[2], (a[0], a[1])) / 4).astype(np.float32)
)


@given(dense_scores, st.integers(1, 9))
@settings(deadline=None, max_examples=200)
def test_dense_and_sparse_keep_the_best_with_ties_to_the_smaller_label(scores: np.ndarray, k: int) -> None:
    expected = oracle(scores, k)
    for top in (TopScores.from_dense(scores, k), TopScores.from_sparse(csr_array(scores), k)):
        assert top.indices.tolist() == expected
        np.testing.assert_array_equal(top.values, np.take_along_axis(scores, top.indices.astype(int), axis=1))
        assert top.k == min(k, scores.shape[1])
        assert top.complete == (k >= scores.shape[1])
        assert (top.indices.dtype, top.values.dtype) == (np.int32, np.float32)


def test_sparse_scores_with_explicit_zeros() -> None:
    scores = csr_array((np.array([0.0, 0.5, 0.0]), np.array([2, 3, 0]), np.array([0, 2, 3, 3])), shape=(3, 4))
    assert TopScores.from_sparse(scores, 3).indices.tolist() == [[3, 0, 1], [0, 1, 2], [0, 1, 2]]
    with pytest.raises(DataError, match=">= 0"):
        TopScores.from_sparse(csr_array(np.array([[-1.0, 2.0]])), 1)


def test_concatenate_rows_and_no_rows() -> None:
    scores = np.random.default_rng(0).random((6, 9))
    whole = TopScores.from_dense(scores, 4)
    parts = TopScores.concatenate([TopScores.from_dense(scores[:2], 4), TopScores.from_dense(scores[2:], 4)])
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_array_equal(whole[np.array([3, 1])].values, whole.values[[3, 1]])
    empty = TopScores.from_dense(scores[:0], 4)
    assert (len(empty), empty.k, empty.num_labels) == (0, 4, 9)
    assert len(TopScores.concatenate([empty, whole])) == 6
    with pytest.raises(DataError, match="no scores"):
        TopScores.concatenate([])
    with pytest.raises(ShapeError, match="differ"):
        TopScores.concatenate([whole, TopScores.from_dense(scores, 3)])


def test_sigmoid_keeps_the_ranking_where_float32_saturates() -> None:
    top = TopScores.from_dense(np.array([[40.0, 90.0, 60.0, -1000.0]]), 4)
    probabilities = top.sigmoid()
    assert probabilities.indices.tolist() == [[1, 2, 0, 3]]
    assert probabilities.values.tolist() == [[1.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("indices", "values", "num_labels", "error", "says"),
    [
        ([[0, 1]], [[0.5]], 3, ShapeError, "one shape"),
        ([[0, 1]], [[0.5, 0.4]], 1, ShapeError, "k <= L"),
        ([[0, 3]], [[0.5, 0.4]], 3, ShapeError, "label ids"),
        ([[0, -1]], [[0.5, 0.4]], 3, ShapeError, "label ids"),
        ([[0, 1]], [[0.4, 0.5]], 3, DataError, "best first"),
        ([[0, 1]], [[0.5, float("nan")]], 3, DataError, "finite, row 0"),
    ],
)
def test_bad_scores_are_refused(indices: list, values: list, num_labels: int, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        TopScores(np.array(indices), np.array(values), num_labels)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_not_finite_dense_scores_are_refused(k: int) -> None:
    with pytest.raises(DataError, match="finite"):
        TopScores.from_dense(np.array([[0.1, np.nan, 0.3]]), k)
