"""Rows of sparse numbers, `label,label index:value index:value ...`: the parser that XMC, svmlight and ARFF share.

A block of lines is parsed twice over if need be. The fast way is a dozen numpy passes over the bytes of a whole block
and gives up, without an opinion, at the first thing it finds odd. The careful way is a plain loop over lines: it is the
definition of the format, says what is wrong and where, and also takes what is odd but right (`1e-3`, `+2`, tabs).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import csr
from energynets.data.readers.source import Block, decode, shown
from energynets.errors import DataError

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DIGIT, _SIGN, _BLANK, _NEWLINE, _COLON, _COMMA, _ODD = range(7)

_CLASSES = np.full(256, _ODD, dtype=np.uint8)
_CLASSES[np.frombuffer(b"0123456789", np.uint8)] = _DIGIT
_CLASSES[np.frombuffer(b"+-.eE", np.uint8)] = _SIGN
_CLASSES[np.frombuffer(b" \t\r", np.uint8)] = _BLANK
_CLASSES[ord("\n")], _CLASSES[ord(":")], _CLASSES[ord(",")] = _NEWLINE, _COLON, _COMMA


@dataclass(frozen=True)
class Limits:
    """What a file's indices may be.

    Args:
        columns: D; indices run over [first_column, first_column + D). None: any.
        labels: L, likewise; 0 where rows carry no labels (then no line may begin with any). None: any.
        column: what an error calls an index of a pair ("feature", or "label" in a file of label pairs).
    """

    columns: int | None = None
    labels: int | None = None
    first_column: int = 0
    first_label: int = 0
    column: str = "feature"


@dataclass(frozen=True)
class Rows:
    """R parsed rows. Row r has `columns[column_offsets[r]:column_offsets[r + 1]]`, sorted, and labels likewise."""

    columns: np.ndarray
    values: np.ndarray
    column_offsets: np.ndarray
    labels: np.ndarray
    label_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.column_offsets) - 1

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        def offsets(arrays: list[np.ndarray]) -> np.ndarray:
            lengths = np.concatenate([np.diff(array) for array in arrays]) if arrays else np.zeros(0, np.int64)
            return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

        def joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
            return np.concatenate(arrays) if arrays else np.zeros(0, dtype)

        return cls(
            joined([part.columns for part in parts], np.int64),
            joined([part.values for part in parts], np.float32),
            offsets([part.column_offsets for part in parts]),
            joined([part.labels for part in parts], np.int64),
            offsets([part.label_offsets for part in parts]),
        )

    def inputs(self, num_columns: int | None = None) -> csr_array:
        """(R, D) float32 without stored zeros; D is the largest index + 1 where not given."""
        size = num_columns if num_columns is not None else int(self.columns.max(initial=-1)) + 1
        matrix = csr(self.values, self.columns, self.column_offsets, (len(self), size))
        matrix.eliminate_zeros()
        return matrix

    def label_matrix(self, num_labels: int | None = None) -> csr_array:
        """(R, L) of ones; L is the largest label + 1 where not given."""
        size = num_labels if num_labels is not None else int(self.labels.max(initial=-1)) + 1
        ones = np.ones(len(self.labels), np.float32)
        return csr(ones, self.labels, self.label_offsets, (len(self), size))


def parse_block(block: Block, path: Path, limits: Limits) -> Rows:
    """Parse a block of lines.

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    rows = parse_fast(block.data, limits)
    return rows if rows is not None else parse_lines(block, path, limits)


# ------------------------------------------------------------------------------------------------ the careful way


def parse_lines(block: Block, path: Path, limits: Limits) -> Rows:
    """Parse a block line by line: the definition of the format, and the source of its error messages.

    Raises:
        DataError: as `parse_block`.
    """
    if not block.data.isascii():
        decode(block.data, path, line=block.line, offset=block.offset)
    all_columns: list[int] = []
    all_values: list[float] = []
    all_labels: list[int] = []
    column_offsets, label_offsets = [0], [0]
    for number, line in enumerate(block.data[:-1].split(b"\n"), block.line):
        where = f"{path}: line {number}"
        tokens = line.split()
        labels: list[int] = []
        if limits.labels != 0 and tokens and b":" not in tokens[0] and not line[:1].isspace():
            labels = [
                _index(item, "label", limits.first_label, limits.labels, where) for item in tokens.pop(0).split(b",")
            ]
            _sort(labels, None, "label", limits.first_label, where)
        columns: list[int] = []
        values: list[float] = []
        for token in tokens:
            index, colon, value = token.partition(b":")
            if not colon:
                raise DataError(f"{where}: expected index:value, got {shown(token)}")
            columns.append(_index(index, limits.column, limits.first_column, limits.columns, where))
            values.append(number_of(value, where))
        _sort(columns, values, limits.column, limits.first_column, where)
        all_columns += columns
        all_values += values
        all_labels += labels
        column_offsets.append(len(all_columns))
        label_offsets.append(len(all_labels))
    return Rows(
        np.array(all_columns, np.int64),
        np.array(all_values, np.float64).astype(np.float32),
        np.array(column_offsets, np.int64),
        np.array(all_labels, np.int64),
        np.array(label_offsets, np.int64),
    )


def number_of(text: bytes, where: str) -> float:
    """A finite number that float32 can hold.

    Raises:
        DataError: anything else.
    """
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        odd = "a finite number" if text.lower().lstrip(b"+-") in (b"nan", b"inf", b"infinity") else "a number"
        raise DataError(f"{where}: expected {odd}, got {shown(text)}")
    value = float(text)
    if abs(value) > _FLOAT32_MAX:
        raise DataError(f"{where}: expected a finite float32 number, got {shown(text)}")
    return value


