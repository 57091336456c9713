"""Thresholds of each label against brute force, and what becomes of rare labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, vstack

from energynets.metrics import NOT_RANKED, GlobalThreshold, PerLabel, TopScores, f1_example, f1_macro
from energynets.metrics.decoding import per_label
from energynets.metrics.decoding.per_label import best_thresholds, label_counts, shrunk


def label_f1(chosen: np.ndarray, true: np.ndarray) -> float:
    size = chosen.sum() + true.sum()
    return 2 * (chosen & true).sum() / size if size else 0.0


@given(st.integers(0, 100_000), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 9]))
@settings(deadline=None, max_examples=300)
def test_each_label_has_its_best_threshold(seed: int, rows: int, labels: int, kept: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    dense = np.round(rng.random((rows, labels)), digits).astype(np.float32)
    true = rng.random((rows, labels)) < rng.random()
    scores = TopScores.from_dense(dense, kept)
    there = np.zeros((rows, labels), bool)
    np.put_along_axis(there, scores.indices, True, axis=1)
    found = best_thresholds(scores, csr_array(true.astype(np.float32)))
    for label in range(labels):
        options = np.append(dense[there[:, label], label], 2.0)
        values = {t: label_f1((dense[:, label] > t) & there[:, label], true[:, label]) for t in [-1.0, *options]}
        if max(values.values()) == 0:
            assert np.isnan(found[label])
            continue
        chosen = (dense[:, label] > found[label]) & there[:, label]
        assert label_f1(chosen, true[:, label]) == pytest.approx(max(values.values()))
        best = [
            ((dense[:, label] > t) & there[:, label]).sum() for t, f1 in values.items() if f1 == max(values.values())
        ]
        assert chosen.sum() == min(best)


def test_between_a_labels_own_threshold_and_the_global_one() -> None:
    own = np.array([0.9, 0.9, np.nan, 0.9], np.float32)
    counts = np.array([30, 0, 5, 10])
    np.testing.assert_allclose(shrunk(own, 0.1, counts, 10.0), [0.75, 0.1, 0.1, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(shrunk(own, 0.1, counts, 0.0), np.float32([0.9, 0.1, 0.1, 0.9]))
    np.testing.assert_array_equal(shrunk(own, 0.1, counts, None), np.float32([0.1] * 4))


def skewed(seed: int, rows: int) -> tuple[TopScores, csr_array]:
    """Each label's scores are distorted in its own way; every other label is rare."""
    rng = np.random.default_rng(seed)
    shift = np.tile([0.0, -4.0], 6)
    logits = rng.normal(size=(rows, 12)) * 2 + shift
    labels = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    distorted = 1 / (1 + np.exp(-(logits + np.linspace(-4, 4, 12))))
    return TopScores.from_dense(distorted, 12), csr_array(labels.astype(np.float32))


def test_labels_whose_scores_disagree_get_thresholds_of_their_own() -> None:
    test, labels = skewed(1, 2000)
    one, own = GlobalThreshold.fit(*skewed(0, 500)), PerLabel.fit(*skewed(0, 500))
    assert own.value == one.value
    assert own.shrinkage is not None
    assert f1_example(own.predict(test), labels) > f1_example(one.predict(test), labels) + 0.1
    assert f1_macro(own.predict(test), labels) > f1_macro(one.predict(test), labels) + 0.1


def test_labels_whose_scores_agree_keep_the_global_one() -> None:
    """Thresholds of rare labels by themselves would be worse."""
    rng = np.random.default_rng(0)
    p = rng.random((400, 60)) ** 12
    labels = csr_array((rng.random(p.shape) < p).astype(np.float32))
    half, rest = slice(0, 100), slice(100, None)
    scores = TopScores.from_dense(p, 60)
    decoder = PerLabel.fit(scores[half], labels[half])
    own = best_thresholds(scores[half], labels[half])
    free = PerLabel(0.0, 0.0, shrunk(own, decoder.value, label_counts(labels[half]), 0.0))
    found, alone = (f1_example(d.predict(scores[rest]), labels[rest]) for d in (decoder, free))
    one = f1_example(GlobalThreshold(decoder.value).predict(scores[rest]), labels[rest])
    assert found > one - 0.01
    assert alone < one - 0.02


def test_a_document_alone_has_nothing_to_be_left_out() -> None:
    decoder = PerLabel.fit(TopScores.from_dense(np.array([[0.9, 0.1]]), 2), csr_array(np.array([[1.0, 0.0]])))
    assert decoder.shrinkage is None
    assert decoder.rule == "each label's F1 on validation, all equal"
    np.testing.assert_array_equal(decoder.thresholds_L, np.float32([decoder.value] * 2))


def test_more_shrinkage_of_equally_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_label, "SHRINKAGE", (100.0, 1.0, 0.0))
    scores = TopScores.from_dense(np.tile([[0.9, 0.1]], (20, 1)), 2)
    assert PerLabel.fit(scores, csr_array(np.tile([[1.0, 0.0]], (20, 1)))).shrinkage == 100


def test_a_label_that_was_not_ranked_is_no_score_to_stay_above() -> None:
    scores = TopScores(np.array([[0], [0]]), np.array([[0.6], [NOT_RANKED]]), 1, ranked=np.array([1, 0]))
    assert best_thresholds(scores, csr_array([[1.0], [0.0]]))[0] == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_documents_that_are_drawn_several_times_are_not_several_documents(seed: int) -> None:
    scores, labels = skewed(seed, 60)
    once = PerLabel.fit(scores, labels)
    often = PerLabel.fit(TopScores.concatenate([scores] * 4), csr_array(vstack([labels] * 4)), draws=4)
    assert (often.value, often.shrinkage) == (once.value, once.shrinkage)
    assert np.array_equal(often.thresholds_L, once.thresholds_L)
