"""The header of an ARFF file: its attributes, in the order of the columns.

    @relation 'any name'
    % a comment
    @attribute plain_name {0,1}
    @attribute 'quoted name with \\' inside' numeric
    @data

Keywords and type names are case-insensitive. A name in ' or " quotes may hold blanks, and a backslash in it takes the
next character as it is; a name without quotes runs to the next blank and is taken literally, backslashes and all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from energynets.data.readers.source import shown
from energynets.errors import DataError

_NUMERIC = ("numeric", "real", "integer")
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Attribute:
    """One column. `values` gives each category's number, None for a numeric column.

    Categories that are all numbers, and distinct ones, keep their value (`by_value`); others count by position from 0.
    """

    name: str
    line: int
    values: dict[str, float] | None
    by_value: bool = True

    @property
    def absent(self) -> float:
        """What a sparse row means by leaving the column out: 0, or the first category."""
        return 0.0 if self.values is None else next(iter(self.values.values()))


# How data sets write that a label is absent or present, in lower case.
_ABSENT = ("0", "-1", "no", "n", "false", "f", "off", "absent", "negative")
_PRESENT = ("1", "+1", "yes", "y", "true", "t", "on", "present", "positive")


def as_label(attribute: Attribute, path: Path) -> Attribute:
    """The column as that of a label: its categories mean 0 or 1 by what they say, never by their order.

    Raises:
        DataError: categories that do not say which of them means that the label is there.
    """
    if attribute.values is None or (attribute.by_value and set(attribute.values.values()) <= {0.0, 1.0}):
        return attribute
    meaning = dict.fromkeys(_ABSENT, 0.0) | dict.fromkeys(_PRESENT, 1.0)
    values = {name: meaning.get(name.lower()) for name in attribute.values}
    if None in values.values() or len(set(values.values())) < len(values):
        raise DataError(
            f"{path}: line {attribute.line}: label {shown(attribute.name)}: expected categories {{0,1}}, or two words "
            f"such as {{no,yes}}, {{false,true}} or {{-1,1}}, got {shown('{' + ','.join(values) + '}')}"
        )
    return replace(attribute, values=values, by_value=False)  # type: ignore[arg-type]


def unquote(text: str) -> str:
    """A value without its quotes; one without quotes as it stands."""
    match = _QUOTED.fullmatch(text)
    return text if match is None else re.sub(r"\\(.)", r"\1", match[1] if match[1] is not None else match[2])


def split_quoted(text: str, separator: str = ",") -> list[str]:
    """Split at separators outside quotes, each part stripped of blanks."""
    if "'" not in text and '"' not in text:
        return [part.strip() for part in text.split(separator)]
    parts, start, position = [], 0, 0
    while position < len(text):
        # A quote opens a string at the start of a part only: elsewhere it is a character like any other.
        match = _QUOTED.match(text, position) if not text[start:position].strip() else None
        if match is not None:
            position = match.end()
        elif text[position] == separator:
            parts.append(text[start:position].strip())
            start = position = position + 1
        else:
            position += 1
    return [*parts, text[start:].strip()]


def parse_attribute(declaration: str, path: Path, line: int) -> Attribute:
    """The column that `@attribute <declaration>` declares.

    Raises:
        DataError: no name, no type, a type that is neither numeric nor nominal, or categories that repeat.
    """
    where = f"{path}: line {line}"
    declaration = declaration.strip()
    match = _QUOTED.match(declaration)
    if match is not None:
        name, kind = unquote(match[0]), declaration[match.end() :].strip()
    else:
        name, _, kind = declaration.replace("\t", " ").partition(" ")
        kind = kind.strip()
        if name[:1] in ("'", '"') and name[-1:] != name[:1]:
            raise DataError(
                f"{where}: expected a closing quote {name[0]} after the attribute's name, got {shown(declaration)}"
            )
    if not name or not kind:
        raise DataError(f"{where}: expected `@attribute name type`, got {shown('@attribute ' + declaration)}")
    if kind.startswith("{"):
        values, by_value = _categories(kind, where)
        return Attribute(name, line, values, by_value)
    if kind.split()[0].lower() in _NUMERIC:
        return Attribute(name, line, None)
    raise DataError(
        f"{where}: attribute {shown(name)}: expected {', '.join(_NUMERIC)} or categories {{a,b}}, got {shown(kind)}"
    )


def _categories(kind: str, where: str) -> tuple[dict[str, float], bool]:
    if not kind.endswith("}"):
        raise DataError(f"{where}: expected categories {{a,b}} up to a closing brace, got {shown(kind)}")
    names = [unquote(part) for part in split_quoted(kind[1:-1])]
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{where}: expected distinct, non-empty categories, got {shown(kind)}")
    if all(NUMBER.fullmatch(name) for name in names) and len({float(name) for name in names}) == len(names):
        return {name: float(name) for name in names}, True
    return {name: float(position) for position, name in enumerate(names)}, False
