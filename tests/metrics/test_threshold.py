"""The chosen threshold against brute force over every distinct score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.errors import ConfigError, DataError
from energynets.metrics import TopScores, choose_threshold, f1_example, predict_above, truncated
from energynets.metrics import scores as scores_module


def brute_force(scores: TopScores, labels: csr_array) -> float:
    distinct = np.unique(scores.values.astype(np.float64))
    thresholds = [distinct[0] - 1.0, *distinct]  # score > t: everything kept, ..., nothing
    return max(f1_example(predict_above(scores, t), labels) for t in thresholds)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TopScores, csr_array]:
    num_rows, num_labels = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    value = st.one_of(
        st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        st.floats(0, 1, width=32),
        st.sampled_from([float(np.nextafter(np.float32(0.5), np.float32(x))) for x in (0, 1)]),
        st.floats(-3, 3, width=32),
    )
    size = num_rows * num_labels
    values = np.array(draw(st.lists(value, min_size=size, max_size=size)), dtype=np.float32)
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=np.float32)
    top = TopScores.from_dense(values.reshape(num_rows, num_labels), draw(st.integers(1, 6)))
    return top, csr_array(labels.reshape(num_rows, num_labels))


@given(cases())
@settings(deadline=None, max_examples=400)
def test_exact_maximum(case: tuple[TopScores, csr_array]) -> None:
    scores, labels = case
    threshold = choose_threshold(scores, labels)
    assert type(threshold) is float
    assert f1_example(predict_above(scores, threshold), labels) == pytest.approx(brute_force(scores, labels), abs=1e-12)
    in_float32 = scores.values > np.float32(threshold)
    in_float64 = scores.values.astype(np.float64) > np.float64(threshold)
    np.testing.assert_array_equal(in_float32, in_float64)


@given(cases())
@settings(deadline=None, max_examples=100)
def test_how_many_documents_are_read_at_a_time_does_not_matter(case: tuple[TopScores, csr_array]) -> None:
    scores, labels = case
    expected = choose_threshold(scores, labels)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scores_module, "_AT_ONCE", 1)
        assert choose_threshold(scores, labels) == expected


@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_the_order_of_rows_does_not_matter(case: tuple[TopScores, csr_array], random: object) -> None:
    scores, labels = case
    rows = np.arange(len(scores))
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert choose_threshold(scores[rows], labels[rows]) == choose_threshold(scores, labels)


def test_stays_clear_of_scores_where_there_is_room() -> None:
    scores = TopScores.from_dense(np.array([[0.9, 0.5, 0.1]]), 3)
    assert choose_threshold(scores, csr_array(np.array([[1.0, 1, 0]]))) == pytest.approx(0.3)
    assert choose_threshold(scores, csr_array(np.array([[1.0, 1, 1]]))) == pytest.approx(0.05)  # everything
    assert choose_threshold(scores, csr_array(np.array([[0.0, 0, 0]]))) == pytest.approx(0.95)  # nothing


def test_neighbouring_float32_scores_are_told_apart() -> None:
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    scores = TopScores.from_dense(np.array([[low, high]]), 2)
    threshold = choose_threshold(scores, csr_array(np.array([[0.0, 1]])))
    assert predict_above(scores, threshold).toarray().tolist() == [[0, 1]]
    assert (scores.values > threshold).tolist() == [[True, False]]


def test_saturated_scores() -> None:
    ones = TopScores.from_dense(np.ones((3, 2)), 2)
    assert predict_above(ones, choose_threshold(ones, csr_array((3, 2)))).nnz == 0
    zeros = TopScores.from_dense(np.zeros((3, 2)), 2)
    assert predict_above(zeros, choose_threshold(zeros, csr_array(np.ones((3, 2))))).nnz == 6


def test_equal_scores_cross_together() -> None:
    scores = TopScores.from_dense(np.array([[0.5, 0.5, 0.2], [0.5, 0.4, 0.5]]), 3)
    labels = csr_array(np.array([[1.0, 0, 0], [0, 0, 1]]))
    threshold = choose_threshold(scores, labels)
    assert 0.4 < threshold < 0.5
    assert f1_example(predict_above(scores, threshold), labels) == pytest.approx(2 / 3)


def test_the_largest_of_equally_good_thresholds() -> None:
    scores = TopScores.from_dense(np.array([[0.9, 0.7], [0.5, 0.1]]), 2)
    labels = csr_array(np.array([[1.0, 0], [0, 0]]))
    assert choose_threshold(scores, labels) == pytest.approx(0.8)


def test_truncated_counts_documents_whose_last_kept_score_is_above_the_threshold() -> None:
    dense = np.array([[0.9, 0.8, 0.7], [0.9, 0.3, 0.2], [0.1, 0.2, 0.3]])
    assert truncated(TopScores.from_dense(dense, 2), 0.5) == 1
    assert truncated(TopScores.from_dense(dense, 3), 0.5) == 0


def test_errors() -> None:
    scores = TopScores.from_dense(np.zeros((0, 2)), 2)
    with pytest.raises(DataError, match="no documents"):
        choose_threshold(scores, csr_array((0, 2)))
    with pytest.raises(ConfigError, match="did you mean 'f1_example'"):
        choose_threshold(scores, csr_array((0, 2)), rule="f1_exampel")


def test_a_label_that_was_not_ranked_is_no_score_to_stay_above() -> None:
    indices, labels = np.array([[0, 1], [0, 1]]), csr_array(np.array([[1, 1], [1, 0]], np.float32))
    known = np.array([[False, False], [False, True]])
    scores = TopScores(indices, np.array([[0.7, 0.5], [0.7, 0.6]], np.float32), 2)
    assert choose_threshold(scores.leaving_out(known, np.array([2, 1]), 2), labels) == 0.25
