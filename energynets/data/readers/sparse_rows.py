"""Rows of sparse numbers, `label,label index:value index:value ...`: the parser that XMC, svmlight and ARFF share.

A block of lines is parsed twice over if need be. The fast way (`sparse_fast`) takes whole blocks of plain rows and
gives up at anything odd. The careful way is a plain loop over lines: it is the definition of the format, says what is
wrong and where, and also takes what is odd but right.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np

from energynets.data.readers.rows import FLOAT32_MAX, Limits, Rows
from energynets.data.readers.source import Block, decode, shown
from energynets.data.readers.sparse_fast import parse_fast
from energynets.errors import DataError

_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def parse_block(block: Block, path: Path, limits: Limits) -> Rows:
    """Parse a block of lines.

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    rows = parse_fast(block.data, limits)
    return rows if rows is not None else parse_lines(block, path, limits)


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
    if abs(value) > FLOAT32_MAX:
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
