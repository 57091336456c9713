"""svmlight (LIBSVM) with several labels a document.

    1,3 4:0.5 7:1        labels, one blank, feature:value pairs
     2:1                 no labels: the line starts with the blank
    # a comment, alone on its line or after the pairs

There is no header: D and L are the largest index + 1, unless given. Indices are taken as they stand; a file that counts
from 1 has an empty column 0, unless `first_feature=1` or `first_label=1` says so. An empty line is refused, because
programs disagree on whether it is a document: one without labels and features is a line of one blank.
"""

from __future__ import annotations

import re
from pathlib import Path

from energynets.data.dataset import Documents
from energynets.data.readers.collect import add_rows, label_matrix, table
from energynets.data.readers.label_names import check_count, read_label_names
from energynets.data.readers.notes import documents_of
from energynets.data.readers.rows import Limits, Rows
from energynets.data.readers.source import Block, Progress, blocks, decode
from energynets.data.readers.sparse_rows import parse_block
from energynets.data.store import MemoryStore, Store
from energynets.errors import DataError

_COMMENT = re.compile(rb"[ \t]*#[^\n]*")


def read(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    num_features: int | None = None,
    num_labels: int | None = None,
    first_feature: int = 0,
    first_label: int = 0,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Documents:
    """Read an svmlight file (plain or gzip).

    Args:
        path: the file.
        labels: file of L label names, one a line; optional, gives L.
        num_features: D; an index beyond it is an error.
        num_labels: L, likewise.
        first_feature: the index that files give the first feature, 0 or 1.
        first_label: the index that files give the first label, 0 or 1.
        progress: called with (bytes done, bytes in all).
        store: where the documents' arrays grow; default memory.

    Returns:
        Documents with inputs (N, D) and labels (N, L).

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    path = Path(path)
    names = None if labels is None else read_label_names(Path(labels), unique=False)
    if names is not None:
        check_count(names, num_labels or len(names), Path(labels or path), "num_labels")
        num_labels = len(names)
    limits = Limits(num_features, num_labels, first_feature, first_label)
    store = MemoryStore() if store is None else store
    found = 0
    for block in blocks(path, progress):
        if not block.data.isascii():  # before comments go, so that the offset in an error is that of the file
            decode(block.data, path, line=block.line, offset=block.offset)
        _refuse_empty_lines(block, path)
        # A comment of its own line leaves an empty line, which keeps the line numbers; such rows are dropped below.
        comments = {line for line, text in enumerate(block.data.split(b"\n")) if text.lstrip().startswith(b"#")}
        data = _COMMENT.sub(b"", block.data) if b"#" in block.data else block.data
        rows = _without(parse_block(Block(data, block.line, block.offset), path, limits), comments)
        add_rows(store, rows, limits)
        found += len(rows)
    if found == 0:
        raise DataError(f"{path}: expected documents, got comments alone")
    return documents_of(table(store, num_features), label_matrix(store, num_labels), names)


def _refuse_empty_lines(block: Block, path: Path) -> None:
    position = 0 if block.data.startswith((b"\n", b"\r\n")) else -1
    if position < 0:
        match = re.search(rb"\n\r?\n", block.data)
        position = -1 if match is None else match.start() + 1
    if position >= 0:
        line = block.line + block.data.count(b"\n", 0, position)
        raise DataError(
            f"{path}: line {line}: expected a document, got an empty line "
            "(one without labels and features is a line of one blank)"
        )


def _without(rows: Rows, dropped: set[int]) -> Rows:
    if not dropped:
        return rows
    # These rows hold nothing, so taking out their offsets is all there is to do.
    keep = [0, *(row + 1 for row in range(len(rows)) if row not in dropped)]
    return Rows(rows.columns, rows.values, rows.column_offsets[keep], rows.labels, rows.label_offsets[keep])
