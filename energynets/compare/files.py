"""The files of a comparison: table.md, table.csv, results.json, report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from energynets.compare.table import to_csv, to_markdown
from energynets.errors import MissingExtraError

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison


def write(comparison: Comparison) -> list[Path]:
    """Write them all; report.html only where its libraries are installed. Gives the paths written."""
    folder = comparison.folder
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "table.md": to_markdown(comparison),
        "table.csv": to_csv(comparison),
        "results.json": json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n",
    }
    try:
        from energynets.compare.report import to_html

        written["report.html"] = to_html(comparison)
    except MissingExtraError:
        (folder / "report.html").unlink(missing_ok=True)  # of an earlier session, and no longer true
    return write_texts(folder, written)


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Each text, by its name, whole or not at all. Gives the paths written."""
    for name, text in texts.items():
        temporary = folder / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(folder / name)
    return [folder / name for name in texts]
