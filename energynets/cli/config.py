"""`energynets config show|check|schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from energynets.cli.options import ConfigFile, Json, Overrides, print_json

app = typer.Typer(help="Look at configurations.", rich_markup_mode=None)


@app.command()
def show(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print a configuration with every default written out.

    Example: energynets config show configs/bibtex/spen.yaml --set seed=1
    """
    from energynets.config import Experiment

    experiment = Experiment.load(config, overrides or [])
    if as_json:
        print_json(experiment.model_dump(mode="json"))
    else:
        typer.echo(experiment.to_yaml(), nl=False)


@app.command()
def check(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="YAML files.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Check configurations and comparison files; the first mistake of each goes to stderr.

    Example: energynets config check configs/bibtex/[a-z]*.yaml
    """
    from energynets.compare.plan import is_plan
    from energynets.config import Experiment
    from energynets.errors import ConfigError

    mistakes = 0
    for path in configs:
        try:
            if is_plan(Path(path)):
                typer.echo(f"{path}: fine, {_check_plan(path, overrides or [])}")
                continue
            experiment = Experiment.load(path, overrides or [])
            _check_catalogue_name(experiment, path)
        except ConfigError as error:
            mistakes += 1
            typer.echo(f"energynets: {error}", err=True)
        else:
            typer.echo(f"{path}: fine, {experiment.model.kind}, config hash {experiment.hash()}")
    if mistakes:
        raise typer.Exit(2)


def _check_plan(path: str, overrides: list[str]) -> str:
    """What a comparison file asks for, its configurations and search spaces checked."""
    from energynets.compare.plan import load_plan

    plan, tables = load_plan(path, overrides)
    for rows in tables.values():
        for row in rows:
            _check_catalogue_name(row.experiment, path)
    tuned = sum(bool(row.search) for row in plan.rows)
    return (
        f"{len(plan.rows)} rows ({tuned} tuned) on {len(tables)} data set{'s' * (len(tables) > 1)}, {plan.seeds} seeds"
    )


def _check_catalogue_name(experiment: Any, path: str) -> None:
    from energynets.errors import ConfigError, DataError

    if experiment.data.format is not None or experiment.data.planted is not None:
        return  # a name of the user's own
    from energynets.data.catalogue import find

    try:
        find(experiment.data.name)
    except DataError as error:
        raise ConfigError(f"{path}: data.name: {error}") from None


@app.command()
def schema() -> None:
    """Print the JSON schema of configuration files, for editors.

    Example: energynets config schema > energynets.schema.json
    """
    from energynets.config import Experiment

    print_json(Experiment.json_schema())
