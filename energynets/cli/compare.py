"""`energynets compare`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from energynets.cli.options import Json, Overrides, Quiet, describe, print_json
from energynets.compare.cells import Cell, CompareProgress
from energynets.errors import ConfigError


def compare(
    configs: Annotated[
        list[Path] | None, typer.Argument(metavar="[CONFIG...]", help="YAML files, or one comparison file.")
    ] = None,
    overrides: Overrides = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds 0, 1, ... of each row that depends on one; default 3.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Default comparisons/<name>.")] = None,
    linear: Annotated[
        bool, typer.Option(help="Add a one-vs-rest linear line where no row is linear or nearest neighbours.")
    ] = True,
    reference: Annotated[
        str | None, typer.Option(help="Row that others are tested against; default: the best without an energy.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Runs side by side: sooner done, but their seconds are of a busy machine.")
    ] = 1,
    together: Annotated[
        bool, typer.Option("--together", help="A row's seeds in one process: sooner done, but seconds are shares.")
    ] = False,
    finished: Annotated[
        bool, typer.Option("--finished", help="Train nothing: tables of a comparison file's runs that are done.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train configurations under several seeds and put them in one table; without any, run the demonstration.

    The folder gets table.md, table.csv, results.json and report.html. Called again it keeps finished runs and resumes
    interrupted ones. A comparison file (docs/comparisons.md) names several data sets and what is tuned.

    Example: energynets compare configs/bibtex/[a-z]*.yaml --seeds 3 --folder comparisons/bibtex
    """
    from energynets.compare.comparison import compare as run_comparison
    from energynets.compare.demonstration import demonstration
    from energynets.compare.plan import is_plan
    from energynets.config import Experiment

    if configs and any(is_plan(path) for path in configs):
        if len(configs) > 1:
            raise ConfigError("compare: a comparison file comes alone; it names its configurations itself")
        if reference or not linear:
            raise ConfigError("compare: a comparison file says itself what --reference and --no-linear say: use --set")
        how = {"processes": processes, "together": together, "finished": finished}
        _compare_plan(configs[0], overrides, seeds, folder, how, quiet=quiet, as_json=as_json)
        return
    if finished:
        raise ConfigError("compare: --finished is of a comparison file")
    if configs:
        experiments = [Experiment.load(path, overrides or []) for path in configs]
        folder = folder or Path("comparisons") / _name(configs)
    else:
        experiments = demonstration(overrides or [])
        folder = folder or Path("comparisons") / "demonstration"
    began = time.monotonic()
    watcher = Watcher(experiments[0].training.monitor, quiet=quiet)
    try:
        with watcher, _stopping():
            comparison = run_comparison(
                experiments,
                seeds=seeds or 3,
                folder=folder,
                linear=linear,
                reference=reference,
                processes=processes,
                together=together,
                progress=watcher,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command continues where this one stopped") from None
    if as_json:
        print_json(comparison.to_dict())
    else:
        from energynets.compare.table import print_table

        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        print_table(comparison, console)
        _say_written(console, comparison.folder, f"{time.monotonic() - began:.0f} s; ")
    _exit_of(comparison.failures)


def _compare_plan(
    path: Path,
    overrides: list[str] | None,
    seeds: int | None,
    folder: Path | None,
    how: dict[str, Any],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """A comparison file."""
    from energynets.compare.plan import load_plan
    from energynets.compare.suite import compare_plan
    from energynets.compare.suite_table import to_markdown

    plan, tables = load_plan(path, overrides or [])
    watcher = Watcher(plan.tuning.metric, quiet=quiet)
    try:
        with watcher, _stopping():
            suite = compare_plan(
                plan,
                tables,
                folder=folder,
                seeds=seeds,
                progress=watcher,
                **how,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command continues where this one stopped") from None
    if as_json:
        print_json(suite.to_dict())
    else:
        from energynets.compare.table import print_table

        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        for comparison in suite.comparisons:
            console.print(f"\n{comparison.name}", markup=False)
            print_table(comparison, console)
        if len(suite.comparisons) > 1:
            console.print("\n" + to_markdown(suite), markup=False, soft_wrap=True)
        _say_written(console, suite.folder)
    _exit_of(suite.failures)


def _say_written(console: Console, folder: Path, before: str = "") -> None:
    report = folder / "report.html"
    where = report if report.exists() else folder / "table.md"
    console.print(f"\n{before}written: {where}", markup=False, soft_wrap=True)
    if not report.exists():
        console.print("No report.html: it needs matplotlib and jinja2, pip install 'energynets[report]'", markup=False)


def _exit_of(failures: list[str]) -> None:
    for failure in failures:
        typer.echo(f"energynets: failed: {failure}", err=True)
    if failures:
        raise typer.Exit(1)


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM and SIGHUP end like Ctrl-C, which does so even where a shell started us with it ignored."""
    from energynets.stopping import HANGUP, stopping_signals

    def stop(number: int, frame: object) -> None:
        if number == HANGUP:
            # A closed terminal is told twice, by system and shell: the second would kill a run that saves itself.
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in stopping_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(configs: list[Path]) -> str:
    """The folder that holds them all, or the only file's name."""
    if len(configs) == 1:
        return configs[0].stem
    parents = {path.resolve().parent for path in configs}
    if len(parents) > 1:
        raise ConfigError("compare: the configurations come from several folders; say where to write with --folder")
    return parents.pop().name


class Watcher(CompareProgress):
    """A comparison as it runs: a spinner with the latest epoch on a terminal, a line per run elsewhere."""

    def __init__(self, monitor: str, *, quiet: bool) -> None:
        self.monitor = monitor
        self.console = Console(stderr=True, highlight=False, quiet=quiet, soft_wrap=True)
        self._status: Any = self.console.status("", spinner="dots") if self.console.is_terminal else nullcontext()
        self._cells: dict[Path, tuple[str, float]] = {}  # several run at a time

    def __enter__(self) -> Watcher:
        self._status.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._status.__exit__(*error)

    def cell(self, cell: Cell, number: int, cells: int) -> None:
        """A run begins."""
        name = f"{cell.experiment.name}, trial {cell.name[:8]}" if cell.tuning else cell.name
        where = f"[{number}/{cells}] {name}"
        self._cells[cell.folder] = where, time.monotonic()
        self._show(where)

    def evaluation(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """A run has ended an epoch."""
        self._show(f"{self._cells[cell.folder][0]}  {describe(line, self.monitor)}")

    def finished(self, cell: Cell, result: Mapping[str, Any] | None, failure: str | None, kept: bool) -> None:
        """A run has ended."""
        where, began = self._cells.pop(cell.folder)
        if result is None:
            text = f"failed: {failure}"
        else:
            test = None if cell.tuning else result["metrics"].get("test")
            metrics = test or result["metrics"].get("validation") or {}
            names = {"precision@1": "P@1", "f1_example": "F1"}
            text = "  ".join(f"{short} {100 * metrics[name]:.2f}" for name, short in names.items() if name in metrics)
            text += "  (kept)" if kept else f"  {time.monotonic() - began:.0f} s"
        self.console.print(f"{where}  {text}", markup=False)

    def _show(self, text: str) -> None:
        if hasattr(self._status, "update"):
            # Square brackets would be read as markup.
            self._status.update(text.replace("[", r"\["))
