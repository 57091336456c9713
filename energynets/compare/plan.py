"""A comparison file: models x data sets x seeds, and search spaces for what is tuned.

name: small
data: [{name: bibtex}, {name: yeast, set: {model.features.hidden: [256]}}]
rows:
  - config: ../bibtex/classifier.yaml
    search: {training.stages.0.optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}}
  - config: ../bibtex/spen.yaml
    search: {model.energy.num_measurements: {choices: [16, 64, 256]}}
  - {config: ../bibtex/icnn.yaml, name: icnn-narrow, only: [yeast], set: {model.features.hidden: [64]}}
seeds: 10
tuning: {trials: 20, seeds: 1, metric: f1_example}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from energynets.compare.fairness import SOURCE, check_fair
from energynets.config import Experiment
from energynets.config_errors import explain
from energynets.config_models import Positive, Section
from energynets.errors import ConfigError, nearest
from energynets.metrics import SET_METRICS, observed_name, split_name
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
    set: dict[str, Any] = Field(default={}, description="setting, as for --set -> its value; wins over the data's")
    only: tuple[str, ...] = Field(default=(), description="data sets whose tables have the row; none named: all")
    as_written: bool = Field(default=False, description="of the data set take the documents alone, not its settings")
    search: dict[str, Space] = Field(default={}, description="setting, as for --set -> what it may be")


class PlanData(Section):
    """A data set: which documents, as in a data section, and what settings go with them."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="of the table")
    set: dict[str, Any] = Field(
        default={}, description="setting, as for --set -> its value in every row whose configuration has it"
    )

    def section(self) -> dict[str, Any]:
        """What the experiments see."""
        return self.model_dump(exclude={"set"})


class Tuning(Section):
    """What each row with a search space may spend on it; the same for all of them."""

    trials: Positive = Field(default=20, description="settings tried")
    seconds: float | None = Field(default=None, gt=0, description="no new trials after this much training, in seconds")
    seeds: Positive = Field(default=1, description="runs of each trial, under seeds that the report does not use")
    metric: str = Field(
        default="f1_example",
        description="what is best on validation, mean over the seeds; of the rest with half known: "
        "observed/0.5/f1_example",
    )


