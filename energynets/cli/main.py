"""Verbs, and how each ending is told: exit 0 done, 1 our failure, 2 the user's, 130 interrupted."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from energynets import __version__
from energynets.cli import bench, compare, config, data, evaluate, memory, predict, train
from energynets.cli.once import first_to_say
from energynets.errors import EnergyNetsError, InferenceError, NotWrittenError, TrainingError

# Not in typer's public names; its parent of all usage errors, whichever click it stands on.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Train, compare and time energy networks for structured prediction: SPEN, ICNN, XML-CNN, Kim-CNN.",
    epilog="A first look: energynets compare (a demonstration of a few minutes, without any download).",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("memory")(memory.memory)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.command("bench")(bench.bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"energynets {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks (may stand anywhere).")] = False,
) -> None:
    pass


# GNU OpenMP lets a thread that waits for the others spin for milliseconds before it sleeps. Where other programs keep
# the cores busy, it spins instead of those it waits for: training took 15 times as long (2 cores, load of 10). It
# reads this when torch loads it, so it is set before, and only where nobody has said what waiting threads should do;
# not for `bench`: its rivals are to run as their users have them.
_SPIN = ("GOMP_SPINCOUNT", "1000")
# Gradients of more than 32 MB go back to the system after each step and come fresh from it in the next, 4 kB at a
# time: a fifth of a step at 46 million weights. torch asks for pages of 2 MB if it reads this before its first tensor
# is made.
_LARGE_PAGES = ("THP_MEM_ALLOC_ENABLE", "1")


# How an interrupted verb goes on, where it has not said so itself.
_GOES_ON = {
    "train": "; the same command with --resume continues the run",
    "data": "; the same command again goes on with what has come",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        arguments: default `sys.argv[1:]`.
    """
    status = _run(app, "energynets", arguments, default=["--help"])
    if arguments is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _end_at_once(status)
    return status


def _end_at_once(status: int) -> None:
    """Of several processes: a thread of gloo's may still have to let go of a tensor of the last collective, and aborts
    the process where it asks for the interpreter while that is being taken down (pytorch/pytorch#38228)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(function: Callable[..., None], name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a function as a command of its own, with the same endings; returns the exit status.

    Args:
        function: its arguments are the options, its docstring the help.
        name: what help and errors call it.
        arguments: default `sys.argv[1:]`.
    """
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command()(function)
    return _run(single, name, arguments)


def _run(application: typer.Typer, name: str, arguments: Sequence[str] | None, default: Sequence[str] = ()) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["bench"]:
        os.environ.setdefault(*_LARGE_PAGES)
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault(*_SPIN)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"] or list(default)
    try:
        _invoke(application, name, given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing to say, and nobody to flush to at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as error:
        if getattr(error, "told", False):
            return 130
        return _say(str(error) or f"interrupted{_GOES_ON.get(given[0] if given else '', '')}", 130)
    except EnergyNetsError as error:
        if debug:
            traceback.print_exc()
        status = 1 if isinstance(error, TrainingError | InferenceError | NotWrittenError) else 2
        return _say_once(error, str(error), status)
    except OSError as error:
        if debug:
            traceback.print_exc()
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return _say_once(error, what, 1)
    except Exception as error:
        if isinstance(error, typer.Exit):
            return int(error.exit_code)
        if isinstance(error, _UsageError):
            return _say_once(error, _usage(error), 2)
        return _failed(error, debug)
    return 0


def _invoke(application: typer.Typer, name: str, arguments: list[str]) -> None:
    command = typer.main.get_command(application)
    # Not `command.main`: it turns Ctrl-C and closed pipes into endings of its own.
    with command.make_context(name, arguments) as context:
        command.invoke(context)


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    verb = context.command_path if context else "energynets"
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return f"{verb}: {text.rstrip('.')} (see {verb} --help)"


def _failed(error: Exception, debug: bool) -> int:
    where = "--debug prints the traceback"
    if debug:
        traceback.print_exc()
        where = "the traceback is above"
    else:
        try:
            name = f"energynets-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
            log = Path(tempfile.gettempdir()) / name
            log.write_text(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}", encoding="utf-8")
            where = f"the traceback is in {log}"
        except OSError:
            pass
    return _say(f"failed, and not by your doing: {type(error).__name__}: {error}; {where}", 1)


def _say_once(error: Exception, message: str, status: int) -> int:
    """`_say`, by one of several processes that stop for one reason; those that have met know by whom."""
    told = getattr(error, "told", None)
    if told is not None:
        return status if told else _say(message, status)
    with first_to_say(message) as first:
        return _say(message, status) if first else status


def _say(message: str, status: int) -> int:
    prefix = "" if message.startswith("energynets") else "energynets: "
    line = " ".join(message.split())
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{prefix}{line}\n")
    return status
