"""Agreement with scikit-learn and napkinXC to rounding, and with sums written out by hand."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from energynets.errors import DataError, ShapeError
from energynets.metrics import (
    TopScores,
    evaluate_scores,
    f1_example,
    f1_macro,
    f1_micro,
    hamming_loss,
    inverse_propensity,
    ndcg_at_k,
    precision_at_k,
    predict_above,
    psndcg_at_k,
    psp_at_k,
    subset_accuracy,
)

TOLERANCE = 1e-9


def random_case(seed: int, num_rows: int, num_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training labels, test labels and scores: rows without labels, labels never seen in training or in test, ties."""
    rng = np.random.default_rng(seed)
    train = rng.random((40, num_labels)) < rng.random(num_labels) * 0.4
    test = rng.random((num_rows, num_labels)) < rng.random(num_labels) * 0.5
    if num_labels > 2:
        train[:, 1] = False
        test[:, 0] = False
        test[:, -1] = False
    test[:: max(2, num_rows // 3)] = False
    scores = np.round(rng.random((num_rows, num_labels)) * 0.6 + 0.3 * test, 2)
    return train, test, scores


CASES = [(seed, n, labels) for seed in range(6) for n, labels in [(1, 1), (7, 1), (9, 2), (30, 6), (25, 40)]]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize(("seed", "num_rows", "num_labels"), CASES)
def test_set_metrics_agree_with_scikit_learn(seed: int, num_rows: int, num_labels: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    _, test, scores = random_case(seed, num_rows, num_labels)
    predicted = scores > 0.5
    # scikit-learn reads a single column as one binary problem: a second label that nobody has keeps it multi-label
    pad = (lambda a: np.hstack([a, np.zeros((num_rows, 1), bool)])) if num_labels == 1 else (lambda a: a)
    p, t = pad(predicted).astype(int), pad(test).astype(int)
    ours = csr_array(predicted.astype(np.float32)), csr_array(test.astype(np.float32))
    np.testing.assert_array_equal(
        predict_above(TopScores.from_dense(scores, num_labels), np.float32(0.5)).toarray() > 0, scores > 0.5
    )
    assert f1_example(*ours) == pytest.approx(metrics.f1_score(t, p, average="samples", zero_division=0), abs=TOLERANCE)
    assert f1_micro(*ours) == pytest.approx(metrics.f1_score(t, p, average="micro", zero_division=0), abs=TOLERANCE)
    widened = p.shape[1] / num_labels
    macro = metrics.f1_score(t, p, average="macro", zero_division=0) * widened
    assert f1_macro(*ours) == pytest.approx(macro, abs=TOLERANCE)
    assert hamming_loss(*ours) == pytest.approx(metrics.hamming_loss(t, p) * widened, abs=TOLERANCE)
    assert subset_accuracy(*ours) == pytest.approx(metrics.accuracy_score(t, p), abs=TOLERANCE)


@pytest.mark.parametrize("kept", [2, 100])
@pytest.mark.parametrize(("seed", "num_rows", "num_labels"), CASES)
def test_ranking_metrics_agree_with_napkinxc(seed: int, num_rows: int, num_labels: int, kept: int) -> None:
    """Also for k beyond the scores that exist or were kept (counted as misses), and rows without labels (0)."""
    napkin = pytest.importorskip("napkinxc.metrics")
    train, test, scores = random_case(seed, num_rows, num_labels)
    top = TopScores.from_dense(scores, kept)
    labels = csr_array(test.astype(np.float32))
    q = inverse_propensity(csr_array(train.astype(np.float32)))
    np.testing.assert_allclose(q, napkin.Jain_et_al_inverse_propensity(train.astype(int)), rtol=0, atol=TOLERANCE)
    truth = [np.flatnonzero(row).tolist() for row in test]
    ranking = [row.tolist() for row in top.indices]
    ks = range(1, 8)
    for ours, theirs in ((precision_at_k, napkin.precision_at_k), (ndcg_at_k, napkin.ndcg_at_k)):
        expected = theirs(truth, ranking, k=7)
        np.testing.assert_allclose([ours(top, labels, k) for k in ks], expected, rtol=0, atol=TOLERANCE)
    for ours, theirs in ((psp_at_k, napkin.psprecision_at_k), (psndcg_at_k, napkin.psndcg_at_k)):
        if not test.any():  # napkinXC divides 0 by 0; no document has anything to find: 0
            assert ours(top, labels, 3, q) == 0.0
            continue
        expected = theirs(truth, ranking, q, k=7)
        np.testing.assert_allclose([ours(top, labels, k, q) for k in ks], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(4))
def test_set_metrics_agree_with_napkinxc_where_conventions_meet(seed: int) -> None:
    """napkinXC's Hamming loss is not divided by L; its macro-F1 knows labels only up to the last one that occurs."""
    napkin = pytest.importorskip("napkinxc.metrics")
    _, test, scores = random_case(seed, 30, 12)
    test[3, -1] = True
    predicted = scores > 0.5
    p, t = csr_array(predicted.astype(np.float32)), csr_array(test.astype(np.float32))
    p_lists, t_lists = ([np.flatnonzero(row).tolist() for row in matrix] for matrix in (predicted, test))
    assert f1_micro(p, t) == pytest.approx(napkin.micro_f1_measure(t_lists, p_lists), abs=TOLERANCE)
    assert f1_example(p, t) == pytest.approx(napkin.samples_f1_measure(t_lists, p_lists), abs=TOLERANCE)
    assert f1_macro(p, t) == pytest.approx(napkin.macro_f1_measure(t_lists, p_lists), abs=TOLERANCE)
    assert hamming_loss(p, t) * 12 == pytest.approx(napkin.hamming_loss(t_lists, p_lists), abs=TOLERANCE)


def test_by_hand() -> None:
    """Three documents, four labels; the second has no labels; label 3 never occurs in training (N = 8)."""
    scores = np.array([[0.9, 0.8, 0.1, 0.7], [0.2, 0.6, 0.1, 0.3], [0.1, 0.2, 0.3, 0.4]])
    labels = csr_array(np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=np.float32))
    top = TopScores.from_dense(scores, 4)
    assert precision_at_k(top, labels, 1) == pytest.approx((0 + 0 + 1) / 3)
    assert precision_at_k(top, labels, 3) == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    two = 1 + 1 / math.log2(3)
    assert ndcg_at_k(top, labels, 3) == pytest.approx(((1 / math.log2(3) + 1 / 2) / two + 0 + 1 / two) / 3)

    train = np.zeros((8, 4))
    train[:6, 0] = train[:2, 1] = train[:1, 2] = 1
    q = inverse_propensity(csr_array(train))
    scale = (math.log(8) - 1) * 2.5**0.55
    assert q == pytest.approx([1 + scale * (n + 1.5) ** -0.55 for n in (6, 2, 1, 0)])
    assert psp_at_k(top, labels, 1, q) == pytest.approx((0 + q[3]) / (q[3] + q[3]))
    assert psp_at_k(top, labels, 3, q) == pytest.approx((q[1] + q[3] + q[3]) / (q[1] + q[3] + q[0] + q[3]))
    second = 1 / math.log2(3)
    gained = (q[1] * second + q[3] / 2) / two + q[3] / two
    possible = (q[3] + q[1] * second) / two + (q[3] + q[0] * second) / two
    assert psndcg_at_k(top, labels, 3, q) == pytest.approx(gained / possible)

    predicted = predict_above(top, 0.35)  # {0, 1, 3}, {1}, {3}
    assert predicted.toarray().tolist() == [[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert f1_example(predicted, labels) == pytest.approx((4 / 5 + 0 + 2 / 3) / 3)
    assert f1_micro(predicted, labels) == pytest.approx(2 * 3 / (5 + 4))
    assert f1_macro(predicted, labels) == pytest.approx((0 + 2 / 3 + 0 + 1) / 4)
    assert hamming_loss(predicted, labels) == pytest.approx(3 / 12)
    assert subset_accuracy(predicted, labels) == 0
    assert subset_accuracy(predict_above(top, 2.0), labels) == pytest.approx(1 / 3)


def test_evaluate_names_every_metric_and_leaves_out_what_it_was_not_given() -> None:
    _, test, scores = random_case(0, 30, 6)
    labels = csr_array(test.astype(np.float32))
    top = TopScores.from_dense(scores, 6)
    sets = ["f1_example", "f1_micro", "f1_macro", "hamming_loss", "subset_accuracy"]
    at_half = [f"{name}_at_0.5" for name in sets]
    plain = evaluate_scores(top, labels, ks=(1, 3))
    assert list(plain) == ["precision@1", "ndcg@1", "precision@3", "ndcg@3", *at_half]
    full = evaluate_scores(top, labels, threshold=0.25, inverse_propensity=inverse_propensity(labels), ks=(2,))
    assert list(full) == ["precision@2", "ndcg@2", "psp@2", "psndcg@2", *sets, *at_half]
    assert all(type(value) is float for value in full.values())
    assert full["f1_example"] == f1_example(predict_above(top, 0.25), labels)
    assert full["f1_micro_at_0.5"] == plain["f1_micro_at_0.5"]


def test_labels_need_not_be_canonical() -> None:
    """Unsorted, repeated and explicitly zero entries are label sets all the same, and are not changed in place."""
    indices, values = np.array([2, 0, 2, 1, 1]), np.array([1, 1, 1, 0, 1], dtype=np.float32)
    messy = csr_array((values, indices, np.array([0, 4, 5])), shape=(2, 3))
    tidy = csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
    top = TopScores.from_dense(np.array([[0.9, 0.8, 0.7], [0.1, 0.6, 0.2]]), 3)
    q = inverse_propensity(tidy)
    np.testing.assert_array_equal(inverse_propensity(messy), q)
    expected = evaluate_scores(top, tidy, threshold=0.3, inverse_propensity=q)
    assert evaluate_scores(top, messy, threshold=0.3, inverse_propensity=q) == expected
    assert messy.indices.tolist() == [2, 0, 2, 1, 1]


def test_nothing_to_evaluate_and_shapes_that_disagree() -> None:
    top = TopScores.from_dense(np.zeros((0, 3)), 3)
    with pytest.raises(DataError, match="no documents"):
        evaluate_scores(top, csr_array((0, 3), dtype=np.float32))
    with pytest.raises(DataError, match="no documents"):
        f1_example(csr_array((0, 3)), csr_array((0, 3)))
    some = TopScores.from_dense(np.zeros((2, 3)), 3)
    with pytest.raises(ShapeError, match="labels of shape"):
        precision_at_k(some, csr_array((2, 4)), 1)
    with pytest.raises(ShapeError, match="labels of shape"):
        f1_macro(csr_array((2, 3)), csr_array((3, 3)))
    with pytest.raises(ShapeError, match="k >= 1"):
        ndcg_at_k(some, csr_array((2, 3)), 0)
    with pytest.raises(ShapeError, match="one inverse propensity a label"):
        psp_at_k(some, csr_array((2, 3)), 1, np.ones(4))


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_propensities_of_almost_no_training_documents_are_one(num_rows: int) -> None:
    assert inverse_propensity(csr_array(np.ones((num_rows, 3)))).tolist() == [1.0, 1.0, 1.0]


def test_no_labels_anywhere() -> None:
    labels = csr_array((4, 3), dtype=np.float32)
    top = TopScores.from_dense(np.zeros((4, 3)), 3)
    metrics = evaluate_scores(top, labels, threshold=0.5, inverse_propensity=inverse_propensity(labels))
    assert metrics.pop("subset_accuracy") == metrics.pop("subset_accuracy_at_0.5") == 1.0
    assert set(metrics.values()) == {0.0}
