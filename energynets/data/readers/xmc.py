"""The one-file text format of the Extreme Classification Repository.

    4880 1836 159                        header: documents N, features D, labels L
    3,23,61 0:1 5:1 6:0.25               labels, one blank, feature:value pairs
     7:1                                 no labels: the line starts with the blank
    4,9                                  no features

Label ids and feature ids count from 0; labels are separated by commas. A line whose first token is a pair has no
labels either, blank or not. Indices may come unsorted, but not twice in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from energynets.data.dataset import Documents
from energynets.data.readers.collect import add_rows, label_matrix, table
from energynets.data.readers.label_names import check_count, read_label_names
from energynets.data.readers.notes import documents_of
from energynets.data.readers.rows import Limits, Rows
from energynets.data.readers.source import Block, Progress, blocks, shown
from energynets.data.readers.sparse_rows import parse_block
from energynets.data.store import MemoryStore, Store
from energynets.errors import DataError


def read(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Documents:
    """Read an XMC file (plain or gzip).

    Args:
        path: the file.
        labels: file of L label names, one a line; optional.
        progress: called with (bytes done, bytes in all).
        store: where the documents' arrays grow; default memory.

    Returns:
        Documents with inputs (N, D) and labels (N, L).

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    path = Path(path)
    store = MemoryStore() if store is None else store
    num_features = num_labels = 0
    for (_, num_features, num_labels), rows in read_rows(path, ("documents", "features", "labels"), progress):
        add_rows(store, rows, Limits(num_features, num_labels))
    names = None if labels is None else read_label_names(Path(labels), unique=False)
    check_count(names, num_labels, Path(labels or path), f"the header of {path} says so")
    return documents_of(table(store, num_features), label_matrix(store, num_labels), names)


def read_rows(
    path: Path, sizes: tuple[str, ...], progress: Progress | None = None, column: str = "feature"
) -> Iterator[tuple[tuple[int, ...], Rows]]:
    """The rows of a file, block by block, each with the counts of the header.

    Args:
        path: the file.
        sizes: what the header counts: documents, columns and, where rows carry labels, those.
        progress: as `read`.
        column: what an error calls an index of a pair.

    Raises:
        DataError: as `read`.
    """
    header: tuple[int, ...] | None = None
    limits = Limits()
    found = 0
    for block in blocks(path, progress):
        if header is None:
            header, block = _header(block, path, sizes)
            limits = Limits(header[1], header[2] if len(header) == 3 else 0, column=column)
        if block.data:
            rows = parse_block(block, path, limits)
            if found + len(rows) > header[0]:
                surplus = header[0] - found  # every line is a row
                line = block.data.split(b"\n")[surplus]
                raise DataError(
                    f"{path}: line {block.line + surplus}: the header says {header[0]} documents, got one more: "
                    f"{shown(line)}"
                )
            found += len(rows)
            yield header, rows
    assert header is not None, "blocks() raises on an empty file"
    if found != header[0]:
        raise DataError(f"{path}: line 1: the header says {header[0]} documents, expected as many rows, got {found}")


def _header(block: Block, path: Path, sizes: tuple[str, ...]) -> tuple[tuple[int, ...], Block]:
    line, _, rest = block.data.partition(b"\n")
    fields = line.split()
    if len(fields) != len(sizes) or not all(field.isdigit() and len(field) < 19 for field in fields):
        raise DataError(
            f"{path}: line 1: expected a header `{' '.join(sizes)}` of {len(sizes)} counts, got {shown(line)}"
        )
    header = tuple(int(field) for field in fields)
    if header[0] == 0:
        raise DataError(f"{path}: line 1: expected at least one document, got a header of 0")
    return header, Block(rest, block.line + 1, block.offset + len(line) + 1)
