"""YAML without surprises: duplicate keys are errors, `1e-3` is a number, only true and false are booleans.

Files may extend one another (`extends: base.yaml`) and take overrides (`training.batch_size=32`). What comes out is
plain values: mappings with names as keys, lists, text, numbers, booleans and null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import yaml

from energynets.errors import ConfigError

# What YAML 1.2 calls the core schema, with Python's underscores in numbers. YAML 1.1, PyYAML's default, reads `no` as
# false, `1:30` as 90, `010` as 8 and `1e-3` as text.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?\d[\d_]*", list("-+0123456789")),
    "float": (
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.inf|\.Inf|\.INF)"
        r"|\.nan|\.NaN|\.NAN",
        list("-+.0123456789"),
    ),
}


class _StrictLoader(yaml.SafeLoader):
    """Reads `_SCALARS` and refuses every other tag."""


class _StrictDumper(yaml.SafeDumper):
    """Quotes exactly what `_StrictLoader` would not read back as text, and writes repeated values out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


_StrictLoader.yaml_implicit_resolvers = {}
_StrictDumper.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_StrictLoader, _StrictDumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def _mapping(loader: _StrictLoader, node: yaml.Node) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: expected a name as key, got {key!r}")
        if key in values:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: duplicate key {key!r}")
        values[key] = loader.construct_object(value_node, deep=True)
    return values


def _scalar(read: Callable[[str], Any]) -> Callable[[_StrictLoader, yaml.Node], Any]:
    def construct(loader: _StrictLoader, node: yaml.Node) -> Any:
        text = str(node.value)
        try:
            return read(text.replace("_", "").lower())
        except (ValueError, KeyError):
            raise ConfigError(f"line {node.start_mark.line + 1}: cannot read {text[:40]!r} as a value") from None

    return construct


def _number(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_CONSTRUCTORS: dict[str, Callable[[Any, Any], Any]] = {
    "null": lambda loader, node: None,
    "bool": _scalar({"true": True, "false": False}.__getitem__),
    "int": _scalar(int),
    "float": _scalar(_number),
    "str": lambda loader, node: loader.construct_scalar(node),
    "seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    "map": _mapping,
}
for _name, _construct in _CONSTRUCTORS.items():
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)


def _refuse(loader: _StrictLoader, node: yaml.Node) -> Hashable:
    raise ConfigError(
        f"line {node.start_mark.line + 1}: tags like {node.tag!r} are not used here; write the value alone"
    )


for _tag in (None, *(f"tag:yaml.org,2002:{name}" for name in ("binary", "timestamp", "omap", "pairs", "set"))):
    _StrictLoader.add_constructor(_tag, _refuse)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds Unicode's line separators as it folds spaces, except in double quotes.
    style = '"' if any(separator in text for separator in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_StrictDumper.add_representer(str, _text)


def parse_yaml(text: str, source: str) -> Any:
    """YAML -> plain values. `source` names the text in errors.

    Raises:
        ConfigError: not YAML, or a duplicate key, with the line.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source}:{where} not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deep") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def format_yaml(tree: Any) -> str:
    """Plain values -> YAML that `parse_yaml` reads back as the same values."""
    return yaml.dump(tree, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True, width=120)


def read_yaml(path: str | Path, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A configuration file with its `extends: other.yaml` (relative to it) merged in, mappings key by key.

    A mapping with another `kind` than the one it extends replaces it whole. `name` is not inherited.

    Raises:
        ConfigError: missing file, not a mapping, a circle of `extends`.
    """
    path = Path(path)
    if path.resolve() in _chain:
        raise ConfigError(f"{path}: extends: the files extend one another in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        came = "an empty file" if tree is None else type(tree).__name__
        raise ConfigError(f"{path}: expected a mapping of settings, got {came}")
    if "extends" not in tree:
        return tree
    base = tree.pop("extends")
    if not isinstance(base, str) or not base or "\0" in base:
        raise ConfigError(f"{path}: extends: expected the path of another configuration, got {base!r}")
    parent = read_yaml(path.parent / base, (*_chain, path.resolve()))
    parent.pop("name", None)
    return _merge(parent, tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    if "kind" in over and over["kind"] != base.get("kind", over["kind"]):
        return over
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one value of the tree in place: `training.batch_size=32`, `training.stages.0.epochs=5`.

    Sections on the way are made; a list entry must exist.

    Raises:
        ConfigError: not `path=value`, or a path through something that is not a section.
    """
    path, separator, text = override.partition("=")
    override = " ".join(override.split())
    override = override if len(override) <= 80 else override[:77] + "..."
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {override}: expected path=value, e.g. training.batch_size=32")
    value = parse_yaml(text, f"--set {override}")
    node: Any = tree
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            where: Any = _position(node, key, override)
        else:
            where = key
            if not last and node.get(key) is None:
                node[key] = [] if keys[depth + 1].isdigit() else {}  # a list there is empty, and says so below
        if last:
            node[where] = value
            return
        if not isinstance(node[where], dict | list):
            raise ConfigError(f"--set {override}: {'.'.join(keys[: depth + 1])} is a value, not a section")
        node = node[where]


def _position(node: list[Any], key: str, override: str) -> int:
    if not (key.isascii() and key.isdigit() and int(key) < len(node)):
        expected = f"a position from 0 to {len(node) - 1}" if node else "no position, there is no list or an empty one"
        raise ConfigError(f"--set {override}: expected {expected}, got {key!r}")
    return int(key)
