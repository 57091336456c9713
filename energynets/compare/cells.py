"""One cell of a comparison: one experiment under one seed, trained in a process of its own.

A process each keeps peak memory honest (the operating system counts it per process) and lets one cell fail alone.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import energynets
from energynets.errors import ConfigError

if TYPE_CHECKING:
    from energynets.config import Experiment

_POLL_SECONDS = 0.2


class CompareProgress:
    """Listener of a comparison: override what you want to show."""

    def cell(self, cell: Cell, number: int, cells: int) -> None:
        """Cell `number` of `cells` (from 1) begins."""

    def evaluation(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """A line of the cell's metrics.jsonl."""

    def finished(self, cell: Cell, result: Mapping[str, Any] | None, failure: str | None, kept: bool) -> None:
        """The cell has a result (`kept`: from an earlier session) or a failure."""


@dataclass(frozen=True)
class Cell:
    """An experiment, a seed, and the run folder they belong in.

    Args:
        experiment: to run.
        seed: instead of the experiment's.
        folder: of the run.
        beside: how many run at a time.
        tuning: whether it is a trial: its test metrics are nobody's business.
        trained: folder of a finished run whose weights are these settings' and that was measured otherwise.
    """

    experiment: Experiment
    seed: int
    folder: Path
    beside: int = 1
    tuning: bool = False
    trained: Path | None = None

    @property
    def name(self) -> str:
        """What logs call it."""
        return self.folder.name

    def finished_result(self) -> dict[str, Any] | None:
        """The row of a finished run of these settings and this seed; None where there is none yet.

        Raises:
            ConfigError: the folder holds a run of other settings.
        """
        path = self.folder / "result.json"
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not the result of a run ({error}); remove the folder to run it again") from None
        expected = {"config_hash": self.experiment.hash(), "seed": self.seed}
        for key, value in expected.items():
            if not isinstance(result, dict) or result.get(key) != value:
                came = result.get(key) if isinstance(result, dict) else None
                raise ConfigError(
                    f"{self.folder}: holds a run of other settings ({key} {came}, expected {value}); "
                    "choose another --folder, or remove this one"
                )
        return dict(result)

    def check_unfinished(self) -> None:
        """That a run begun in the folder can go on.

        Raises:
            ConfigError: it was begun with other settings, which are listed.
        """
        if not (self.folder / "config.yaml").exists() or (self.folder / "result.json").exists():
            return
        from energynets.training.run import RunFolder  # and torch with it, which few comparisons need here

        RunFolder(self.folder, writes=False).check_same(self.experiment.model_copy(update={"seed": self.seed}))

    def command(self, config: Path) -> list[str]:
        """The command line that runs the cell."""
        weights = () if self.trained is None else ("--trained", str(self.trained))
        return _train(config, "--set", f"seed={self.seed}", "--folder", str(self.folder), *weights)

    def with_weights(self) -> Cell:
        """Where a run beside it, called alike, has these settings' weights and was measured otherwise: the cell that
        measures them."""
        from energynets.config import Experiment

        wanted = self.experiment.hash(trained=True)
        alike = f"{glob.escape(self.experiment.name)}-*-seed{self.seed}"
        for result in sorted(self.folder.parent.glob(f"{alike}/result.json")):
            folder = result.parent
            kept = any((folder / "checkpoints" / name).exists() for name in ("model.safetensors", "baseline"))
            with contextlib.suppress(ConfigError):  # of another version
                if kept and Experiment.load(folder / "config.yaml").hash(trained=True) == wanted:
                    return replace(self, trained=folder)
        return self

    def run(
        self, config: Path, progress: CompareProgress, stop: threading.Event | None = None
    ) -> tuple[dict[str, Any] | None, str | None]:
        """Train, in a process of its own; gives the result, or why there is none.

        Args:
            config: the experiment's file.
            progress: gets the run's evaluations.
            stop: asks to stop, as Ctrl-C does, where this is not the main thread.

        Raises:
            KeyboardInterrupt: asked to stop; the run has saved itself.
        """
        status, lines = self._carry_out(self.command(config), progress, stop)
        if status == 0 and (result := self.finished_result()) is not None:
            return result, None
        if status < 0:
            name = signal.Signals(-status).name
            return None, f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return None, lines[-1].removeprefix("energynets: ") if lines else f"exit status {status} without a word"

    def _carry_out(
        self, command: list[str], progress: CompareProgress, stop: threading.Event | None
    ) -> tuple[int, list[str]]:
        """Status and words of a process that trains this cell, and maybe others."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as errors:
            status = self._wait(command, errors, progress, stop or threading.Event())
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        if status == 130:
            raise KeyboardInterrupt
        return status, lines

    def _wait(self, command: list[str], errors: IO[bytes], progress: CompareProgress, stop: threading.Event) -> int:
        package = str(Path(energynets.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        # A session of its own: a Ctrl-C in the terminal reaches us alone, and we pass it on once.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**_threads(self.beside), **os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        with _one_interrupt(process):
            lines = _Follower(self.folder / "metrics.jsonl")
            while process.poll() is None:
                if stop.is_set():
                    raise KeyboardInterrupt
                for line in lines.read():
                    progress.evaluation(self, line)
                time.sleep(_POLL_SECONDS)
            for line in lines.read():
                progress.evaluation(self, line)
        return process.returncode


def run_together(
    cells: Sequence[Cell], config: Path, progress: CompareProgress, stop: threading.Event | None = None
) -> None:
    """Train the seeds of one experiment in one process, which starts once and reads the data once.

    Cells that end without a result are for `Cell.run`, which says why.

    Args:
        cells: of one experiment, their folders `<one path>-seed<k>`.
        config, progress, stop: as for `Cell.run`; the first cell's evaluations stand for all.

    Raises:
        KeyboardInterrupt: asked to stop.
    """
    first = cells[0]
    stem = first.folder.with_name(first.folder.name.removesuffix(f"-seed{first.seed}"))
    seeds = ",".join(str(cell.seed) for cell in cells)
    first._carry_out(_train(config, "--seeds", seeds, "--folder", str(stem)), progress, stop)


def _train(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "energynets", "train", str(config), *arguments, "--resume", "--quiet"]


def _threads(beside: int) -> dict[str, str]:
    """Cells side by side share the machine's cores, where the environment does not say otherwise."""
    return {} if beside == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // beside))}


@contextlib.contextmanager
def _one_interrupt(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass an interruption on to the process, once, and wait until it has saved."""
    try:
        yield
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        raise


class _Follower:
    """Whole new lines of a JSON lines file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.position += len(whole)
        found = []
        for line in whole.splitlines():
            # A resumed run cuts its file back, so that we may read from the middle of a line.
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found
