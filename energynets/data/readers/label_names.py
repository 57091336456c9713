"""A label set from a file with one name a line (plain or gzip): line number from 0 = label id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from energynets.data.readers.source import lines, shown
from energynets.errors import DataError


def read_label_names(path: Path, *, unique: bool = True) -> tuple[str, ...]:
    """The names, in order.

    Args:
        path: the file.
        unique: refuse a name that occurs twice; wrong for titles of products, right for names that documents refer to.

    Raises:
        DataError: an empty line, or a name that occurs twice.
    """
    names: dict[str, int] = {}
    ordered = []
    for number, line in lines(path):
        name = line.strip()
        if not name:
            raise DataError(f"{path}: line {number}: expected a label name, got an empty line")
        if unique and name in names:
            raise DataError(f"{path}: line {number}: label {shown(name)} again, first on line {names[name]}")
        names.setdefault(name, number)
        ordered.append(name)
    return tuple(ordered)


def check_count(names: tuple[str, ...] | None, labels: int, source: Path, described: str) -> None:
    """Raise where a label file does not name the labels that the documents have.

    Raises:
        DataError: as many names as labels were expected.
    """
    if names is not None and len(names) != labels:
        raise DataError(f"{source}: expected {labels} label names ({described}), got {len(names)}")


def closest(name: str, names: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, or nothing: for name sets too long to list as `errors.nearest` does."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {shown(match[0])}?)" if match else ""
