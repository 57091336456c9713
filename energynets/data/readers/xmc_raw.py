"""Raw text of the Extreme Classification Repository: `trn.json.gz`, one JSON object a line.

    {"uid": "0000031909", "title": "Girls Ballet Tutu", "content": "High quality 3 layer ...", "target_ind": [12, 6450]}

The document is title and content, a newline between them; one of the two may be absent. `target_ind` holds label ids
from 0; other keys are ignored. L is the largest id + 1 unless `num_labels` or a label file gives it: either one name a
line, or `lbl.json.gz`, one object with a `title` a line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers.collect import add_labels, add_texts, label_matrix, texts
from energynets.data.readers.label_names import check_count, read_label_names
from energynets.data.readers.notes import documents_of
from energynets.data.readers.source import Progress, lines, shown
from energynets.data.store import MemoryStore, Store
from energynets.errors import DataError

_BATCH = 1000  # documents that are Python objects at once


def read(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    num_labels: int | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Documents:
    """Read JSON lines with title, content and target_ind (plain or gzip).

    Args:
        path: the file.
        labels: label names, one a line or as `lbl.json.gz`; optional.
        num_labels: L, where no label file gives it.
        progress: called with (bytes done, bytes in all).
        store: where the documents' arrays grow; default memory.

    Returns:
        Documents with raw text and labels (N, L).

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    path = Path(path)
    names = None if labels is None else _label_names(Path(labels))
    if names is not None:
        check_count(names, num_labels or len(names), Path(labels or path), "num_labels")
        num_labels = len(names)
    store = MemoryStore() if store is None else store
    documents = _documents(path, num_labels, progress)
    while batch := list(itertools.islice(documents, _BATCH)):
        add_texts(store, [text for text, _ in batch])
        ids = [label for _, row in batch for label in sorted(row)]
        # Labels are below 2^31, whether L is known or not.
        add_labels(store, np.array(ids, np.int32), np.array([len(row) for _, row in batch]), 2**31 - 1)
    found = texts(store, str(path))
    inputs = TextDocuments(tuple(found) if isinstance(store, MemoryStore) else found)
    return documents_of(inputs, label_matrix(store, num_labels), names)


def _documents(path: Path, num_labels: int | None, progress: Progress | None) -> Iterator[tuple[str, list[int]]]:
    for number, line in lines(path, progress):
        where = f"{path}: line {number}"
        record = _record(line, where)
        yield _text(record, where), _labels(record, num_labels, where)


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: expected one JSON object, got {shown(line)} ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected one JSON object, got {shown(line)}")
    return record


def _text(record: dict[str, Any], where: str) -> str:
    parts = [record[key] for key in ("title", "content") if key in record]
    if not parts:
        raise DataError(f"{where}: expected `title` or `content`, got {', '.join(map(shown, record)) or 'no keys'}")
    for part in parts:
        if not isinstance(part, str):
            raise DataError(f"{where}: expected text in `title` and `content`, got {shown(json.dumps(part))}")
    return "\n".join(part for part in parts if part)


def _labels(record: dict[str, Any], num_labels: int | None, where: str) -> list[int]:
    listed = record.get("target_ind")
    if not isinstance(listed, list):
        raise DataError(f"{where}: expected a list of label ids in `target_ind`, got {shown(json.dumps(listed))}")
    for label in listed:
        if not isinstance(label, int) or isinstance(label, bool):
            raise DataError(f"{where}: expected whole numbers in `target_ind`, got {shown(json.dumps(label))}")
        if label < 0 or (num_labels is not None and label >= num_labels) or label >= 2**31:
            end = "more" if num_labels is None else f"at most {num_labels - 1}"
            raise DataError(f"{where}: label {label} of `target_ind` is out of range: expected 0 or {end}")
    if len(set(listed)) < len(listed):
        again = next(label for position, label in enumerate(listed) if label in listed[:position])
        raise DataError(f"{where}: duplicate label {again} in `target_ind`: expected each at most once")
    return listed


def _label_names(path: Path) -> tuple[str, ...]:
    if ".json" not in path.suffixes:
        return read_label_names(path, unique=False)
    names = []
    for number, line in lines(path):
        record = _record(line, f"{path}: line {number}")
        if not isinstance(record.get("title"), str):
            raise DataError(f"{path}: line {number}: expected the label's name in `title`, got {shown(line)}")
        names.append(record["title"])
    return tuple(names)
