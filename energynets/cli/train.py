"""`energynets train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from energynets.cli.options import ConfigFile, Json, Overrides, Quiet, decoder_words, metric_lines, print_json


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, if there is one.")] = False,
    folder: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the model of a configuration, choose its threshold on validation, evaluate it on test.

    Example: energynets train configs/bibtex/spen.yaml --set seed=1 --folder runs/spen-seed1

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
        result = run_training(experiment, folder=folder, resume=resume, progress=display)
    if not first:
        return
    if as_json:
        print_json(result.to_dict())
        return
    split = "test" if "test" in result.metrics else "validation"
    typer.echo(f"{result.name} ({result.kind}, seed {result.seed}) on {split}, {decoder_words(result.threshold)}")
    for line in metric_lines(result.metrics[split]):
        typer.echo(f"  {line}")
    typer.echo(f"{result.parameters:,} weights, trained in {result.train_seconds:.1f} s; the run is in {folder}")
