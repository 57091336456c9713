"""A template of this folder and what it is filled with -> one page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from energynets import __version__
from energynets.errors import MissingExtraError

_FOLDER = Path(__file__).parent


def render(template: str, title: str, context: Mapping[str, Any]) -> str:
    """A page of this folder.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "report", "report.html") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(context, title=title, style=style, version=__version__)
