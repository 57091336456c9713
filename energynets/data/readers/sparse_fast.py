"""Rows of sparse numbers in a dozen numpy passes over the bytes of a whole block.

Gives up, without an opinion, at the first thing it finds odd; `sparse_rows` then looks at every line.
"""

from __future__ import annotations

import numpy as np

from energynets.data.readers.rows import FLOAT32_MAX, Limits, Rows

_DIGIT, _SIGN, _BLANK, _NEWLINE, _COLON, _COMMA, _ODD = range(7)

_CLASSES = np.full(256, _ODD, dtype=np.uint8)
_CLASSES[np.frombuffer(b"0123456789", np.uint8)] = _DIGIT
_CLASSES[np.frombuffer(b"+-.eE", np.uint8)] = _SIGN
_CLASSES[np.frombuffer(b" \t\r", np.uint8)] = _BLANK
_CLASSES[ord("\n")], _CLASSES[ord(":")], _CLASSES[ord(",")] = _NEWLINE, _COLON, _COMMA


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
        if not (np.abs(values) <= FLOAT32_MAX).all():
            return None
    return values
