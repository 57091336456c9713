"""Known labels that stand beside documents: in a column before their text, or as the labels of a data file.

    wheat,!corn<TAB>wheat exports rise

`!` is of a label known to be false; an empty cell says nothing. Labels are separated as in a TSV file. A header line
may name other columns, in any order: `text`, `known` (or `labels`, where there is no `known`), and `id`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from energynets.cli.json_lines import sparse_rows
from energynets.errors import DataError, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from energynets.data.dataset import Documents, TextDocuments
    from energynets.training import TrainedRun

_COLUMNS = ("id", "known", "labels", "text")
_FALSE = "!"


def read_known_column(
    trained: TrainedRun, lines: Iterable[tuple[int, str]], where: str
) -> tuple[TextDocuments, csr_array]:
    """Texts of N documents, and (N, L) of 1 where a label is known to be true, -1 false.

    Args:
        trained: the run.
        lines: of the file, each with its number.
        where: its name, for errors.

    Raises:
        DataError: naming the line, what was expected and what came.
    """
    from energynets.data.dataset import TextDocuments
    from energynets.data.readers.source import shown
    from energynets.data.readers.tsv import label_entries, label_separator

    rows = [(number, line.split("\t")) for number, line in lines]
    columns: tuple[str, ...] = ("known", "text")
    header = tuple(cell.strip().lower() for cell in rows[0][1])
    if "text" in header and len(set(header)) == len(header):
        columns, rows = _checked(header, f"{where}: line {rows[0][0]}"), rows[1:]
        if not rows:
            raise DataError(f"{where}: expected documents after the header line, got none")
    for number, cells in rows:
        if len(cells) != len(columns):
            line = "\t".join(cells)
            raise DataError(
                f"{where}: line {number}: expected {len(columns)} columns ({', '.join(columns)}; a header line may "
                f"name others), got {len(cells)}: {shown(line)}"
            )
    place = columns.index("known" if "known" in columns else "labels")
    separator = label_separator([cells[place] for _, cells in rows], trained.label_names)
    told = []
    for number, cells in rows:
        here = f"{where}: line {number}: {columns[place]}"
        told.append(_told(trained, label_entries(cells[place], here, separator), here))
    texts = TextDocuments(tuple(cells[columns.index("text")] for _, cells in rows))
    return texts, sparse_rows(told, int(trained.result.data["labels"]))


def listed_labels(trained: TrainedRun, documents: Documents, where: str) -> csr_array:
    """(N, L) of 1 for each label that a data file lists; of a file that says what is unknown, -1 for all others.

    Args:
        trained: the run.
        documents: of the file; labels are matched by name where both have names, else by number.
        where: the file's name, for errors.

    Raises:
        DataError: labels that the run does not have.
    """
    import numpy as np
    from scipy.sparse import csr_array

    count, names = int(trained.result.data["labels"]), documents.label_names
    known = documents.labels
    if documents.unknown is not None:
        known = _all_but(documents.unknown, known)
    if names is None or trained.label_names is None or names == trained.label_names:
        if known.shape[1] != count:
            raise DataError(f"{where}: expected the {count} labels of the run, got {known.shape[1]}")
        return known
    ids = np.zeros(len(names), np.int64)
    for label in np.unique(known.indices):
        ids[label] = trained.label_id(names[label], where)
    known = csr_array((known.data, ids[known.indices], known.indptr), shape=(known.shape[0], count))
    known.sort_indices()
    return known


def _all_but(unknown: csr_array, true: csr_array) -> csr_array:
    """(N, L) of 1 for each label that is true, -1 for each other one but the unknown; made row by row."""
    import numpy as np

    from energynets.data.dataset import csr

    every = np.arange(true.shape[1])
    rows = [np.delete(every, row) for row in np.split(unknown.indices, unknown.indptr[1:-1])]
    values = [np.full(len(row), -1.0, np.float32) for row in rows]
    for row, value, labels in zip(rows, values, np.split(true.indices, true.indptr[1:-1]), strict=True):
        value[np.searchsorted(row, labels)] = 1
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return csr(np.concatenate(values), np.concatenate(rows), offsets, true.shape)


def _checked(header: tuple[str, ...], where: str) -> tuple[str, ...]:
    for column in header:
        if column not in _COLUMNS:
            raise DataError(f"{where}: unknown column {column!r}{nearest(column, _COLUMNS)}")
    if "known" not in header and "labels" not in header:
        raise DataError(f"{where}: expected a column `known` beside the text, got {', '.join(header)}")
    return header


def _told(trained: TrainedRun, entries: Iterable[str], where: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in entries:
        named = entry in (trained.label_names or ())  # a name may begin with the mark
        false = entry.startswith(_FALSE) and not named
        name = entry.removeprefix(_FALSE).lstrip() if false else entry
        label = trained.label_id(name, where)
        if label in found:
            raise DataError(f"{where}: expected label {name!r} once, got it as true and as false")
        found[label] = -1.0 if false else 1.0
    return found
