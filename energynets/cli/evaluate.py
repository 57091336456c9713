"""`energynets evaluate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from energynets.cli.options import Json, Quiet, RunArgument, decoder_words, metric_lines, print_json


def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    observed: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Show the model this share of the labels, and measure the rest."),
    ] = None,
    decoding: Annotated[
        str | None,
        typer.Option(help="global, per_label or expected_f1, chosen on validation anew; default: as the run chose."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a finished run on a split of its data, with the decoder it chose on validation.

    For an energy network, also how far inference got: its distance from the minimum at most, where the energy is
    convex, and the norm of dE/dy. Both are of all labels at once: with model.label_chunk or model.shortlist there are
    none.

    With --observed, the decoder is the one that is best on validation where as much is shown.

    Example: energynets evaluate runs/spen --decoding expected_f1
    """
    from energynets.data.dataset import SPLITS
    from energynets.errors import ConfigError, nearest

    if split not in SPLITS:
        raise ConfigError(f"--split: unknown split {split!r}{nearest(split, SPLITS)}")
    from energynets.cli.certificates import Certificates, in_words
    from energynets.cli.progress import Display
    from energynets.metrics import Calibration, calibration
    from energynets.training import evaluate as measure
    from energynets.training import load_run
    from energynets.training.completion import reveals

    trained = load_run(run)
    found: list[Calibration | None] = []
    with Display("loss", quiet=quiet) as display:
        certificates = Certificates()
        metrics = measure(
            trained,
            split=split,
            decoding=decoding,
            on_batch=lambda done, total: display.scoring(split, done, total),
            on_inference=certificates,
            on_scores=lambda scores, labels: found.append(calibration(scores, labels) if scores.any_ranked else None),
            observed=observed,
        )
    reliability = found[0]
    summary = certificates.summary()
    draws = len(reveals(observed, split, trained.experiment.evaluation.draws))
    chosen = trained.decoder_at(observed) if decoding is None else None
    kind = decoding or trained.experiment.evaluation.decoding
    if as_json:
        row: dict[str, Any] = {"run": str(run), "split": split, "threshold": chosen and chosen.row()["value"]}
        row |= {"decoding": chosen.kind if chosen else kind, "metrics": metrics}
        row |= {} if observed is None else {"observed": observed, "draws": draws}
        row |= {"calibration": reliability and {"split": split, **reliability.to_dict()}}
        if certificates.gradient_norms:
            row |= {"certificate": summary or certificates.note, "gradient_norm": certificates.gradient_summary()}
        print_json(row)
        return
    rest = "" if observed is None else f", {100 * observed:g} % of the labels shown"
    rest += f" in {draws} draws" if draws > 1 else ""
    decoder = f"decoding {kind}" if chosen is None else decoder_words(chosen.row())
    typer.echo(f"{trained.experiment.name} on {split}{rest}, {decoder}")
    for line in metric_lines(metrics):
        typer.echo(f"  {line}")
    if reliability is None:
        typer.echo("  no calibration: no label of any document was to be ranked")
    else:
        typer.echo(
            f"  expected calibration error of {reliability.of}: {100 * reliability.ece:.2f} (equal width), "
            f"{100 * reliability.ece_equal_mass:.2f} (equal mass); Brier score {100 * reliability.brier:.2f}"
        )
    if summary is not None:
        typer.echo(f"  certificate, E(y) - min E at most: {in_words(summary)}")
    elif certificates.note is not None:
        typer.echo(f"  {certificates.note}")
    norms = certificates.gradient_summary()
    if norms is not None:
        typer.echo(f"  gradient norm |dE/dy|: {in_words(norms)}")
