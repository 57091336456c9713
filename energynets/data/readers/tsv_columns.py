"""Which column of a tab-separated file is which: asked for, told by a header line, or told by the cells.

Cells tell it so: the text is the column with the longest cells, clearly; what remains is labels, or an id (distinct,
one word) and labels. Where the label set is known, a column whose every entry is a known label settles it. Where the
cells leave doubt, the reader asks for `columns` instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from energynets.errors import DataError, nearest

COLUMNS = ("id", "labels", "text")
_HEADER_WORDS = {"id": "id", "labels": "labels", "label": "labels", "text": "text"}
_LAYOUTS = {
    2: (("labels", "text"), ("text", "labels")),
    3: (("id", "labels", "text"), ("text", "labels", "id"), ("id", "text", "labels")),
}
_CLEARLY = 2.0  # times longer than the next column
HINT = "say which with data.columns, e.g. [id, labels, text], or with a header line such as `id<TAB>labels<TAB>text`"


def check_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Column names as asked for.

    Raises:
        DataError: an unknown name, a repeated one, or no text.
    """
    for column in columns:
        if column not in COLUMNS:
            raise DataError(f"unknown column {column!r} of a TSV file{nearest(column, COLUMNS)}")
    if "text" not in columns or len(set(columns)) < len(columns):
        raise DataError(f"expected columns with `text`, each at most once, got {', '.join(columns) or 'none'}")
    return tuple(columns)


def header_columns(cells: Sequence[str]) -> tuple[str, ...] | None:
    """The columns that a first line names, if it is a header."""
    named = [_HEADER_WORDS.get(cell.strip().lower(), "") for cell in cells]
    return tuple(named) if "text" in named and "" not in named and len(set(named)) == len(named) else None


def detect_columns(
    path: Path, columns: Sequence[Sequence[str]], are_labels: Callable[[Sequence[str]], bool] | None
) -> tuple[str, ...]:
    """The layout that the cells of the columns tell.

    Args:
        path: for the error.
        columns: the cells of each column.
        are_labels: whether all of these cells hold known labels alone; None where no label set is known.

    Raises:
        DataError: no layout fits, or the cells leave doubt.
    """
    layouts = _LAYOUTS.get(len(columns))
    if layouts is None:
        raise DataError(
            f"{path}: expected 2 columns (labels, text) or 3 (id, labels, text), got {len(columns)}: {HINT}"
        )
    if are_labels is not None:
        fitting = [layout for layout in layouts if are_labels(columns[layout.index("labels")])]
        if len(fitting) == 1:
            return fitting[0]
    sizes = sorted((sum(map(len, cells)) / len(cells), position) for position, cells in enumerate(columns))
    if sizes[-1][0] < _CLEARLY * sizes[-2][0]:
        raise DataError(
            f"{path}: cannot tell which column is the text: the cells of column {sizes[-1][1] + 1} are hardly "
            f"longer than those of column {sizes[-2][1] + 1}: {HINT}"
        )
    layout = next(layout for layout in layouts if layout.index("text") == sizes[-1][1])
    texts, labels = columns[layout.index("text")], columns[layout.index("labels")]
    if len(set(texts)) < len(set(labels)):
        raise DataError(f"{path}: taken as {', '.join(layout)}, the texts repeat more often than the labels: {HINT}")
    if "id" in layout:
        ids = columns[layout.index("id")]
        if not _distinct(ids) and _distinct(labels):
            raise DataError(f"{path}: taken as {', '.join(layout)}, the ids repeat and the labels do not: {HINT}")
    return layout


def _distinct(cells: Sequence[str]) -> bool:
    return len(set(cells)) == len(cells)
