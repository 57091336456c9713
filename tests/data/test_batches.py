"""Batches: the documents asked for, in order, whatever the kind of input, and resumable."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.sparse import csr_array

from energynets.data.batches import (
    CachedFeatures,
    SparseBatch,
    TokenBatch,
    batches,
    by_length,
    collate,
    documents_of,
    epoch_order,
    padded_share,
    token_batch,
)
from energynets.data.dataset import Documents, TextDocuments, TokenSequences
from energynets.errors import DataError, ShapeError
from energynets.features import BagOfWords

RNG = np.random.default_rng(0)
FEATURES = ((RNG.random((10, 6)) < 0.4) * RNG.random((10, 6))).astype(np.float32)
LABELS = (RNG.random((10, 4)) < 0.3).astype(np.float32)
TABLE = Documents(csr_array(FEATURES), csr_array(LABELS))
LISTS = [[2] * (i % 4) for i in range(10)]
TOKENS = Documents(TokenSequences.from_lists(LISTS, 3), csr_array(LABELS))


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_tables(batch_size: int) -> None:
    order = epoch_order(10, seed=1, epoch=0)
    found = list(batches(TABLE, batch_size, order=order))
    assert [len(batch) for batch in found[:-1]] == [batch_size] * (len(found) - 1)
    rows = torch.cat([batch.rows for batch in found]).numpy()
    np.testing.assert_array_equal(rows, order)
    for batch in found:
        assert isinstance(batch.inputs, SparseBatch)
        np.testing.assert_array_equal(batch.inputs.dense().numpy(), FEATURES[batch.rows.numpy()])
        np.testing.assert_array_equal(batch.labels.dense().numpy(), LABELS[batch.rows.numpy()])
        assert batch.inputs.columns.dtype == batch.inputs.offsets.dtype == torch.int64


def test_tokens_are_padded_to_the_longest() -> None:
    (batch,) = batches(TOKENS, 10)
    assert isinstance(batch.inputs, TokenBatch)
    assert batch.inputs.tokens.shape == (10, 3)
    assert batch.inputs.lengths.tolist() == [len(row) for row in LISTS]
    assert batch.inputs.tokens.tolist() == [row + [0] * (3 - len(row)) for row in LISTS]


@given(st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=5))
def test_padding_holds_every_document(lists: list[list[int]]) -> None:
    batch = token_batch(TokenSequences.from_lists(lists, 10))
    assert batch.tokens.shape[1] >= 1
    assert [row[:n].tolist() for row, n in zip(batch.tokens, batch.lengths, strict=True)] == lists


def test_resuming_gives_the_batches_that_are_left() -> None:
    order = epoch_order(10, seed=3, epoch=2)
    whole = [batch.rows.tolist() for batch in batches(TABLE, 3, order=order)]
    for start in range(5):
        assert [batch.rows.tolist() for batch in batches(TABLE, 3, order=order, start=start)] == whole[start:]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    np.testing.assert_array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))


def test_cached_features_stand_in_for_inputs() -> None:
    features = torch.arange(20.0).reshape(10, 2)
    batch = collate(TABLE, np.array([7, 1]), features)
    assert isinstance(batch.inputs, CachedFeatures)
    assert batch.inputs.values.tolist() == [[14, 15], [2, 3]]
    assert len(batch) == len(batch.inputs) == 2


def test_batches_move() -> None:
    for source in (TABLE, TOKENS):
        batch = collate(source, np.arange(4)).to("cpu")
        assert len(batch) == len(batch.inputs) == len(batch.labels) == 4
    assert len(collate(TABLE, np.arange(2), torch.zeros(10, 1)).to("cpu")) == 2


def test_dense_in_another_precision() -> None:
    (batch,) = batches(TABLE, 10)
    assert isinstance(batch.inputs, SparseBatch)
    assert batch.inputs.dense(torch.float64).dtype == torch.float64


def test_raw_text_must_be_prepared() -> None:
    text = Documents(TextDocuments(("a",)), csr_array(np.ones((1, 1), np.float32)))
    with pytest.raises(DataError, match="prepare it first"):
        next(batches(text, 1))


# ------------------------------------------------------------------------------------------------ documents by length

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=60).map(np.array)


def grouped(lengths: np.ndarray, batch_size: int, window: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return by_length(epoch_order(len(lengths), seed, epoch), lengths, batch_size, window, seed, epoch)


def cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


@given(SIZES, st.integers(1, 8), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_each_document_once_and_windows_bounded(
    lengths: np.ndarray, batch_size: int, window: int, seed: int, epoch: int
) -> None:
    plain = epoch_order(len(lengths), seed, epoch)
    order = grouped(lengths, batch_size, window, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(lengths)))
    np.testing.assert_array_equal(order, grouped(lengths, batch_size, window, seed, epoch))
    place = np.empty(len(plain), int)
    place[plain] = np.arange(len(plain))
    full = len(plain) // batch_size * batch_size
    for batch in cut(order[:full], batch_size):
        assert len(set(place[batch] // (window * batch_size))) == 1, "documents of one window alone"
        assert window == 1 or sorted(lengths[batch]) == lengths[batch].tolist()
    np.testing.assert_array_equal(order[full:], plain[full:])
    if window == 1:
        np.testing.assert_array_equal(order, plain)
    assert padded_share(order, lengths, batch_size) == pytest.approx(share_by_hand(order, lengths, batch_size))


def share_by_hand(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> float:
    tokens = TokenSequences.from_lists([[2] * n for n in lengths], 3)
    documents = Documents(tokens, csr_array((len(lengths), 2), dtype=np.float32))
    found = [batch.inputs for batch in batches(documents, batch_size, order=order)]
    places = sum(inputs.tokens.numel() for inputs in found)  # type: ignore[union-attr]
    return 1 - sum(int(inputs.lengths.sum()) for inputs in found) / places  # type: ignore[union-attr]


def test_little_is_padding_and_every_epoch_is_another() -> None:
    lengths = np.minimum(500, RNG.lognormal(4.5, 0.8, 5_000).astype(int))
    plain, order = epoch_order(5_000, 0, 0), grouped(lengths, 32, 50)
    assert padded_share(plain, lengths, 32) > 0.5
    assert padded_share(order, lengths, 32) < 0.1
    mean_lengths = [lengths[batch].mean() for batch in cut(order, 32)[:-1]]
    assert abs(np.corrcoef(np.arange(len(mean_lengths)), mean_lengths)[0, 1]) < 0.3, "short ones do not come first"
    neighbours = [{frozenset(batch.tolist()) for batch in cut(grouped(lengths, 32, 50, e), 32)} for e in range(2)]
    assert not neighbours[0] & neighbours[1], "batches are made anew each epoch"


def test_resuming_by_length_gives_the_batches_that_are_left() -> None:
    lengths = TOKENS.inputs.lengths  # type: ignore[union-attr]
    order = grouped(lengths, 3, 2, seed=3, epoch=2)
    whole = [batch.rows.tolist() for batch in batches(TOKENS, 3, order=order)]
    for start in range(5):
        assert [batch.rows.tolist() for batch in batches(TOKENS, 3, order=order, start=start)] == whole[start:]


def test_nothing_is_padded_where_nothing_is() -> None:
    assert padded_share(np.arange(0), np.arange(0), 4) == 0
    assert padded_share(np.arange(3), np.zeros(3, int), 2) == 1


def test_the_documents_of_a_batch_are_those_it_was_made_of() -> None:
    rows = np.array([7, 0, 3])
    table = documents_of(collate(TABLE, rows).inputs, 6)
    assert isinstance(table, csr_array)
    np.testing.assert_array_equal(table.toarray(), FEATURES[rows])
    tokens = documents_of(collate(TOKENS, rows).inputs, 3)
    assert isinstance(tokens, TokenSequences)
    assert [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)] == [
        LISTS[row] for row in rows
    ]
    with pytest.raises(ShapeError, match="expected documents"):
        documents_of(CachedFeatures(torch.zeros(3, 2)), 6)


@pytest.mark.parametrize("offsets", [[0, 1, 2], [0, 1, 5]])
def test_rows_that_do_not_end_with_the_entries(offsets: list[int]) -> None:
    table = SparseBatch(torch.tensor([0, 1, 2]), torch.ones(3), torch.tensor(offsets), 40)
    for read in (table.dense, table.row_indices, lambda: BagOfWords(40, hidden=(2,))(table)):
        with pytest.raises(
            ShapeError, match=f"expected offsets that end at its 3 entries, got an end of {offsets[-1]}"
        ):
            read()
