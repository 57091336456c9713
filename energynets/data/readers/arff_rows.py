"""The rows of an ARFF file: sparse ones by the shared sparse parser, dense ones by numpy, odd ones line by line.

As in `sparse_rows`, the fast ways give up without an opinion and the careful way decides and explains.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from energynets.data.readers.arff_header import NUMBER, Attribute, split_quoted, unquote
from energynets.data.readers.rows import FLOAT32_MAX, Limits, Rows
from energynets.data.readers.source import Block, decode, shown
from energynets.data.readers.sparse_fast import parse_fast
from energynets.data.readers.sparse_rows import number_of
from energynets.errors import DataError

_EMPTY_LINES = re.compile(rb"^[ \t\r]*(?:%[^\n]*)?\n", re.MULTILINE)
_SPARSE_TO_PAIRS = bytes.maketrans(b" \t,{}", b"::   ")
_DENSE = re.compile(rb"[0-9eE+.,\n-]*")


def parse_rows(block: Block, path: Path, attributes: Sequence[Attribute]) -> Rows:
    """Parse a block of lines into rows over all attributes, labels included.

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    if all(attribute.by_value for attribute in attributes):
        data = _EMPTY_LINES.sub(b"", block.data).replace(b"\r\n", b"\n")
        rows = _sparse(data, attributes) if data.startswith(b"{") else _dense(data, attributes)
        if rows is not None and _categories_hold(rows, attributes):
            return rows
    return _careful(block, path, attributes)


def _categories_hold(rows: Rows, attributes: Sequence[Attribute]) -> bool:
    groups: dict[tuple[float, ...], list[int]] = {}
    for column, attribute in enumerate(attributes):
        if attribute.values is not None:
            groups.setdefault(tuple(attribute.values.values()), []).append(column)
    for values, columns in groups.items():
        among = np.zeros(len(attributes), bool)
        among[columns] = True
        if not np.isin(rows.values[among[rows.columns]], np.array(values, np.float32)).all():
            return False
    return True


def _sparse(data: bytes, attributes: Sequence[Attribute]) -> Rows | None:
    if any(attribute.absent != 0 for attribute in attributes):
        return None
    lines = data.count(b"\n")
    if data.count(b"{") != lines or data.count(b"}\n") != lines or data.count(b"\n{") != lines - 1 or b":" in data:
        return None
    # {0 1,5 1} -> " 0:1 5:1 ": what the sparse parser reads as a row without labels.
    return parse_fast(data.translate(_SPARSE_TO_PAIRS), Limits(len(attributes), 0))


def _dense(data: bytes, attributes: Sequence[Attribute]) -> Rows | None:
    if not data or not _DENSE.fullmatch(data):
        return None
    text = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(text == ord("\n"))
    commas = np.searchsorted(np.flatnonzero(text == ord(",")), newlines)
    if not (np.diff(commas, prepend=0) == len(attributes) - 1).all():
        return None
    try:
        values = np.array(data[:-1].replace(b"\n", b",").split(b",")).astype(np.float64)
    except ValueError:
        return None
    if not (np.abs(values) <= FLOAT32_MAX).all():
        return None
    return _dense_rows(values.reshape(-1, len(attributes)))


def _dense_rows(table: np.ndarray) -> Rows:
    row, column = np.nonzero(table)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(table)))]).astype(np.int64)
    none = np.zeros(0, np.int64)
    return Rows(column, table[row, column].astype(np.float32), offsets, none, np.zeros(len(table) + 1, np.int64))


def _careful(block: Block, path: Path, attributes: Sequence[Attribute]) -> Rows:
    text = decode(block.data, path, line=block.line, offset=block.offset)
    columns: list[int] = []
    values: list[float] = []
    offsets = [0]
    for number, content in enumerate(text[:-1].split("\n"), block.line):
        line = content.strip()
        if not line or line.startswith("%"):
            continue
        where = f"{path}: line {number}"
        row = _sparse_row(line, where, attributes) if line.startswith("{") else _dense_row(line, where, attributes)
        columns += sorted(row)
        values += [row[column] for column in sorted(row)]
        offsets.append(len(columns))
    none = np.zeros(0, np.int64)
    return Rows(
        np.array(columns, np.int64),
        np.array(values, np.float64).astype(np.float32),
        np.array(offsets, np.int64),
        none,
        np.zeros(len(offsets), np.int64),
    )


def _sparse_row(line: str, where: str, attributes: Sequence[Attribute]) -> dict[int, float]:
    if not line.endswith("}"):
        raise DataError(f"{where}: expected a sparse row to end in a brace, got ...{shown(line[-20:])}")
    odd = next((attribute for attribute in attributes if attribute.absent != 0), None)
    if odd is not None:
        raise DataError(
            f"{where}: expected dense rows, got a sparse one: what it leaves out would not be 0, because the "
            f"first category of attribute {shown(odd.name)} (line {odd.line}) is not"
        )
    row: dict[int, float] = {}
    for item in split_quoted(line[1:-1]) if line[1:-1].strip() else ():
        index_text, _, value = item.replace("\t", " ").partition(" ")
        if not index_text.isascii() or not index_text.isdigit() or not value.strip():
            raise DataError(
                f"{where}: expected `index value` with an index from 0 to {len(attributes) - 1}, got {shown(item)}"
            )
        index = int(index_text)
        if index >= len(attributes):
            raise DataError(f"{where}: index {index} is out of range: expected 0 to {len(attributes) - 1}")
        if index in row:
            raise DataError(f"{where}: duplicate index {index}: expected each at most once a row")
        row[index] = _value(value.strip(), attributes[index], where)
    return row


def _dense_row(line: str, where: str, attributes: Sequence[Attribute]) -> dict[int, float]:
    items = split_quoted(line)
    if len(items) != len(attributes):
        raise DataError(f"{where}: expected {len(attributes)} values, one for each attribute, got {len(items)}")
    return {
        column: value
        for column, (item, attribute) in enumerate(zip(items, attributes, strict=True))
        if (value := _value(item, attribute, where)) != 0
    }


def _value(text: str, attribute: Attribute, where: str) -> float:
    if text == "?":
        raise DataError(f"{where}: attribute {shown(attribute.name)}: expected a value, got a missing one (?)")
    name = unquote(text)
    if attribute.values is None:
        return number_of(name.encode(), f"{where}: attribute {shown(attribute.name)}")
    if name in attribute.values:
        return attribute.values[name]
    if attribute.by_value and NUMBER.fullmatch(name):  # writers disagree on 1 and 1.0
        for value in attribute.values.values():
            if value == float(name):
                return value
    expected = ", ".join(list(attribute.values)[:8]) + (", ..." if len(attribute.values) > 8 else "")
    raise DataError(f"{where}: attribute {shown(attribute.name)}: expected one of {expected}, got {shown(text)}")
