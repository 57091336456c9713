"""`energynets train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from energynets.cli.options import ConfigFile, Json, Overrides, Quiet, decoder_words, metric_lines, print_json
from energynets.errors import ConfigError

if TYPE_CHECKING:
    from energynets.training import RunResult


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, if there is one.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Several seeds in one process: how many (0, 1, ...), or which (3,5). Folders end in -seed<k>."
        ),
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            help="A finished run of the same settings but for evaluation.observed, draws and decoding: its weights are "
            "measured, nothing is trained."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the model of a configuration, choose its threshold on validation, evaluate it on test.

    Example: energynets train configs/bibtex/spen.yaml --set seed=1 --folder runs/spen-seed1

    Several seeds: --seeds 5 trains seeds 0 to 4, all at once where that is faster: small networks on a CPU

    Several processes: torchrun --nproc-per-node 2 -m energynets train CONFIG --set training.parallel.labels=2
    """
    from energynets.config import Experiment

    experiment = Experiment.load(config, overrides or [])
    from energynets.cli.progress import Display
    from energynets.parallel.launch import is_first
    from energynets.training import train as run_training

    folder = folder or Path("runs") / experiment.name
    first = is_first()  # under torchrun one process speaks for all
    with Display(experiment.training.monitor, quiet=quiet or not first) as display:
        if seeds is None:
            found = {folder: run_training(experiment, folder=folder, resume=resume, progress=display, trained=trained)}
        elif trained is not None:
            raise ConfigError("--trained: is one run's weights, and --seeds asks for several")
        else:
            from energynets.training.seeds import train_in_one_process

            chosen = _seeds(seeds)
            folders = [folder.with_name(f"{folder.name}-seed{seed}") for seed in chosen]
            results = train_in_one_process(experiment, chosen, folders, resume=resume, progress=display)
            found = dict(zip(folders, results, strict=True))
    if not first:
        return
    if as_json:
        rows = [result.to_dict() for result in found.values()]
        print_json(rows[0] if seeds is None else rows)
        return
    for where, result in found.items():
        _say(result, where)


def _seeds(text: str) -> list[int]:
    """`3` -> 0, 1, 2; `3,5` -> 3, 5.

    Raises:
        ConfigError: neither, or a seed that no experiment can have.
    """
    from energynets.config import SEED_LIMIT

    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or (len(parts) == 1 and int(text) == 0):
        raise ConfigError(f"--seeds: expected how many, as 5, or which, as 3,5; got {text!r}")
    last = int(text) - 1 if len(parts) == 1 else max(map(int, parts))
    if last >= SEED_LIMIT:
        raise ConfigError(f"--seeds: expected seeds from 0 to {SEED_LIMIT - 1}, got {last}")
    return list(range(int(text))) if len(parts) == 1 else list(dict.fromkeys(map(int, parts)))


def _say(result: RunResult, folder: Path) -> None:
    split = "test" if "test" in result.metrics else "validation"
    typer.echo(f"{result.name} ({result.kind}, seed {result.seed}) on {split}, {decoder_words(result.threshold)}")
    for line in metric_lines(result.metrics[split]):
        typer.echo(f"  {line}")
    typer.echo(f"{result.parameters:,} weights, trained in {result.train_seconds:.1f} s; the run is in {folder}")