class Plan(Section):
    """A comparison file as typed data."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100, description="default: the file's name")
    rows: tuple[PlanRow, ...] = Field(min_length=1, description="models")
    data: tuple[PlanData, ...] | None = Field(
        default=None, min_length=1, description="data sections: which documents; default: those of the rows"
    )
    seeds: Positive = Field(default=3, description="seeds 0, 1, ... of each row that depends on one")
    tuning: Tuning = Field(default=Tuning(), description="budget of each row with a search space")
    reference: str | None = Field(default=None, description="row that others are tested against")
    linear: bool = Field(default=True, description="add a one-vs-rest linear line where there is none")

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        names = set(SET_METRICS)
        metric, _ = split_name(self.tuning.metric)
        head, at, k = metric.partition("@")
        ranked = at and k.isdigit() and head in ("precision", "ndcg", "psp", "psndcg")
        if not ranked and metric not in names:
            valid = names | {f"{name}@1" for name in ("precision", "ndcg", "psp", "psndcg")}
            raise ValueError(f"tuning.metric: unknown metric {self.tuning.metric!r}{nearest(metric, valid)}")
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
        tree = self.experiment.model_dump(mode="json")
        return Experiment.from_tree(tree, _overrides(values), source=self.experiment.name)


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
        ConfigError: what is wrong with either, a search space with values that its configuration refuses included, and
            a row whose runs would not measure what its tuning selects by.
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
    sets: dict[str, PlanData | None] = {plan.name: None} if plan.data is None else {}
    for place, data in enumerate(plan.data or ()):
        if data.name in sets or "/" in data.name:
            raise ConfigError(
                f"{path}: data.{place}.name: expected a name of its own for each data set, got {data.name!r}"
            )
        sets[data.name] = data
    for place, row in enumerate(plan.rows):
        for name in row.only:
            if name not in sets:
                raise ConfigError(f"{path}: rows.{place}.only: unknown data set {name!r}{nearest(name, sets)}")
    tables = {
        name: [_row(path, row, data) for row in plan.rows if not row.only or name in row.only]
        for name, data in sets.items()
    }
    for name, rows in tables.items():
        try:
            check_fair([row.experiment for row in rows], tuple(range(plan.seeds)))
            for planned in rows:
                _check_tunable(planned, plan.tuning.metric)
        except ConfigError as error:
            raise ConfigError(f"{path}: rows of {name}: {error}") from None
    for data in plan.data or ():
        known = set().union(*(_keys(_settings(row.experiment)) for row in tables[data.name]))
        for setting in data.set:
            if setting not in known:
                where = f"{path}: data {data.name}, set"
                raise ConfigError(f"{where}: no row has a setting {setting!r}{nearest(setting, known)}")
    return plan, tables


def _check_tunable(row: PlannedRow, metric: str) -> None:
    """Every trial of a row without that metric on validation would fail, once it is trained."""
    if not row.search:
        return
    experiment = row.experiment
    measured = experiment.evaluation
    shares = ("", *measured.shares_shown())
    valid = [observed_name(name, share) for share in shares for name in measured.metric_names()]
    if metric not in valid:
        raise ConfigError(
            f"tuning.metric: {experiment.name} does not measure {metric!r}{nearest(metric, valid)}: "
            f"evaluation.ks are {list(measured.ks)}, evaluation.observed is {list(measured.observed)}"
        )
    data = experiment.data
    if data.validation_share > 0 or data.validation is not None:
        return
    if data.name is not None and data.format is None and data.planted is None:
        from energynets.data.catalogue import CATALOGUE

        # A name that the catalogue lacks is told where the data is read.
        if data.name not in CATALOGUE or "validation" in CATALOGUE[data.name].facts.splits:
            return
    raise ConfigError(
        f"tuning: {experiment.name} has a search space and no validation split to select on: "
        f"expected data.validation_share above 0, got {data.validation_share:g}"
    )


def _row(path: Path, row: PlanRow, data: PlanData | None) -> PlannedRow:
    config = path.parent / row.config
    tree = read_yaml(config)
    tree["name"] = row.name or tree.get("name") or config.stem
    if data is not None:
        # Which documents is the plan's to say; how a model reads them stays the row's.
        reading = {key: value for key, value in (tree.get("data") or {}).items() if key not in (*SOURCE, "planted")}
        # Labels taken out are of the documents: every row of a table learns from the same.
        documents = {key: value for key, value in data.section().items() if key in (*SOURCE, "planted", "missing")}
        tree["data"] = reading | (documents if row.as_written else data.section())
    experiment = Experiment.from_tree(tree, source=str(config))
    try:
        of_data = data.set if data and not row.as_written else {}
        planned = PlannedRow(_with_settings(experiment, of_data, row.set), row.search)
    except ConfigError as error:
        where = f" on {data.name}" if data else ""
        raise ConfigError(f"{path}: set of {tree['name']}{where}: {error}") from None
    for setting, space in row.search.items():
        for value in space.ends():
            try:
                planned.at({setting: value})
            except ConfigError as error:
                raise ConfigError(f"{path}: search of {tree['name']}, {setting}: {error}") from None
    return planned


def _with_settings(experiment: Experiment, of_data: Mapping[str, Any], of_row: Mapping[str, Any]) -> Experiment:
    """The experiment with the row's settings, and with those of the data that it has and the row leaves alone."""
    if of_row:
        experiment = PlannedRow(experiment).at(of_row)
    tree = _settings(experiment)
    keys = _keys(tree)
    concerned = {setting: value for setting, value in of_data.items() if setting in keys}
    if not concerned:
        return experiment
    return Experiment.from_tree(tree, _overrides(concerned) + _overrides(of_row), source=experiment.name)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]


def _settings(experiment: Experiment) -> dict[str, Any]:
    """All that can be set of an experiment, the stages of its model's kind included where it names none."""
    tree = experiment.model_dump(mode="json")
    if tree["training"]["stages"] is None and experiment.stages:
        tree["training"]["stages"] = [stage.model_dump(mode="json") for stage in experiment.stages]
    return tree


def _keys(tree: Any, prefix: str = "") -> set[str]:
    """Every path that `--set` may change in a dumped experiment."""
    children = dict(tree if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    return {f"{prefix}{key}" for key in children}.union(
        *(_keys(value, f"{prefix}{key}.") for key, value in children.items())
    )
