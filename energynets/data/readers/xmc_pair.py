"""The two-file text format of the Extreme Classification Repository.

    trn_X_Xf.txt            trn_X_Y.txt
    2 5                     2 3                  header: documents, columns
    0:0.5 4:1               0:1.00000            index:value pairs, indices from 0
    1:2                     0:1.00000 2:1.00000

A line may be empty: a document without features, or without labels. Every value of the label file is 1.
The label file stands beside the feature file, its name that of the feature file with `_Xf` read as `_Y`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from energynets.data.dataset import Documents
from energynets.data.readers import collect
from energynets.data.readers.collect import add_labels, add_table, table
from energynets.data.readers.label_names import check_count, read_label_names
from energynets.data.readers.notes import documents_of
from energynets.data.readers.source import Progress
from energynets.data.readers.xmc import read_rows
from energynets.data.store import MemoryStore, Store
from energynets.errors import DataError


def label_file(path: Path) -> Path:
    """The label file that belongs to a feature file.

    Raises:
        DataError: the name of the feature file does not say.
    """
    head, mark, tail = path.name.rpartition("_Xf")
    if not mark:
        raise DataError(f"{path}: expected a feature file named like trn_X_Xf.txt (its label file is trn_X_Y.txt)")
    candidates = [path.with_name(f"{head}_Y{tail}")]
    candidates.append(candidates[0].with_suffix("") if tail.endswith(".gz") else Path(f"{candidates[0]}.gz"))
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0])


def read(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    label_matrix: str | Path | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Documents:
    """Read a pair of files (each plain or gzip).

    Args:
        path: the feature file, `..._Xf.txt`.
        labels: file of L label names, one a line; optional.
        label_matrix: the label file, where it is not `..._Y.txt` beside the feature file.
        progress: called with (bytes done, bytes in all), for one file after the other.
        store: where the documents' arrays grow; default memory.

    Returns:
        Documents with inputs (N, D) and labels (N, L).

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    path = Path(path)
    store = MemoryStore() if store is None else store
    label_path = label_file(path) if label_matrix is None else Path(label_matrix)
    num_documents = num_features = num_labels = line = 0
    for (_, num_features), rows in read_rows(path, ("documents", "features"), progress):
        add_table(store, rows, num_features)
        num_documents += len(rows)
    for (_, num_labels), rows in read_rows(label_path, ("documents", "labels"), progress, "label"):
        odd = np.flatnonzero(rows.values != 1)
        if len(odd):
            line += int(np.searchsorted(rows.column_offsets, odd[0], side="right")) + 1  # after the header
            raise DataError(f"{label_path}: line {line}: expected label values of 1, got {rows.values[odd[0]]:g}")
        line += len(rows)
        add_labels(store, rows.columns, np.diff(rows.column_offsets), num_labels)
    if line != num_documents:
        raise DataError(f"{label_path}: expected {num_documents} documents as in {path}, got {line}")
    names = None if labels is None else read_label_names(Path(labels), unique=False)
    check_count(names, num_labels, Path(labels or path), f"the header of {label_path} says so")
    return documents_of(table(store, num_features), collect.label_matrix(store, num_labels), names)
