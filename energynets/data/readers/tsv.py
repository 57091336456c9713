"""Tab-separated text, one document a line: `id labels text`, `labels text`, or (GoEmotions) `text labels id`.

    17<TAB>sport,politics<TAB>The minister opened the games.

Lines end at newlines and cells at tabs, nothing else: quotes mean nothing. Labels are separated by commas or, where no
label cell of the file holds a comma, by blanks; an empty cell is a document without labels. The columns are told by
`columns`, by a header line of their names, or by the cells (`tsv_columns`).

The label set is a file with one name a line (entries are then names, or line numbers from 0 where every entry is a
number and no name is), or the names that the caller knows from training, or else what the file itself holds, sorted
(as numbers, where all are). An entry outside a label file is an error: no label is
ever made up or dropped. Where there is none, later files of a data set may extend the set (`extend`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers.label_names import closest, read_label_names
from energynets.data.readers.notes import documents_of, label_matrix
from energynets.data.readers.source import Progress, lines, shown
from energynets.data.readers.tsv_columns import check_columns, detect_columns, header_columns
from energynets.errors import DataError


def read(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    label_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    extend: bool = False,
    progress: Progress | None = None,
) -> Documents:
    """Read tab-separated text (plain or gzip).

    Args:
        path: the file.
        labels: file of label names, one a line.
        label_names: the label set, where another file of the data set has given it.
        extend: a label outside `label_names` joins the set behind them, in order, instead of being an error.
        columns: what the columns hold, of `id`, `labels`, `text`; e.g. ("labels", "text"). ("text",) has no labels.
        progress: called with (bytes done, bytes in all).

    Returns:
        Documents with raw text, labels (N, L) and their names.

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    path = Path(path)
    known = None if label_names is None else tuple(label_names)
    if labels is not None:
        known = read_label_names(Path(labels))
    rows, first = _rows(path, progress), 1
    layout = check_columns(columns) if columns is not None else None
    header = header_columns(rows[0])
    if header is not None and layout in (None, header):
        layout, rows, first = header, rows[1:], first + 1
        if not rows:
            raise DataError(f"{path}: expected documents after the header line, got none")
    cells = list(zip(*rows, strict=True))
    if layout is None:
        layout = detect_columns(path, cells, None if known is None else lambda column: _all_known(column, known))
    elif len(layout) != len(cells):
        raise DataError(f"{path}: line {first}: expected {len(layout)} columns ({', '.join(layout)}), got {len(cells)}")
    texts = TextDocuments(tuple(cells[layout.index("text")]))
    marks = cells[layout.index("labels")] if "labels" in layout else ("",) * len(rows)
    separator = label_separator(marks, known)
    entries = [label_entries(cell, f"{path}: line {line}", separator) for line, cell in enumerate(marks, first)]
    if extend and known is not None:
        known += _sorted_names({entry for row in entries for entry in row} - set(known))
    names, ids = _label_ids(entries, known)
    source = "" if labels is None else f" of {labels} (data.labels)"
    numbered = [
        [_id(entry, ids, source, f"{path}: line {line}") for entry in row] for line, row in enumerate(entries, first)
    ]
    return documents_of(texts, label_matrix(numbered, len(names)), names)


def _rows(path: Path, progress: Progress | None) -> list[list[str]]:
    rows: list[list[str]] = []
    for number, line in lines(path, progress):
        cells = line.split("\t")
        if rows and len(cells) != len(rows[0]):
            raise DataError(
                f"{path}: line {number}: expected {len(rows[0])} columns as on line 1, got {len(cells)}: {shown(line)}"
            )
        rows.append(cells)
    return rows


def label_separator(cells: Sequence[str], known: Sequence[str] | None) -> str | None:
    """What separates the labels of these cells: a comma, or None for blanks."""
    if any("," in cell for cell in cells) or any(" " in name for name in known or ()):
        return ","
    return None


def _split(cell: str, separator: str | None) -> list[str]:
    return [part.strip() for part in cell.split(separator)] if cell.strip() else []


def label_entries(cell: str, where: str, separator: str | None) -> list[str]:
    """The labels as a cell writes them, each once.

    Raises:
        DataError: none between commas, or one again; begins with `where`.
    """
    entries = _split(cell, separator)
    if "" in entries:
        raise DataError(f"{where}: expected a label between commas, got none in {shown(cell)}")
    if len(set(entries)) < len(entries):
        again = next(entry for position, entry in enumerate(entries) if entry in entries[:position])
        raise DataError(f"{where}: duplicate label {shown(again)}: expected each at most once a document")
    return entries


def _label_ids(rows: Sequence[Sequence[str]], known: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """The label names, and the id of each way to write a label."""
    if known is None:
        names = _sorted_names({entry for row in rows for entry in row})
        return names, {name: number for number, name in enumerate(names)}
    by_number = _by_number({entry for row in rows for entry in row}, known)
    written = map(str, range(len(known))) if by_number else known
    return tuple(known), {entry: number for number, entry in enumerate(written)}


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    """In alphabetical order, or as numbers where all of them are."""
    numeric = all(_is_number(name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name)) if numeric else sorted(names))


def _by_number(entries: set[str], known: Sequence[str]) -> bool:
    return bool(entries) and all(map(_is_number, entries)) and not any(map(_is_number, known))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _all_known(cells: Sequence[str], known: Sequence[str]) -> bool:
    separator = label_separator(cells, known)
    entries = {entry for cell in cells for entry in _split(cell, separator)}
    by_number = _by_number(entries, known)
    return bool(entries) and entries <= set(map(str, range(len(known))) if by_number else known)


def _id(entry: str, ids: dict[str, int], source: str, where: str) -> int:
    if entry not in ids:
        by_number = _is_number(entry) and "0" in ids
        expected = f"0 to {len(ids) - 1}, line numbers" if by_number else f"one of the {len(ids)} names"
        hint = "" if source else "; a file with all label names, one a line, widens the set (data.labels)"
        raise DataError(
            f"{where}: unknown label {shown(entry)}: expected {expected}{source}{closest(entry, ids)}{hint}"
        )
    return ids[entry]
