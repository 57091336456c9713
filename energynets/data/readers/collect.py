"""Parsed rows -> a store's arrays -> documents, none of them ever held twice.

columns, values, column_counts    the table: (nnz,), (nnz,) and (N,)
labels, label_counts              (positives,) and (N,)
text, text_sizes                  UTF-8 bytes end to end, and (N,) bytes of each text
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import csr_of
from energynets.data.readers.rows import Limits, Rows
from energynets.data.store import MappedStore, Store
from energynets.data.texts import Texts


def add_table(store: Store, rows: Rows, num_columns: int | None) -> None:
    """Add rows of features, zeros left out.

    Args:
        store: gets columns, values and column_counts.
        rows: the next rows.
        num_columns: D, or None where the file does not say.
    """
    columns, values, counts = rows.columns, rows.values, np.diff(rows.column_offsets)
    if np.count_nonzero(values) < len(values):
        kept = values != 0
        counts = np.diff(np.concatenate([[0], np.cumsum(kept)])[rows.column_offsets])
        columns, values = columns[kept], values[kept]
    store.append("columns", columns.astype(_index(num_columns)))
    store.append("values", values)
    store.append("column_counts", counts.astype(np.int32))


def add_labels(store: Store, labels: np.ndarray, counts: np.ndarray, num_labels: int | None) -> None:
    """Add the labels of the next documents, each document's sorted."""
    store.append("labels", labels.astype(_index(num_labels)))
    store.append("label_counts", counts.astype(np.int32))


def add_rows(store: Store, rows: Rows, limits: Limits) -> None:
    """Add rows of features and labels."""
    add_table(store, rows, limits.columns)
    add_labels(store, rows.labels, np.diff(rows.label_offsets), limits.labels)


def table(store: Store | MappedStore, num_columns: int | None) -> csr_array:
    """(N, D) over the store's own arrays; D is the largest index + 1 where not given."""
    columns, values = store.array("columns", np.int32), store.array("values", np.float32)
    size = num_columns if num_columns is not None else int(columns.max(initial=-1)) + 1
    offsets = offsets_of(store.array("column_counts", np.int32))
    return csr_of(values, columns, offsets, (len(offsets) - 1, size))


def label_matrix(store: Store | MappedStore, num_labels: int | None) -> csr_array:
    """(N, L) of ones; L likewise."""
    labels = store.array("labels", np.int32)
    size = num_labels if num_labels is not None else int(labels.max(initial=-1)) + 1
    offsets = offsets_of(store.array("label_counts", np.int32))
    return csr_of(np.ones(len(labels), np.float32), labels, offsets, (len(offsets) - 1, size))


def add_texts(store: Store, texts: Sequence[str]) -> None:
    """Add the texts of the next documents."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    store.append("text", np.frombuffer(b"".join(encoded), np.uint8))
    store.append("text_sizes", np.array([len(text) for text in encoded], np.int32))


def texts(store: Store | MappedStore, identity: str) -> Texts:
    """All texts; `identity` tells them from others."""
    return Texts([(store.array("text", np.uint8), offsets_of(store.array("text_sizes", np.int32)))], identity)


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """(N + 1,) int64."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _index(size: int | None) -> type[Any]:
    return np.int32 if size is not None and size < 2**31 else np.int64
