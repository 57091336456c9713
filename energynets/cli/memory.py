"""`energynets memory`."""

from __future__ import annotations

from typing import Annotated

import typer

from energynets.cli.options import ConfigFile, Json, Overrides, print_json


def memory(
    config: ConfigFile,
    overrides: Overrides = None,
    inputs: Annotated[
        int | None, typer.Option(min=1, help="D of tables or V of tokens, where the data are not here.")
    ] = None,
    labels: Annotated[int | None, typer.Option(min=1, help="L, where the data are not here.")] = None,
    as_json: Json = False,
) -> None:
    """Count the weights of a configuration by component, and the bytes of training it; allocates nothing of that size.

    Example: energynets memory configs/memory-case-study.yaml
    """
    from energynets.config import Experiment

    experiment = Experiment.load(config, overrides or [])
    from energynets.memory import estimate, report_lines, sizes_of

    needed = estimate(experiment, sizes_of(experiment, inputs=inputs, labels=labels))
    if as_json:
        print_json(needed.to_dict())
        return
    for line in report_lines(needed):
        typer.echo(line)
