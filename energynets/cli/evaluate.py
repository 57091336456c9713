"""`energynets evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from energynets.cli.options import Json, Quiet, RunArgument, metric_lines, print_json


def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a finished run on a split of its data, with the threshold it chose on validation.

    Example: energynets evaluate runs/spen --split validation
    """
    from energynets.data.dataset import SPLITS
    from energynets.errors import ConfigError, nearest

    if split not in SPLITS:
        raise ConfigError(f"--split: unknown split {split!r}{nearest(split, SPLITS)}")
    from energynets.cli.progress import Display
    from energynets.training import evaluate as measure
    from energynets.training import load_run

    trained = load_run(run)
    with Display("loss", quiet=quiet) as display:
        metrics = measure(trained, split=split, on_batch=lambda done, total: display.scoring(split, done, total))
    if as_json:
        print_json({"run": str(run), "split": split, "threshold": trained.threshold, "metrics": metrics})
        return
    typer.echo(f"{trained.experiment.name} on {split}, threshold {trained.threshold:.4f}")
    for line in metric_lines(metrics):
        typer.echo(f"  {line}")
