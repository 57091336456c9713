"""A comparison file: models x data sets x seeds, and search spaces for what is tuned.

name: small
data: [{name: bibtex}, {name: yeast}]
rows:
  - config: ../bibtex/classifier.yaml
    search: {training.stages.0.optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}}
  - config: ../bibtex/spen.yaml
    search: {model.energy.num_measurements: {choices: [16, 64, 256]}}
seeds: 10
tuning: {trials: 20, seeds: 1, metric: f1_example}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from energynets.compare.fairness import SOURCE
from energynets.config import Experiment
from energynets.config_errors import explain
from energynets.config_models import Positive, Section
from energynets.errors import ConfigError, nearest
from energynets.metrics import SET_METRICS
from energynets.strict_yaml import apply_override, read_yaml


class Space(Section):
    """What one setting may be: one of `choices`, or a number from `low` to `high`."""

    choices: tuple[Any, ...] | None = Field(default=None, min_length=1, description="values, of any kind")
    low: float | None = Field(default=None, description="smallest number")
    high: float | None = Field(default=None, description="largest number")
    log: bool = Field(default=False, description="draw evenly in the logarithm")
    integer: bool = Field(default=False, description="whole numbers alone")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.choices is None) == (self.low is None and self.high is None):
            raise ValueError("choices: expected either choices, or low and high")
        if self.choices is None:
            if self.low is None or self.high is None or not self.low < self.high:
                raise ValueError(f"low: expected low < high, got {self.low} and {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"low: a logarithm needs more than 0, got {self.low}")
            if self.integer and not (self.low.is_integer() and self.high.is_integer()):
                raise ValueError(f"low: expected whole numbers, got {self.low} and {self.high}")
        return self

    def value(self, drawn: float) -> Any:
        """The setting that a drawn number stands for: of choices it is the place."""
        if self.choices is not None:
            return self.choices[int(drawn)]
        return int(drawn) if self.integer else drawn

    def ends(self) -> tuple[Any, ...]:
        """Values that a configuration must accept: every choice, or both ends."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return self.value(self.low), self.value(self.high)


class PlanRow(Section):
    """A model: its configuration, and what of it is tuned."""

    config: str = Field(min_length=1, description="path of a configuration, relative to this file")
    name: str | None = Field(default=None, description="of the row; default: the configuration's")
    set: dict[str, Any] = Field(default={}, description="setting, as for --set -> its value in this row")
    only: tuple[str, ...] = Field(default=(), description="data sets whose tables have the row; none named: all")
    search: dict[str, Space] = Field(default={}, description="setting, as for --set -> what it may be")


class Tuning(Section):
    """What each row with a search space may spend on it; the same for all of them."""

    trials: Positive = Field(default=20, description="settings tried")
    seconds: float | None = Field(default=None, gt=0, description="no new trials after this much training, in seconds")
    seeds: Positive = Field(default=1, description="runs of each trial, under seeds that the report does not use")
    metric: str = Field(default="f1_example", description="what is best on validation, mean over the seeds")


class Plan(Section):
    """A comparison file as typed data."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100, description="default: the file's name")
    rows: tuple[PlanRow, ...] = Field(min_length=1, description="models")
    data: tuple[dict[str, Any], ...] | None = Field(
        default=None,
        min_length=1,
        description="data sections: which documents; default: those of the rows. `set` in one are settings that go "
        "with its documents, of every row that has them",
    )
    seeds: Positive = Field(default=3, description="seeds 0, 1, ... of each row that depends on one")
    tuning: Tuning = Field(default=Tuning(), description="budget of each row with a search space")
    reference: str | None = Field(default=None, description="row that others are tested against")
    linear: bool = Field(default=True, description="add a one-vs-rest linear line where there is none")

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        names = set(SET_METRICS)
        head, at, k = self.tuning.metric.partition("@")
        ranked = at and k.isdigit() and head in ("precision", "ndcg", "psp", "psndcg")
        if not ranked and self.tuning.metric not in names:
            valid = names | {f"{name}@1" for name in ("precision", "ndcg", "psp", "psndcg")}
            raise ValueError(
                f"tuning.metric: unknown metric {self.tuning.metric!r}{nearest(self.tuning.metric, valid)}"
            )
        return self


@dataclass(frozen=True)
class PlannedRow:
    """An experiment on one data set, and what of it is tuned."""

    experiment: Experiment
    search: Mapping[str, Space] = field(default_factory=dict)

    def at(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with these settings.

        Raises:
            ConfigError: settings that it cannot have.
        """
        overrides = [f"{path}={json.dumps(value)}" for path, value in values.items()]
        return Experiment.from_tree(self.experiment.model_dump(mode="json"), overrides, source=self.experiment.name)


