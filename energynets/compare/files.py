"""The files of a comparison: table.md, table.csv, results.json, report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from energynets.compare import suite_table, table
from energynets.errors import MissingExtraError

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison
    from energynets.compare.suite import Suite


def write(comparison: Comparison) -> list[Path]:
    """Write them all; report.html only where its libraries are installed. Gives the paths written."""
    from energynets.compare.report import to_html

    texts = {
        "table.md": table.to_markdown(comparison),
        "table.csv": table.to_csv(comparison),
        "results.json": _json(comparison.to_dict()),
    }
    return _write(comparison.folder, texts, lambda: to_html(comparison))


def write_suite(suite: Suite) -> list[Path]:
    """The same over several data sets, without the csv."""
    from energynets.compare.report.suite import to_html

    texts = {"table.md": suite_table.to_markdown(suite), "results.json": _json(suite.to_dict())}
    return _write(suite.folder, texts, lambda: to_html(suite))


def _json(tree: Mapping[str, object]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _write(folder: Path, texts: Mapping[str, str], report: Callable[[], str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return write_texts(folder, {**texts, "report.html": report()})
    except MissingExtraError:
        (folder / "report.html").unlink(missing_ok=True)  # of an earlier session, and no longer true
        return write_texts(folder, texts)


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Each text, by its name, whole or not at all. Gives the paths written."""
    for name, text in texts.items():
        temporary = folder / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(folder / name)
    return [folder / name for name in texts]
