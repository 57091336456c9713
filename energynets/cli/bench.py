"""`energynets bench`."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from energynets.cli.bars import Bars
from energynets.cli.options import Json, Quiet, print_json
from energynets.errors import ConfigError, MissingExtraError


def bench(
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            "-k",
            help="Only cases with all these words in their names, e.g. 'spen T10'; given again: or these.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few small shapes, under two minutes.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every contestant; default all cores.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write a JSON file, and the plots beside it.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Time training steps and inference against autograd, torchopt, higher and jax, those that are installed.

    It belongs to a checkout of the repository. All contestants get the same numbers, gradients are compared before
    clocks are, and every speed is printed with its error and the machine it was measured on.

    Example: energynets bench --quick --save benchmarks/results/laptop.json
    """
    harness, cases, timing, table = (_part(name) for name in ("harness", "cases", "timing", "table"))
    wanted = cases.select(cases.quick() if quick else cases.full(), *(select or [""]))
    if save is not None and not save.parent.is_dir():
        raise ConfigError(f"bench: no folder {save.parent} to write {save.name} to")
    began = time.monotonic()
    with Bars(quiet=quiet) as bars:
        result = harness.run(
            wanted,
            budget=timing.QUICK if quick else timing.Budget(),
            threads=threads,
            tell=lambda done, total, note: bars.show("bench", done, total, note),
            finished=lambda result: _write(save, result),
        )
    result["seconds"] = time.monotonic() - began
    _write(save, result)
    if as_json:
        print_json(result)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
        table.print_table(result, console)
        written = [save, *_plots(save, result)] if save else []
        for line in (f"{result['seconds']:.0f} s", *(f"written: {path}" for path in written)):
            console.print(line, markup=False, soft_wrap=True)
    failed = harness.failures(result)
    for failure in failed:
        typer.echo(f"energynets: {failure}", err=True)
    if failed:
        raise typer.Exit(1)


def _part(name: str) -> Any:
    """A module of the checkout's `benchmarks/`, which no package brings."""
    import energynets

    root = Path(energynets.__file__).resolve().parents[1]
    if not (root / "benchmarks" / "harness.py").exists():
        raise ConfigError(
            f"bench: no benchmarks in {root / 'benchmarks'}; they come with a checkout of the repository, not a package"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"benchmarks.{name}")


def _write(save: Path | None, result: Any) -> None:
    if save is not None:
        save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _plots(save: Path, result: Any) -> list[Path]:
    try:
        return _part("plots").write_plots(result, save)
    except MissingExtraError as error:
        typer.echo(f"no plots: {error}", err=True)
        return []
