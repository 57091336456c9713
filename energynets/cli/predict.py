"""`energynets predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energynets.cli.options import Json, RunArgument

if TYPE_CHECKING:
    from energynets.training import TrainedRun


def predict(
    run: RunArgument,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Text, a document a line (- is stdin), or a data file.", show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, help="Labels of each document.")] = 5,
    file_format: Annotated[
        str | None, typer.Option("--format", help="Reader of the file; default: lines of text, or the run's own format.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """The most probable labels of new documents; those above the run's threshold are marked with *.

    Example: echo "wheat exports rise" | energynets predict runs/reuters-spen - --top 3
    """