def _index(text: bytes, what: str, first: int, size: int | None, where: str) -> int:
    end = "" if size is None else f" to {size - 1 + first}"
    if not text.isdigit() or len(text) > 18:
        raise DataError(f"{where}: expected a {what} index from {first}{end}, got {shown(text)}")
    index = int(text) - first
    if index < 0 or (size is not None and index >= size):
        raise DataError(f"{where}: {what} index {int(text)} is out of range: expected {first}{end or ' or more'}")
    return index


def _sort(indices: list[int], values: list[float] | None, what: str, first: int, where: str) -> None:
    if all(a < b for a, b in pairwise(indices)):
        return
    seen: set[int] = set()
    for index in indices:
        if index in seen:
            raise DataError(f"{where}: duplicate {what} index {index + first}: expected each at most once a row")
        seen.add(index)
    order = sorted(range(len(indices)), key=indices.__getitem__)
    if values is not None:
        values[:] = [values[i] for i in order]
    indices[:] = [indices[i] for i in order]


# --------------------------------------------------------------------------------------------------- the fast way


def parse_fast(data: bytes, limits: Limits) -> Rows | None:
    """Parse whole lines at once; None for anything odd, right or wrong."""
    text = np.frombuffer(data, np.uint8)
    kind = _CLASSES[text]
    if (kind == _ODD).any():
        return None
    newlines = np.flatnonzero(kind == _NEWLINE)
    gap = (kind == _BLANK) | (kind == _NEWLINE)
    before = np.concatenate([[True], gap[:-1]])
    starts = np.flatnonzero(~gap & before)
    ends = np.flatnonzero(gap & ~before)
    colons = np.flatnonzero(kind == _COLON)
    commas = np.flatnonzero(kind == _COMMA)
    line = np.searchsorted(newlines, starts)

    owner = np.searchsorted(starts, colons, side="right") - 1
    has_colon = np.zeros(len(starts), bool)
    has_colon[owner] = True
    at_line_start = np.concatenate([[True], kind[:-1] == _NEWLINE])[starts]
    is_labels = at_line_start & ~has_colon
    pairs = np.flatnonzero(~is_labels)
    if len(pairs) != len(owner) or not np.array_equal(pairs, owner):  # exactly one colon in each pair
        return None
    columns = _integers(text, starts[pairs], colons)
    values = _numbers(text, kind, colons + 1, ends[pairs])
    if columns is None or values is None:
        return None

    if not is_labels[np.searchsorted(starts, commas, side="right") - 1].all():
        return None
    item_starts = np.sort(np.concatenate([starts[is_labels], commas + 1]))
    item_ends = np.sort(np.concatenate([commas, ends[is_labels]]))
    labels = _integers(text, item_starts, item_ends)
    if labels is None:
        return None
    label_line = line[np.searchsorted(starts, item_starts, side="right") - 1]

    rows = len(newlines)
    columns -= limits.first_column
    labels -= limits.first_label
    ordered = _ordered(columns, line[pairs], limits.columns)
    label_ordered = _ordered(labels, label_line, limits.labels)
    if ordered is None or label_ordered is None:
        return None
    return Rows(
        columns[ordered],
        values[ordered].astype(np.float32),
        _offsets(line[pairs], rows),
        labels[label_ordered],
        _offsets(label_line, rows),
    )


def _offsets(line: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(line, minlength=rows))]).astype(np.int64)


def _ordered(indices: np.ndarray, line: np.ndarray, size: int | None) -> np.ndarray | slice | None:
    """What sorts the indices within each line; None for an index out of range or a duplicate."""
    if len(indices) == 0:
        return slice(None)
    if indices.min() < 0 or (size is not None and indices.max() >= size):
        return None
    later_line = line[1:] > line[:-1]
    if (later_line | (indices[1:] > indices[:-1])).all():
        return slice(None)
    order = np.lexsort((indices, line))
    if ((line[order][1:] == line[order][:-1]) & (indices[order][1:] == indices[order][:-1])).any():
        return None
    return order


def _integers(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """The integers written at text[starts:ends]; None unless each is 1 to 18 digits."""
    lengths = ends - starts
    if len(lengths) == 0:
        return np.zeros(0, np.int64)
    if lengths.min() < 1 or lengths.max() > 18:
        return None
    values = np.zeros(len(starts), np.int64)
    for position in range(int(lengths.max())):
        there = np.flatnonzero(lengths > position) if position else slice(None)
        digit = text[starts[there] + position].astype(np.int64) - ord("0")
        if ((digit < 0) | (digit > 9)).any():
            return None
        values[there] = values[there] * 10 + digit
    return values


def _numbers(text: np.ndarray, kind: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """The numbers written at text[starts:ends] as float64; None if any is not a number that float32 can hold."""
    signs = np.flatnonzero(kind == _SIGN)
    unsigned = np.searchsorted(signs, starts) == np.searchsorted(signs, ends)
    plain = unsigned & (ends - starts <= 15)  # digits alone, and exact in float64
    integers = _integers(text, starts[plain], ends[plain])
    if integers is None:
        return None
    values = np.empty(len(starts), np.float64)
    values[plain] = integers
    rest = np.flatnonzero(~plain)
    if len(rest):
        lengths = (ends - starts)[rest]
        if lengths.min() < 1 or lengths.max() > 40:
            return None
        # One fixed-width byte string for each number: numpy's conversion of those is strict and correctly rounded.
        position = np.arange(lengths.max())
        characters = text[np.minimum(starts[rest, None] + position, len(text) - 1)]
        characters = np.where(position < lengths[:, None], characters, 0)
        try:
            values[rest] = np.ascontiguousarray(characters).view(f"S{lengths.max()}")[:, 0].astype(np.float64)
        except ValueError:
            return None
        if not (np.abs(values) <= _FLOAT32_MAX).all():
            return None
    return values
