"""What holds for every metric: range, perfection, order of rows, monotone transforms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.metrics import TopScores, evaluate_scores, inverse_propensity


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, csr_array]:
    num_rows, num_labels = draw(st.integers(1, 10)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scores = rng.integers(0, 20, (num_rows, num_labels)) / 20
    labels = rng.random((num_rows, num_labels)) < rng.random()
    return scores, csr_array(labels.astype(np.float32))


def every_metric(scores: np.ndarray, labels: csr_array, kept: int) -> dict[str, float]:
    q = inverse_propensity(csr_array(np.eye(labels.shape[1])))
    return evaluate_scores(TopScores.from_dense(scores, kept), labels, threshold=0.3, inverse_propensity=q)


@given(cases(), st.integers(1, 8))
@settings(deadline=None, max_examples=100)
def test_range(case: tuple[np.ndarray, csr_array], kept: int) -> None:
    assert all(0.0 <= value <= 1.0 for value in every_metric(*case, kept).values())


@given(cases(), st.integers(1, 8), st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_order_of_rows(case: tuple[np.ndarray, csr_array], kept: int, seed: int) -> None:
    scores, labels = case
    rows = np.random.default_rng(seed).permutation(len(scores))
    assert every_metric(scores[rows], labels[rows], kept) == pytest.approx(
        every_metric(scores, labels, kept), abs=1e-12
    )


@given(cases(), st.integers(1, 8))
@settings(deadline=None, max_examples=50)
def test_monotone_transforms_do_not_change_rankings(case: tuple[np.ndarray, csr_array], kept: int) -> None:
    scores, labels = case
    before, after = every_metric(scores, labels, kept), every_metric(np.exp(3 * scores) - 7, labels, kept)
    ranking = [name for name in before if "@" in name]
    assert ranking
    assert [after[name] for name in ranking] == [before[name] for name in ranking]


@given(cases())
@settings(deadline=None, max_examples=50)
def test_perfect_scores(case: tuple[np.ndarray, csr_array]) -> None:
    labels = case[1]
    labels = labels[np.diff(labels.indptr) > 0]
    if labels.shape[0] == 0:
        return
    q = inverse_propensity(csr_array(np.eye(labels.shape[1])[: max(3, labels.shape[1] // 2)]))
    top = TopScores.from_dense(labels.toarray() * (0.9 + 0.1 * q / q.max()), labels.shape[1])
    metrics = evaluate_scores(top, labels, threshold=0.3, inverse_propensity=q)
    perfect = [n for n in metrics if n.startswith(("ndcg", "psp", "psndcg", "f1_example", "f1_micro", "subset"))]
    assert [metrics[name] for name in perfect] == pytest.approx([1.0] * len(perfect))
    assert metrics["precision@1"] == 1.0
    assert metrics["hamming_loss"] == 0.0
    assert metrics["f1_macro"] == pytest.approx(len(np.unique(labels.indices)) / labels.shape[1])
