"""Mulan multi-label ARFF: a header of attributes (`arff_header`), then sparse or dense rows.

    @data
    {0 1,5 1,1839 1}                     sparse: `index value` pairs over all attributes, indices from 0; the rest is 0
    0.1,-3,0,1                           dense: a value for every attribute

Which attributes are labels the XML file says (`mulan_xml`), by name: label ids follow the order of the XML, features
keep the order of the columns that remain. Labels are 0 or 1, or two categories that say in words which is which
({no,yes}, {TRUE,FALSE}, {-1,1}). Features are numbers; categories that are numbers keep their value, others count by
position. A missing value, `?`, is an error. `%` begins a comment line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import Documents
from energynets.data.readers.arff_header import Attribute, as_label, parse_attribute
from energynets.data.readers.arff_rows import parse_rows
from energynets.data.readers.label_names import closest
from energynets.data.readers.mulan_xml import read_mulan_labels
from energynets.data.readers.notes import documents_of
from energynets.data.readers.rows import Rows
from energynets.data.readers.source import Block, Progress, blocks, decode, shown
from energynets.errors import DataError


@dataclass
class _Header:
    """The attributes as they come in, those called as a label as labels; `complete` once @data has been met."""

    path: Path
    labels: frozenset[str]
    attributes: list[Attribute]
    complete: bool = False

    def take(self, block: Block) -> Block | None:
        """Read header lines; what follows @data is returned."""
        position = block.offset
        lines = block.data.split(b"\n")[:-1]
        for number, raw in enumerate(lines, block.line):
            text = decode(raw, self.path, line=number, offset=position).strip()
            position += len(raw) + 1
            if not text or text.startswith("%"):
                continue
            keyword, _, rest = text.replace("\t", " ").partition(" ")
            keyword = keyword.lower()
            if keyword == "@data":
                self.complete = True
                return Block(block.data[position - block.offset :], number + 1, position)
            if keyword == "@attribute":
                attribute = parse_attribute(rest, self.path, number)
                labelled = attribute.name in self.labels
                self.attributes.append(as_label(attribute, self.path) if labelled else attribute)
            elif keyword != "@relation":
                raise DataError(
                    f"{self.path}: line {number}: expected @relation, @attribute or @data, got {shown(text)}"
                )
        return None


def read(path: str | Path, *, labels: str | Path | None = None, progress: Progress | None = None) -> Documents:
    """Read a Mulan ARFF file (plain or gzip).

    Args:
        path: the ARFF file.
        labels: the XML file that names the labels.
        progress: called with (bytes done, bytes in all).

    Returns:
        Documents with inputs (N, D), labels (N, L) in the order of the XML, and the names of both.

    Raises:
        DataError: naming file, line, what was expected and what came.
    """
    path = Path(path)
    if labels is None:
        raise DataError(f"{path}: a Mulan ARFF file needs `labels`, the XML file that names its labels")
    label_names = read_mulan_labels(Path(labels))
    attributes, parts = _parse(path, frozenset(label_names), progress)
    rows = Rows.concatenate(parts)
    if len(rows) == 0:
        raise DataError(f"{path}: expected rows after @data, got none")

    position = {attribute.name: column for column, attribute in enumerate(attributes)}
    missing = [name for name in label_names if name not in position]
    if missing:
        raise DataError(
            f"{labels}: label {shown(missing[0])} is not an attribute of {path}{closest(missing[0], position)}"
        )
    label_columns = [position[name] for name in label_names]
    is_label = np.zeros(len(attributes), bool)
    is_label[label_columns] = True
    feature_columns = np.flatnonzero(~is_label)

    matrix = rows.inputs(len(attributes))
    marks = csr_array(matrix[:, label_columns])
    if (marks.data != 1).any():
        row, column = (axis[int(np.flatnonzero(marks.data != 1)[0])] for axis in marks.nonzero())
        raise DataError(
            f"{path}: document {row + 1}: label {shown(label_names[column])}: "
            f"expected 0 or 1, got {marks[row, column]:g}"
        )
    marks.sort_indices()
    feature_names = tuple(attributes[column].name for column in feature_columns)
    return documents_of(csr_array(matrix[:, feature_columns]), marks, label_names, feature_names)


def _parse(path: Path, labels: frozenset[str], progress: Progress | None) -> tuple[list[Attribute], list[Rows]]:
    header = _Header(path, labels, [])
    parts = []
    for block in _rows_of(header, blocks(path, progress)):
        parts.append(parse_rows(block, path, header.attributes))
    if not header.complete:
        raise DataError(f"{path}: expected a line @data, got none")
    return header.attributes, parts


def _rows_of(header: _Header, source: Iterator[Block]) -> Iterator[Block]:
    for block in source:
        if header.complete:
            yield block
        elif (rest := header.take(block)) is not None:
            _check_names(header)
            if rest.data:
                yield rest


def _check_names(header: _Header) -> None:
    seen: dict[str, int] = {}
    for attribute in header.attributes:
        if attribute.name in seen:
            raise DataError(
                f"{header.path}: line {attribute.line}: attribute {shown(attribute.name)} again, "
                f"first on line {seen[attribute.name]}"
            )
        seen[attribute.name] = attribute.line
    if not header.attributes:
        raise DataError(f"{header.path}: expected @attribute lines before @data, got none")
