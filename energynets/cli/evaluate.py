"""`energynets evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from energynets.cli.options import Json, Quiet, RunArgument, metric_lines, print_json


def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    observed: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Show the model this share of the labels, and measure the rest."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a finished run on a split of its data, with the threshold it chose on validation.

    For an energy network, also how far its answers are from the minimum at most, where the energy is convex.

    With --observed, the threshold is the one that is best on validation where as much is shown.

    Example: energynets evaluate runs/spen --split validation
    """
    from energynets.data.dataset import SPLITS
    from energynets.errors import ConfigError, nearest

    if split not in SPLITS:
        raise ConfigError(f"--split: unknown split {split!r}{nearest(split, SPLITS)}")
    from energynets.cli.certificates import Certificates
    from energynets.cli.progress import Display
    from energynets.training import evaluate as measure
    from energynets.training import load_run

    trained = load_run(run)
    with Display("loss", quiet=quiet) as display:
        certificates = Certificates()
        metrics = measure(
            trained,
            split=split,
            on_batch=lambda done, total: display.scoring(split, done, total),
            on_inference=certificates,
            observed=observed,
        )
    threshold = trained.threshold_at(observed)
    summary = certificates.summary()
    if as_json:
        row = {"run": str(run), "split": split, "threshold": threshold, "metrics": metrics}
        row |= {} if observed is None else {"observed": observed}
        print_json(row | ({"certificate": summary or certificates.note} if summary or certificates.note else {}))
        return
    rest = "" if observed is None else f", {100 * observed:g} % of the labels shown"
    without = "the best on validation" if "validation" in trained.result.metrics else "0.5"
    chosen = without if threshold is None else f"{threshold:.4f}"
    typer.echo(f"{trained.experiment.name} on {split}{rest}, threshold {chosen}")
    for line in metric_lines(metrics):
        typer.echo(f"  {line}")
    if summary is not None:
        numbers = "  ".join(f"{name} {value:.2e}" for name, value in summary.items())
        typer.echo(f"  certificate, E(y) - min E at most: {numbers}")
    elif certificates.note is not None:
        typer.echo(f"  {certificates.note}")
