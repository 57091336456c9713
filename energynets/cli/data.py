"""`energynets data list|info|fetch|make`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from energynets.cli.options import Json, Quiet, print_json

app = typer.Typer(help="Named data sets, and planted ones.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `energynets data list` has it.", show_default=False)]
Root = Annotated[
    str | None,
    typer.Option(help="Data folder; default $ENERGYNETS_DATA, else ~/.cache/energynets.", show_default=False),
]
