"""The XML file that names the labels of a Mulan set.

    <labels xmlns="http://mulan.sourceforge.net/labels">
    <label name="TAG_2005"></label>
    </labels>

A label is the ARFF attribute with that name. Labels may be nested (a hierarchy); they count in the order of the file.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from energynets.data.readers.source import read_bytes, shown
from energynets.errors import DataError


def read_mulan_labels(path: Path) -> tuple[str, ...]:
    """The label names in the order of the file.

    Raises:
        DataError: not XML, no labels, a label without a name, or a name that occurs twice.
    """
    data = read_bytes(path)
    if b"<!ENTITY" in data:
        raise DataError(f"{path}: expected a plain list of labels, got an entity declaration")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(
            f"{path}: line {error.position[0]}: expected XML with <label name=...> elements: {error}"
        ) from None
    names: list[str] = []
    for element in root.iter():
        if not isinstance(element.tag, str) or element.tag.rpartition("}")[2] != "label":
            continue
        name = element.get("name")
        if not name:
            raise DataError(f"{path}: label number {len(names) + 1}: expected an attribute `name`, got none")
        if name in names:
            raise DataError(f"{path}: label number {len(names) + 1}: {shown(name)} occurs twice")
        names.append(name)
    if not names:
        raise DataError(f"{path}: expected <label name=...> elements, got none in <{root.tag.rpartition('}')[2]}>")
    return tuple(names)
