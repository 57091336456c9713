"""What is shown of a document's labels: uniform, reproducible, and the same whoever asks."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.sparse import csr_array

from energynets.data.batches import batches
from energynets.data.dataset import Documents
from energynets.data.reveal import GivenReveal, RandomReveal, Reveal, mask_of, rest_of

N, L = 4000, 120
RNG = np.random.default_rng(0)
LABELS = csr_array((RNG.random((N, L)) < 0.05).astype(np.float32))
DOCUMENTS = Documents(csr_array((N, 3), dtype=np.float32), LABELS)


def test_a_fraction_is_shown_independently_of_label_document_and_truth() -> None:
    mask = mask_of(RandomReveal(0.3, 0.3, key=(5,)), np.arange(N), L)
    true = LABELS.toarray() > 0
    for part in (mask[true], mask[~true]):
        assert part.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / part.size))
    # columns and rows of independent coin flips
    assert mask.mean(0).std() == pytest.approx(np.sqrt(0.21 / N), rel=0.3)
    assert mask.mean(1).std() == pytest.approx(np.sqrt(0.21 / L), rel=0.1)
    correlations = np.corrcoef(mask[:, :20].T)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(N)


def test_each_document_has_its_own_share_between_low_and_high() -> None:
    shares = mask_of(RandomReveal(0.2, 0.8, key=(1,)), np.arange(N), L).mean(1)
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.std() == pytest.approx(np.sqrt(0.36 / 12 + (0.25 - 0.03) / L), rel=0.05)
    assert not mask_of(RandomReveal(0.0, 0.0, key=(1,)), np.arange(50), L).any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.lists(st.integers(0, N - 1), min_size=1, max_size=5))
def test_a_pairs_fate_depends_on_nothing_but_key_document_and_label(seed: int, epoch: int, rows: list[int]) -> None:
    reveal = RandomReveal.training(0.1, 0.9, seed, epoch)
    mask = mask_of(reveal, np.array(rows), L)
    for row, expected in zip(rows, mask, strict=True):
        np.testing.assert_array_equal(reveal.at(np.full(L, row)[::-1], np.arange(L)[::-1]), expected[::-1])


def test_epochs_seeds_splits_and_uses_differ() -> None:
    reveals: list[Reveal] = [
        *(RandomReveal.training(0.5, 0.5, seed, epoch) for seed in (0, 1) for epoch in (0, 1)),
        *(RandomReveal.evaluation(0.5, split, draw) for split in (1, 2) for draw in (0, 1, 2)),
        RandomReveal.missing(0.5, 0),
    ]
    masks = np.array([mask_of(reveal, np.arange(100), L).ravel() for reveal in reveals])
    agreement = (masks[:, None] == masks).mean(-1)[np.triu_indices(len(masks), 1)]
    assert np.abs(agreement - 0.5).max() < 0.03


def test_what_is_shown_at_one_fraction_is_shown_at_larger_ones() -> None:
    some, more = (mask_of(RandomReveal.evaluation(share, 2), np.arange(200), L) for share in (0.25, 0.75))
    assert (more | ~some).all()
    assert more.sum() > 2.5 * some.sum()


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(1, 7))
def test_given_pairs_and_what_is_left_against_dense_arrays(seed: int, rows: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    pairs, true = (rng.random((rows, labels)) < 0.4 for _ in range(2))
    reveal = GivenReveal(csr_array(np.where(pairs, rng.choice([-1.0, 1.0], (rows, labels)), 0)))
    np.testing.assert_array_equal(mask_of(reveal, np.arange(rows), labels), pairs)
    left = rest_of(csr_array(true.astype(np.float32)), reveal)
    np.testing.assert_array_equal(left.toarray() > 0, true & ~pairs)
    assert left.has_canonical_format


def test_batches_carry_their_masks_and_unknown_labels_are_never_shown() -> None:
    unknown = csr_array(((RNG.random((N, L)) < 0.1) & (LABELS.toarray() == 0)).astype(np.float32))
    documents = Documents(DOCUMENTS.inputs, LABELS, unknown=unknown)
    reveal = RandomReveal.training(0.0, 0.9, 3, 4)
    order = RNG.permutation(N)[:50]
    for batch in batches(documents, 16, order=order, reveal=reveal):
        rows = batch.rows.numpy()
        assert batch.revealed is not None
        assert batch.unknown is not None
        assert batch.left_out is not None
        np.testing.assert_array_equal(batch.unknown.numpy(), unknown[rows].toarray() > 0)
        shown = mask_of(reveal, rows, L) & ~batch.unknown.numpy()
        np.testing.assert_array_equal(batch.revealed.numpy(), shown)
        np.testing.assert_array_equal(batch.left_out.numpy(), shown | batch.unknown.numpy())
    (plain,) = batches(DOCUMENTS[np.arange(3)], 3)
    assert plain.left_out is None
