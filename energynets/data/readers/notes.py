"""What a reader counts because it is allowed but worth knowing: documents without labels, features or text."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, Inputs, TextDocuments, csr


def documents_of(
    inputs: Inputs,
    labels: csr_array,
    label_names: tuple[str, ...] | None = None,
    feature_names: tuple[str, ...] | None = None,
) -> Documents:
    """Documents with their notes: only what was found is noted."""
    counted = {"documents without labels": int((np.diff(labels.indptr) == 0).sum())}
    if isinstance(inputs, TextDocuments):
        counted["documents without text"] = sum(not text.strip() for text in inputs.texts)
    elif isinstance(inputs, csr_array):
        counted["documents without features"] = int((np.diff(inputs.indptr) == 0).sum())
    notes = {what: count for what, count in counted.items() if count}
    return Documents(inputs, labels, label_names, feature_names, notes)


def label_matrix(rows: list[list[int]], num_labels: int) -> csr_array:
    """(N, L) of ones from each document's label ids."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    columns = np.array([label for row in rows for label in sorted(row)], dtype=np.int64)
    return csr(np.ones(len(columns), np.float32), columns, offsets, (len(rows), num_labels))
