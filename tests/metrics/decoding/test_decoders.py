"""What holds for every decoder."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from energynets.errors import DataError, ShapeError
from energynets.metrics import DECODERS, GlobalThreshold, TopScores, choose_threshold, evaluate_scores, predict_above


def case(seed: int, kept: int = 6) -> tuple[TopScores, csr_array]:
    rng = np.random.default_rng(seed)
    p = rng.random((30, 6)) ** 2
    return TopScores.from_dense(p, kept), csr_array((rng.random(p.shape) < p).astype(np.float32))


@pytest.mark.parametrize("kind", DECODERS)
@given(st.integers(0, 1000), st.sampled_from([1, 3, 6]))
@settings(deadline=None, max_examples=25)
def test_the_row_and_the_file_give_it_back(kind: str, seed: int, kept: int) -> None:
    decoder = DECODERS[kind].fit(*case(seed, kept))
    row = json.loads(json.dumps(decoder.row()))
    assert {"value", "rule", "decoding"} <= row.keys()
    assert row["decoding"] == kind
    again = DECODERS[kind].restore(row, decoder.arrays())
    assert again.row() == decoder.row()
    scores = case(seed + 1, kept)[0]
    np.testing.assert_array_equal(again.choose(scores), decoder.choose(scores))


@pytest.mark.parametrize("kind", DECODERS)
@given(st.integers(0, 1000), st.sampled_from([1, 3, 6]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_documents_are_decoded_one_by_one(kind: str, seed: int, kept: int, random: object) -> None:
    decoder, (scores, labels) = DECODERS[kind].fit(*case(seed, kept)), case(seed + 1, kept)
    rows = np.arange(len(scores))
    random.shuffle(rows)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decoder.choose(scores[rows]), decoder.choose(scores)[rows])
    predicted = decoder.predict(scores)
    assert predicted.shape == labels.shape
    assert predicted.nnz == decoder.choose(scores).sum()
    assert 0 <= decoder.missed(scores) <= (0 if kept == 6 else len(scores))
    metrics = evaluate_scores(scores, labels, threshold=decoder)
    assert 0 <= metrics["f1_example"] <= 1
    assert metrics["f1_example_at_0.5"] == evaluate_scores(scores, labels, threshold=0.5)["f1_example"]


@pytest.mark.parametrize("kind", DECODERS)
def test_errors(kind: str) -> None:
    with pytest.raises(DataError, match="no documents"):
        DECODERS[kind].fit(TopScores.from_dense(np.zeros((0, 2)), 2), csr_array((0, 2)))
    with pytest.raises(ShapeError, match="labels of shape"):
        DECODERS[kind].fit(TopScores.from_dense(np.zeros((1, 2)), 2), csr_array((1, 3)))


def test_one_threshold_is_what_it_was() -> None:
    scores, labels = case(0)
    value = choose_threshold(scores, labels)
    decoder = GlobalThreshold.fit(scores, labels)
    assert decoder.row() == {"value": value, "rule": "f1_example on validation", "decoding": "global"}
    assert (decoder.predict(scores) != predict_above(scores, value)).nnz == 0
    assert evaluate_scores(scores, labels, threshold=decoder) == evaluate_scores(scores, labels, threshold=value)
