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

    For an energy network, also how far its answers are from the minimum at most, where the energy is convex.

    Example: energynets evaluate runs/spen --split validation
    """
    from energynets.data.dataset import SPLITS
    from energynets.errors import ConfigError, nearest

    if split not in SPLITS:
        raise ConfigError(f"--split: unknown split {split!r}{nearest(split, SPLITS)}")
    from energynets.cli.certificates import Certificates
    from energynets.cli.progress import Display
    from energynets.metrics import Calibration, calibration
    from energynets.training import evaluate as measure
    from energynets.training import load_run

    trained = load_run(run)
    found: list[Calibration] = []
    with Display("loss", quiet=quiet) as display:
        certificates = Certificates()
        metrics = measure(
            trained,
            split=split,
            on_batch=lambda done, total: display.scoring(split, done, total),
            on_inference=certificates,
            on_scores=lambda scores, labels: found.append(calibration(scores, labels)),
        )
    reliability = found[0]
    summary = certificates.summary()
    if as_json:
        row = {"run": str(run), "split": split, "threshold": trained.threshold, "metrics": metrics}
        row |= {"calibration": {"split": split, **reliability.to_dict()}}
        print_json(row | ({"certificate": summary or certificates.note} if summary or certificates.note else {}))
        return
    typer.echo(f"{trained.experiment.name} on {split}, threshold {trained.threshold:.4f}")
    for line in metric_lines(metrics):
        typer.echo(f"  {line}")
    typer.echo(
        f"  expected calibration error of {reliability.of}: {100 * reliability.ece:.2f} (equal width), "
        f"{100 * reliability.ece_equal_mass:.2f} (equal mass); Brier score {100 * reliability.brier:.2f}"
    )
    if summary is not None:
        numbers = "  ".join(f"{name} {value:.2e}" for name, value in summary.items())
        typer.echo(f"  certificate, E(y) - min E at most: {numbers}")
    elif certificates.note is not None:
        typer.echo(f"  {certificates.note}")
