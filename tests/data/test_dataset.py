"""The data types: rows taken and put together, and a fingerprint that tells data sets apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, Inputs, MultiLabelDataset, TextDocuments, TokenSequences, csr, num_rows
from energynets.errors import DataError

LISTS = st.lists(st.lists(st.integers(0, 8), max_size=5), max_size=6)


def table(rows: list[list[float]]) -> csr_array:
    return csr_array(np.array(rows, np.float32))


def documents(inputs: Inputs, labels: list[list[float]], names: tuple[str, ...] | None = None) -> Documents:
    return Documents(inputs, table(labels), names)


LABELS = [[1.0, 0], [0, 1], [0, 0]]
KINDS: dict[str, Inputs] = {
    "table": table([[1, 0, 2], [0, 0, 0], [0, 3, 0]]),
    "tokens": TokenSequences.from_lists([[2, 3], [], [4]], 5),
    "text": TextDocuments(("a b", "", "c")),
}


def rows_of(inputs: Inputs) -> list[object]:
    if isinstance(inputs, csr_array):
        return inputs.toarray().tolist()
    if isinstance(inputs, TextDocuments):
        return list(inputs.texts)
    return [inputs.ids[a:b].tolist() for a, b in zip(inputs.offsets, inputs.offsets[1:], strict=False)]


@given(LISTS, st.data())
def test_rows_of_tokens(lists: list[list[int]], data: st.DataObject) -> None:
    tokens = TokenSequences.from_lists(lists, 9)
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64
    assert rows_of(tokens) == lists
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8)) if lists else []
    assert rows_of(tokens[np.array(chosen, int)]) == [lists[i] for i in chosen]


@given(LISTS)
def test_counts_of_tokens(lists: list[list[int]]) -> None:
    tokens = TokenSequences.from_lists(lists, 9)
    offsets = tokens.offsets.copy()
    expected = [[row.count(word) for word in range(9)] for row in lists]
    counts = tokens.counts()
    np.testing.assert_array_equal(counts.toarray(), np.array(expected, float).reshape(-1, 9))
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(tokens.offsets, offsets)


def test_csr_owns_its_memory_and_indexes_with_32_bits() -> None:
    values, columns, offsets = np.ones(2, np.float32), np.array([0, 1]), np.array([0, 1, 2])
    matrix = csr(values, columns, offsets, (2, 2))
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    matrix.data[:] = 5
    assert values.tolist() == [1, 1]
    assert csr(values, columns, offsets, (2, 2**31)).indices.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_documents(kind: str) -> None:
    whole = documents(KINDS[kind], LABELS)
    part = whole[np.array([2, 0])]
    assert len(part) == 2
    assert rows_of(part.inputs) == [rows_of(whole.inputs)[2], rows_of(whole.inputs)[0]]
    assert part.labels.toarray().tolist() == [LABELS[2], LABELS[0]]
    assert whole.input_size == {"table": 3, "tokens": 5, "text": None}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_concatenation_undoes_splitting(kind: str) -> None:
    whole = replace(documents(KINDS[kind], LABELS, ("x", "y")), notes={"a": 1})
    parts = [whole[np.array([0])], replace(whole, notes={"a": 2, "b": 1}), whole[np.array([], int)]]
    joined = Documents.concatenate(parts)
    assert num_rows(joined.inputs) == 4
    assert rows_of(joined.inputs) == [rows_of(whole.inputs)[0], *rows_of(whole.inputs)]
    assert joined.label_names == ("x", "y")
    assert joined.notes == {"a": 2, "b": 1}


def test_parts_that_do_not_fit() -> None:
    a = documents(KINDS["table"], LABELS)
    with pytest.raises(DataError, match="label count"):
        Documents.concatenate([a, documents(KINDS["table"], [[1.0]] * 3)])
    with pytest.raises(DataError, match="label names"):
        Documents.concatenate([a, documents(KINDS["table"], LABELS, ("x", "y"))])
    with pytest.raises(DataError, match="feature count"):
        Documents.concatenate([a, documents(table([[1, 0]] * 3), LABELS)])
    with pytest.raises(DataError, match="different kinds"):
        Documents.concatenate([a, documents(KINDS["text"], LABELS)])


def test_documents_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="3 documents but 1 rows"):
        documents(KINDS["text"], [[1.0]])
    with pytest.raises(DataError, match="1 label names for 2"):
        documents(KINDS["text"], LABELS, ("x",))


def dataset(whole: Documents, **splits: list[int]) -> MultiLabelDataset:
    rows = {name: np.array(rows) for name, rows in (splits or {"train": [0, 2], "test": [1]}).items()}
    return MultiLabelDataset("toy", whole, rows, "by hand")


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprint(kind: str) -> None:
    whole = documents(KINDS[kind], LABELS)
    first = dataset(whole).fingerprint
    assert first == dataset(whole).fingerprint
    assert (first.documents, first.sizes, first.labels, first.split_rule) == (3, {"train": 2, "test": 1}, 2, "by hand")
    others = [
        dataset(whole, train=[0, 1], test=[2]),
        dataset(whole[np.array([1, 0, 2])]),
        dataset(documents(KINDS[kind], [[1.0, 0], [1, 0], [0, 0]])),
    ]
    hashes = {first.sha256, *(other.fingerprint.sha256 for other in others)}
    assert len(hashes) == 4


def test_fingerprint_is_of_the_data_as_read() -> None:
    raw = dataset(documents(KINDS["text"], LABELS))
    prepared = raw.with_inputs(KINDS["tokens"])
    assert prepared.fingerprint is raw.fingerprint
    assert prepared.documents.input_size == 5
    assert prepared.num_labels == 2
    assert prepared.label_names is None


def test_splits() -> None:
    toy = dataset(documents(KINDS["text"], LABELS))
    assert rows_of(toy.split("train").inputs) == ["a b", "c"]
    with pytest.raises(DataError, match="'toy' has no split 'validation'; it has train, test"):
        toy.split("validation")


SELECTIONS = {
    "mask": np.array([True, False, True]),
    "list of bools": [True, False, True],
    "list": [0, 2],
    "range": range(0, 3, 2),
    "slice": slice(0, 3, 2),
    "unsigned": np.array([0, 2], np.uint8),
}


@pytest.mark.parametrize("how", SELECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_by_mask_list_range_and_slice(kind: str, how: str) -> None:
    whole, rows = documents(KINDS[kind], LABELS), SELECTIONS[how]
    for found in (whole[rows], MultiLabelDataset("toy", whole, {"train": rows}, "by hand").split("train")):
        assert rows_of(found.inputs) == [rows_of(whole.inputs)[0], rows_of(whole.inputs)[2]]
        assert found.labels.toarray().tolist() == [LABELS[0], LABELS[2]]
    if kind != "table":
        assert rows_of(whole.inputs[rows]) == rows_of(whole[rows].inputs)
    assert len(whole[[]]) == 0


def test_a_split_by_mask_has_the_fingerprint_of_its_rows() -> None:
    whole, train = documents(KINDS["text"], LABELS), np.array([True, False, True])
    by_mask = MultiLabelDataset("toy", whole, {"train": train, "test": ~train}, "by hand")
    assert by_mask.fingerprint == dataset(whole).fingerprint


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([True, False]), "expected a mask of 3 documents, got one of 2"),
        ([0, -1], "expected numbers from 0 to 2, got -1"),
        ([0, 3], "expected numbers from 0 to 2, got 3"),
        ([0.0, 1.0], r"expected row numbers, a bool mask or a slice, got float64 of shape \(2,\)"),
        (np.array(1), "got int64 of shape"),
        (["a"], "expected row numbers"),
        ([[0], [1, 2]], "got a list"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_none(kind: str, rows: object, message: str) -> None:
    whole = documents(KINDS[kind], LABELS)
    with pytest.raises(DataError, match=message):
        whole[rows]
    with pytest.raises(DataError, match=f"split 'test': rows: .*{message}"):
        MultiLabelDataset("toy", whole, {"test": rows}, "by hand")


def test_splits_that_share_documents_or_have_other_names() -> None:
    whole = documents(KINDS["text"], LABELS)
    with pytest.raises(DataError, match="split 'test': expected documents of no other split, got 1 that are in one"):
        dataset(whole, train=[0, 2], test=[1, 2])
    with pytest.raises(DataError, match="expected names of train, validation, test, got 'dev'"):
        dataset(whole, train=[0], dev=[1])


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_every_sparse_matrix_of_scipy_will_do(form: str, kind: str) -> None:
    make = getattr(scipy.sparse, f"{form}_{kind}")
    rows = np.array([[1.0, 0, 2], [0, 0, 0], [0, 3, 0]], np.float32)
    found = Documents(
        make(rows), make(np.array(LABELS, np.float32)), unknown=make(np.array([[0, 1.0], [0, 0], [1, 1]]))
    )
    whole = documents(KINDS["table"], LABELS)
    for made, expected in ((found.inputs, whole.inputs), (found.labels, whole.labels)):
        assert type(made) is csr_array
        assert rows_of(made) == rows_of(expected)
    assert type(found.unknown) is csr_array
    assert dataset(Documents(make(rows), found.labels)).fingerprint == dataset(whole).fingerprint
    assert found[np.array([2])].labels.toarray().tolist() == [LABELS[2]]


@pytest.mark.parametrize("texts", [["a b", "", "c"], ("a b", "", "c"), np.array(["a b", "", "c"])])
def test_strings_are_raw_text(texts: Any) -> None:
    assert Documents(texts, table(LABELS)).inputs == KINDS["text"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 2)), r"expected a sparse matrix of two dimensions, got ndarray of shape \(3, 2\)"),
        (torch.zeros(3, 2), r"got Tensor of shape \(3, 2\)"),
        ("abc", "got str"),
        ([[1, 2], [3], []], r"a list of list: csr_array\(x\) is a table, TokenSequences.from_lists"),
        (["a", None, "c"], "a list of NoneType"),
    ],
)
def test_inputs_that_are_neither(inputs: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"inputs.*{message}"):
        Documents(inputs, table(LABELS))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array(LABELS), r"labels: expected a sparse matrix of two dimensions, got ndarray of shape \(3, 2\)"),
        ([["x"], ["y"], []], "labels: expected a sparse matrix of two dimensions, got list"),
        (table([[5, 0], [0, 1], [0, 0]]), "expected 1 where a label is true and no entry elsewhere, got 5.0"),
        (table([[np.nan, 0], [0, 1], [0, 0]]), "got nan"),
        (csr_array((np.zeros(1), [0], [0, 1, 1, 1]), shape=(3, 2)), "got 0.0"),
    ],
)
def test_labels_that_are_none(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Documents(KINDS["text"], labels)
