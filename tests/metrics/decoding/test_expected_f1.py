"""The largest expected F1 against enumeration of all sets of labels, and of all truths."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.metrics import ExpectedF1, TopScores, f1_example
from energynets.metrics import scores as scores_module
from energynets.metrics.decoding.expected_f1 import expected_f1, largest_size

probabilities = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 1.0, 1e-30]), st.floats(0, 1, width=32, allow_subnormal=False)
)


def expectations(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All 2^L sets as rows, and the expected F1 of predicting each, by enumeration of all truths."""
    sets = np.array(list(itertools.product([0, 1], repeat=len(p))))
    chances = np.where(sets == 1, p, 1 - p).prod(axis=1)
    sizes = sets.sum(axis=1)
    f1 = np.divide(2.0 * sets @ sets.T, np.add.outer(sizes, sizes), out=np.zeros((len(sets),) * 2), where=sizes > 0)
    return sets, f1 @ chances


@given(st.lists(probabilities, min_size=1, max_size=10))
@settings(deadline=None, max_examples=150)
def test_no_set_of_all_is_better(values: list[float]) -> None:
    p = np.array(values, np.float32)
    scores = TopScores.from_dense(p[None], len(p))
    chosen = ExpectedF1().predict(scores).toarray()[0]
    sets, found = expectations(p.astype(np.float64))
    place = int((sets == chosen).all(axis=1).argmax())
    assert found[place] == pytest.approx(found.max(), rel=1e-12, abs=1e-300)
    best = sets[found >= found.max() * (1 - 1e-14)].sum(axis=1)
    assert chosen.sum() <= best.min()  # the smallest of equally good sets
    by_size = expected_f1(scores.values.astype(np.float64))[0]
    order = scores.indices[0]
    for size in range(1, len(p) + 1):
        truth = np.isin(np.arange(len(p)), order[:size])
        assert by_size[size - 1] == pytest.approx(found[(sets == truth).all(axis=1)][0], rel=1e-12, abs=1e-300)


def by_counting(p: np.ndarray) -> np.ndarray:
    """E_h of long rows: the distribution of a sum of independent labels, one left out, in K^3."""
    found = np.zeros(len(p))
    sizes = np.arange(1, len(p) + 1)
    for i in range(len(p)):
        others = np.ones(1)
        for j in range(len(p)):
            if j != i:
                others = np.convolve(others, [1 - p[j], p[j]])
        shares = np.array([others @ (1 / (h + 1 + np.arange(len(others)))) for h in sizes])
        found += 2 * p[i] * shares * (i < sizes)
    return found


@pytest.mark.parametrize("shape", ["few", "half", "many", "certain"])
def test_long_rows(shape: str) -> None:
    rng = np.random.default_rng(0)
    raw = rng.random(120)
    p = {"few": raw**30, "half": raw, "many": raw**0.01, "certain": np.round(raw)}[shape]
    p = -np.sort(-p)
    expected = by_counting(p)
    np.testing.assert_allclose(expected_f1(p[None])[0], expected, rtol=1e-12)
    np.testing.assert_allclose(expected_f1(p[None], 7)[0], expected[:7], rtol=1e-12)
    assert expected.argmax() + 1 <= largest_size(p[None])[0]


def test_few_nodes_are_as_good_as_exactly_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of long rows the polynomial's degree exceeds what the nodes take exactly."""
    rng = np.random.default_rng(0)
    p = -np.sort(-(rng.random((6, 2000)) ** rng.integers(1, 200, (6, 1))), axis=1)
    p[:, 1000:] *= 1e-3
    found = expected_f1(p, 300)
    legendre, used = np.polynomial.legendre.leggauss, []

    def exactly_many(nodes: int) -> tuple[np.ndarray, np.ndarray]:
        used.append(nodes)
        return legendre(1150)

    monkeypatch.setattr(np.polynomial.legendre, "leggauss", exactly_many)
    np.testing.assert_allclose(found, expected_f1(p, 300), rtol=1e-12)
    assert used[0] < 200


@given(st.integers(0, 10_000), st.sampled_from([0.2, 1.0, 5.0, 40.0]))
@settings(deadline=None, max_examples=60)
def test_sizes_left_out_are_not_the_best(seed: int, power: float) -> None:
    p = -np.sort(-(np.random.default_rng(seed).random((5, 40)) ** power), axis=1)
    assert (expected_f1(p).argmax(axis=1) + 1 <= largest_size(p)).all()


def test_by_hand() -> None:
    # one label of p: F1 1 where it is true; two of 1/2: half of (2/3, 2/3, 1, 0) and of (1, 0, 2/3, 0)
    np.testing.assert_allclose(expected_f1(np.array([[0.3]])), [[0.3]])
    np.testing.assert_allclose(expected_f1(np.array([[0.5, 0.5]])), [[(1 + 2 / 3) / 4, (2 / 3 + 2 / 3 + 1) / 4]])


def test_a_label_is_always_predicted_where_there_is_a_chance() -> None:
    scores = TopScores.from_dense(np.array([[0.01, 0.001], [0, 0], [1, 1], [0.9, 0]]), 2)
    assert ExpectedF1().predict(scores).toarray().tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]


def test_labels_drawn_as_the_scores_say_are_decoded_better_than_by_any_threshold() -> None:
    rng = np.random.default_rng(0)
    p = (rng.random((3000, 8)) ** rng.integers(1, 8, (3000, 1))).astype(np.float32)
    scores, labels = TopScores.from_dense(p, 8), csr_array((rng.random(p.shape) < p).astype(np.float32))
    found = f1_example(ExpectedF1().predict(scores), labels)
    best = max(f1_example(csr_array((p > t).astype(np.float32)), labels) for t in np.linspace(0, 1, 51))
    assert found > best + 0.01


def test_distorted_scores_are_set_right_on_validation() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((2000, 8)) ** 3
    labels = csr_array((rng.random(p.shape) < p).astype(np.float32))
    distorted = 1 / (1 + np.exp(-(0.25 * np.log(p / (1 - p)) + 1)))
    scores = TopScores.from_dense(distorted, 8)
    decoder = ExpectedF1.fit(scores, labels)
    assert (decoder.slope, decoder.intercept) == (pytest.approx(4, rel=0.1), pytest.approx(-4, rel=0.15))
    right = f1_example(ExpectedF1().predict(TopScores.from_dense(p, 8)), labels)
    assert f1_example(decoder.predict(scores), labels) == pytest.approx(right, abs=0.005)
    assert f1_example(ExpectedF1().predict(scores), labels) < right - 0.03


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_reading_some_documents_at_a_time_does_not_matter(seed: int) -> None:
    scores = TopScores.from_dense(np.random.default_rng(seed).random((9, 12)) ** 4, 5)
    whole = ExpectedF1().choose(scores)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scores_module, "_AT_ONCE", 1)
        np.testing.assert_array_equal(ExpectedF1().choose(scores), whole)


def test_what_is_not_kept_counts_as_false() -> None:
    dense = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.1, 0.1, 0.1]])
    decoder = ExpectedF1()
    assert decoder.predict(TopScores.from_dense(dense, 4)).toarray()[0].tolist() == [1, 1, 1, 1]
    assert decoder.predict(TopScores.from_dense(dense, 2)).toarray()[0].tolist() == [1, 1, 0, 0]
    assert decoder.missed(TopScores.from_dense(dense, 2)) == 1
    assert decoder.missed(TopScores.from_dense(dense, 4)) == 0
