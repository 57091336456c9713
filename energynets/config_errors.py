"""Why a configuration was refused, in one line: the path of the key, what was expected, what came, the nearest name."""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from energynets.errors import nearest

# pydantic's error type -> what was expected, with the error's context filled in.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "valid Unicode",
    "string_too_short": "text that is not empty",
    "string_too_long": "at most {max_length} characters",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a section of settings",
    "model_attributes_type": "a section of settings",
    "dict_type": "a section of settings",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} at most",
}

# Keys whose rule reads better in words than as the pattern or the union that checks it.
_EXPECTED_OF_KEY = {
    ("device", "string_pattern_mismatch"): "auto, cpu, cuda or cuda:N",
    ("shortlist", "model_type"): "a number of labels, or a section with candidates",
    ("shortlist", "model_attributes_type"): "a number of labels, or a section with candidates",
    ("name", "string_pattern_mismatch"): "letters, digits, '-' and '_', starting with a letter or digit",
}


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The mistake that says most, as `path.of.key: what was expected, what came (nearest valid name)`."""
    mistakes = error.errors(include_url=False)
    # A misspelt key says more than the missing one it stands for.
    first = next((m for m in mistakes if m["type"] == "extra_forbidden"), mistakes[0])
    path, annotation, owner = _walk(first["loc"], root)
    where = ".".join(path)
    # Each arm of a plain union adds its own mistake, and so does a list around a wrong entry.
    paths = {tuple(_walk(m["loc"], root)[0]) for m in mistakes}
    others = [p for p in paths if any(a != b for a, b in zip(p, path, strict=False))]
    known = first["type"] == "extra_forbidden" or first["type"] == "json_invalid"
    more = f" (and {len(others)} more)" if others and not known else ""
    return _one_line(_message(first, where, path, annotation, owner) + more)


def _message(mistake: Any, where: str, path: list[str], annotation: Any, owner: type[BaseModel] | None) -> str:
    kind, context, came = mistake["type"], mistake.get("ctx") or {}, mistake.get("input")
    prefix = f"{where}: " if where else ""
    if kind == "extra_forbidden":
        return f"{prefix}unknown key {path[-1]!r}{nearest(path[-1], owner.model_fields if owner else ())}"
    if kind == "missing":
        return f"{prefix}missing{_what(annotation)}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tags = [tag for option in _sections(annotation) for tag in _tags(option)]
        if kind == "union_tag_not_found" and not isinstance(came, dict):
            return f"{prefix}expected a section of settings with `kind`{_got(came)}"
        if kind == "union_tag_not_found":
            return f"{where + '.' if where else ''}kind: missing; one of {', '.join(sorted(tags))}"
        tag = str(context.get("tag", ""))
        return f"{where + '.' if where else ''}kind: unknown kind {tag!r}{nearest(tag, tags)}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"{prefix}unknown value {_short(came)}{nearest(str(came), valid)}"
    if kind == "value_error":
        # A check over several keys; it starts with the key to change, relative to its section.
        text = str(context.get("error", mistake["msg"]))
        joint = "." if re.match(r"[a-z_0-9.]+: ", text) else ": "
        return f"{where}{joint}{text}" if where else text
    expected = _EXPECTED_OF_KEY.get((path[-1], kind), _EXPECTED.get(kind)) if path else _EXPECTED.get(kind)
    if len(_arms(annotation)) > 1 and not _sections(annotation) and type(None) not in _arms(annotation):
        expected = "a number above 0, or a list of them"  # step_size, the one key that is either
    if expected is None:
        return f"{prefix}{mistake['msg'][:1].lower()}{mistake['msg'][1:]}{_got(came)}"
    return f"{prefix}expected {expected.format(**context)}{_got(came)}"


def _what(annotation: Any) -> str:
    sections = _sections(annotation)
    tags = [tag for section in sections for tag in _tags(section)]
    if len(sections) > 1 and tags:
        return f", a section with kind one of {', '.join(tags)}"
    if len(sections) == 1:
        return f", a section with {', '.join(list(sections[0].model_fields)[:4])}, ..."
    return ""


def _got(value: Any) -> str:
    if isinstance(value, dict):
        return ", got a section"
    return ", got nothing" if value is None else f", got {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())


# pydantic's location of a mistake holds, besides keys and positions, the tag of each tagged union it went through and
# the name of each arm of a plain union. The walk follows the types to tell them apart.


def _walk(location: Sequence[str | int], root: type[BaseModel]) -> tuple[list[str], Any, type[BaseModel] | None]:
    """Path as the user wrote it, annotation there, and the section that holds the last key."""
    annotation: Any = root
    owner: type[BaseModel] | None = None
    path: list[str] = []
    for step in location:
        annotation = _plain(annotation)
        arms = [arm for arm in _arms(annotation) if arm is not type(None)]
        if len(arms) > 1:
            tagged = [arm for arm in arms if step in _tags(arm)]
            if tagged:
                annotation = tagged[0]
                continue
            sequences = [arm for arm in arms if get_origin(_plain(arm)) is tuple]
            if isinstance(step, int) and sequences:
                annotation = sequences[0]
            elif not isinstance(step, int):
                continue  # the name of an arm
        elif arms:
            annotation = _plain(arms[0])
        path.append(str(step))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            owner = annotation
            field: FieldInfo | None = annotation.model_fields.get(str(step))
            annotation = field.annotation if field else None
        elif get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        else:
            annotation = None
    return path, annotation, owner


def _plain(annotation: Any) -> Any:
    return _plain(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _arms(annotation: Any) -> tuple[Any, ...]:
    annotation = _plain(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(arm for option in get_args(annotation) for arm in (_arms(option) or (_plain(option),)))
    return ()


def _sections(annotation: Any) -> list[type[BaseModel]]:
    options = _arms(annotation) or (_plain(annotation),)
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def _tags(option: Any) -> tuple[str, ...]:
    if isinstance(option, type) and issubclass(option, BaseModel) and "kind" in option.model_fields:
        return tuple(get_args(option.model_fields["kind"].annotation))
    return ()