def is_plan(path: Path) -> bool:
    """Whether a file is a comparison, not an experiment."""
    return "rows" in read_yaml(path)


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Plan, dict[str, list[PlannedRow]]]:
    """Read a comparison file and the configurations it names.

    Args:
        path: of the file.
        overrides: of the file's own settings, as `tuning.trials=5`.

    Returns:
        The plan, and data set -> its rows. Without `data` there is one set, called as the plan.

    Raises:
        ConfigError: what is wrong with either, a search space with values that its configuration refuses included.
    """
    path = Path(path)
    tree = read_yaml(path)
    tree.setdefault("name", path.stem)
    for override in overrides:
        apply_override(tree, override)
    try:
        plan = Plan.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Plan)}") from None
    if plan.data is None:
        return plan, {plan.name: [_row(path, row, None) for row in plan.rows]}
    names: list[Any] = [section.get("name") for section in plan.data]
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name or name in names[:place] or "/" in name:
            raise ConfigError(f"{path}: data.{place}.name: expected a name of its own for each data set, got {name!r}")
    for place, row in enumerate(plan.rows):
        for name in set(row.only) - set(names):
            raise ConfigError(f"{path}: rows.{place}.only: unknown data set {name!r}{nearest(name, names)}")
    return plan, {str(section["name"]): _table(path, plan, section) for section in plan.data}


def _table(path: Path, plan: Plan, section: Mapping[str, Any]) -> list[PlannedRow]:
    """The rows of one data set."""
    data, found, had = dict(section), [], set()
    given = data.pop("set", {})
    where = f"{path}: data {data['name']}, set"
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: expected setting: value, got {given!r}")
    known: set[str] = set()
    for row in plan.rows:
        if row.only and data["name"] not in row.only:
            continue
        found.append(_row(path, row, data, given))
        keys = _keys(found[-1].experiment.model_dump(mode="json"))
        had |= given.keys() & keys
        known |= keys
    for setting in given.keys() - had:
        raise ConfigError(f"{where}: no row has a setting {setting!r}{nearest(setting, known)}")
    return found


def _row(
    path: Path, row: PlanRow, data: Mapping[str, Any] | None, given: Mapping[str, Any] | None = None
) -> PlannedRow:
    config = path.parent / row.config
    tree = read_yaml(config)
    tree["name"] = row.name or tree.get("name") or config.stem
    if data is not None:
        # Which documents is the plan's to say; how a model reads them stays the row's.
        reading = {key: value for key, value in (tree.get("data") or {}).items() if key not in (*SOURCE, "planted")}
        tree["data"] = reading | dict(data)
    planned = PlannedRow(Experiment.from_tree(tree, source=str(config)), row.search)
    if given or row.set:
        keys = _keys(planned.experiment.model_dump(mode="json"))
        own = {setting: value for setting, value in (given or {}).items() if setting in keys} | row.set
        planned = PlannedRow(planned.at(own), row.search)
    for setting, space in row.search.items():
        for value in space.ends():
            try:
                planned.at({setting: value})
            except ConfigError as error:
                raise ConfigError(f"{path}: search of {tree['name']}, {setting}: {error}") from None
    return planned


def _keys(tree: Any, prefix: str = "") -> set[str]:
    """Every path that `--set` may change in a dumped experiment."""
    children = dict(tree if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    return {f"{prefix}{key}" for key in children}.union(
        *(_keys(value, f"{prefix}{key}.") for key, value in children.items())
    )
