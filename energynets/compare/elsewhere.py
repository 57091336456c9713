"""The table of a data set whose runs are on another machine: read from the results.json that was written there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from energynets.compare.comparison import DETERMINISTIC, Comparison, Row, Tested, traits
from energynets.compare.statistics import Difference
from energynets.config import Experiment
from energynets.errors import ConfigError
from energynets.strict_yaml import parse_yaml


def table_elsewhere(
    folder: Path, experiments: Sequence[Experiment], seeds: Sequence[int], reference: str | None
) -> Comparison | None:
    """The table as it was written, where a folder has its results.json and no runs.

    Tests over documents need the documents of all runs, which stay where they are: what was tested there is taken as it
    is. So a large comparison can be shared out by data set, or grow from day to day, by handing on these files alone.

    Args:
        folder: of a data set.
        experiments: the rows that the table must have, and no others: settings are compared as today's defaults
            complete them.
        seeds: of rows that depend on one.
        reference: what the rows must have been compared with; None for what was chosen there.

    Raises:
        ConfigError: the file is of other rows, settings, seeds or reference, or cannot be read.
    """
    path = folder / "results.json"
    if (folder / "runs").exists() or not path.exists():
        return None
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        there = {row["name"]: _experiment(row, path) for row in written["rows"]}
        found = _comparison(folder, written, there)
    except ConfigError:  # a ValueError too, of a row's settings
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not the table of a data set as `compare` writes it ({type(error).__name__}: {error})"
        ) from None
    if why := _other(found, there, experiments, seeds, reference):
        raise ConfigError(f"{path}: its runs are not in {folder}, and {why}; remove it to run them here")
    return found


def _experiment(row: Mapping[str, Any], path: Path) -> Experiment:
    """A row's settings, completed by today's defaults."""
    source = f"{path}: config of {row['name']}"
    return Experiment.from_tree(parse_yaml(row["config"], source), source=source)


def _comparison(folder: Path, written: Mapping[str, Any], there: Mapping[str, Experiment]) -> Comparison:
    return Comparison(
        name=folder.name,
        folder=folder,
        rows=tuple(_row(row, there[row["name"]]) for row in written["rows"]),
        seeds=tuple(written["seeds"]),
        data=written["data"],
        ks=tuple(written["ks"]),
        threshold_rule=written["threshold_rule"],
        environment=written["environment"],
        created=written["created"],
        decoding=written["decoding"],
        monitor=written["monitor"],
        reference=written["reference"],
        observed=written["observed"],
        draws=written.get("draws", 1),
        processes=written["processes"],
        notes=tuple(written["notes"]),
        tested=Tested(*(tuple(Difference(**each) for each in written[key]) for key in ("differences", "gains"))),
    )


def _row(written: Mapping[str, Any], experiment: Experiment) -> Row:
    return Row(
        name=written["name"],
        kind=written["kind"],
        results=tuple(written["results"]),
        failures={int(seed): why for seed, why in written["failures"].items()},
        config=written["config"],
        **traits(experiment),
    )


def _other(
    found: Comparison,
    there: Mapping[str, Experiment],
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    reference: str | None,
) -> str:
    """In what it is not the table that is asked for; "" where it is."""
    rows, wanted = {row.name: row for row in found.rows}, {experiment.name: experiment for experiment in experiments}
    for name in dict.fromkeys((*wanted, *rows)):
        if name not in rows or name not in wanted:
            return f"only {'it' if name in rows else 'the comparison'} has a row {name!r}"
        if there[name].hash() != wanted[name].hash():
            return f"its row {name!r} had other settings"
        done = [result["seed"] for result in rows[name].results]
        needed = list(seeds[:1] if wanted[name].model.kind in DETERMINISTIC else seeds)
        if done != needed:
            return f"its row {name!r} has results of seeds {done}, expected {needed}"
    if reference is not None and reference != found.reference:
        return f"its rows were compared with {found.reference!r}, not {reference!r}"
    return ""
