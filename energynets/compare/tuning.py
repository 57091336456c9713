"""Search of a row's settings on validation, resumable: the same trials whatever was interrupted, whoever ran beside."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from energynets.compare.cells import Cell, CompareProgress
from energynets.compare.comparison import DETERMINISTIC, measured, write_config
from energynets.compare.plan import PlannedRow, Space, Tuning
from energynets.compare.pool import run_cells
from energynets.config import Experiment
from energynets.errors import ConfigError, MissingExtraError
from energynets.metrics import smaller_is_better

# Trials are proposed so many at a time, all of them from the same finished ones: what is proposed then depends on
# neither the number of processes nor on who ends first.
GENERATION = 4
# Far from the seeds 0, 1, ... that results are reported under.
FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Trial:
    """Settings tried.

    Args:
        settings: setting -> value.
        value: of the metric on validation, mean over seeds; None where a run failed.
        seconds: of training.
        failure: why there is no value.
    """

    settings: Mapping[str, Any]
    value: float | None
    seconds: float
    failure: str | None = None


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Args:
        experiment: with the best settings; as it was where nothing was tuned or all trials failed.
        trials: in order.
        best: place of the best trial; None without one.
    """

    experiment: Experiment
    trials: tuple[Trial, ...] = ()
    best: int | None = None

    @property
    def failure(self) -> str | None:
        """Why nothing was selected, where something should have been."""
        if self.best is not None or not self.trials:
            return None
        return f"all {len(self.trials)} trials of its tuning failed: {self.trials[-1].failure}"

    def to_dict(self) -> dict[str, Any]:
        """As results.json."""
        return {"best": self.best, "trials": [asdict(trial) for trial in self.trials]}


@dataclass
class _Search:
    """One study and where its runs lie."""

    row: PlannedRow
    tuning: Tuning
    folder: Path
    processes: int
    progress: CompareProgress
    study: Any = field(default=None)
    distributions: dict[str, Any] = field(default_factory=dict)


def require_optuna() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "search", "tuning") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def tune(
    row: PlannedRow,
    tuning: Tuning,
    folder: Path,
    *,
    processes: int = 1,
    progress: CompareProgress | None = None,
) -> Tuned:
    """The settings that are best on validation, of those that the budget lets try.

    The study lies in `folder`/journal.log, each run in `folder`/runs under its configuration's hash: called again
    it goes on where it stopped, and settings tried before are not run again. Of a result its validation metrics alone
    are read.

    Args:
        row: experiment and search space; without a space nothing is tried.
        tuning: the budget.
        folder: of this row on this data set.
        processes: runs at a time; trials and values do not depend on it.
        progress: listener.

    Raises:
        MissingExtraError: optuna is not installed.
    """
    if not row.search:
        return Tuned(row.experiment)
    search = _Search(row, tuning, folder, processes, progress or CompareProgress())
    _open(search)
    while (trials := _generation(search)) is not None:
        _run(search, trials)
    return _selected(search)


def _open(search: _Search) -> None:
    optuna = require_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    search.folder.mkdir(parents=True, exist_ok=True)
    search.distributions = {path: _distribution(optuna, space) for path, space in sorted(search.row.search.items())}
    spaces = {path: space.model_dump() for path, space in search.row.search.items()}
    # Another question is another study; more trials of the same question go on with it.
    asked = [search.row.experiment.hash(), spaces, search.tuning.metric, search.tuning.seeds]
    search.study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(search.folder / "journal.log"))),
        study_name=hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16],
        direction="minimize" if smaller_is_better(search.tuning.metric) else "maximize",
        load_if_exists=True,
    )


def _distribution(optuna: Any, space: Space) -> Any:
    if space.choices is not None:
        return optuna.distributions.CategoricalDistribution(tuple(range(len(space.choices))))
    assert space.low is not None
    assert space.high is not None
    if space.integer:
        return optuna.distributions.IntDistribution(int(space.low), int(space.high), log=space.log)
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)


def _known(search: _Search) -> list[Any]:
    """Trials of the budget, in order; one that was cut off while it was proposed is none."""
    return [
        trial for trial in search.study.get_trials(deepcopy=False) if trial.params.keys() == search.distributions.keys()
    ]


def _generation(search: _Search) -> list[Any] | None:
    """Trials to run next: those that an earlier session left unfinished, else new ones; None at the budget's end."""
    known = _known(search)
    left = [trial for trial in known if not trial.state.is_finished()]
    begun = len(known) % GENERATION
    if left and begun == 0:
        return left
    room = min(GENERATION - begun, search.tuning.trials - len(known))
    spent = sum(_said(search, trial)["seconds"] for trial in known)
    over = search.tuning.seconds is not None and spent >= search.tuning.seconds
    if room <= 0 or (over and begun == 0):
        return left or None
    optuna = require_optuna()
    for place in range(len(known), len(known) + room):
        seed = int(hashlib.sha256(f"{search.study.study_name} {place}".encode()).hexdigest()[:8], 16)
        search.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * GENERATION)
        search.study.ask(search.distributions)
    return [trial for trial in _known(search) if not trial.state.is_finished()]


def _settings(search: _Search, trial: Any) -> dict[str, Any]:
    return {path: search.row.search[path].value(drawn) for path, drawn in trial.params.items()}


def _run(search: _Search, trials: list[Any]) -> None:
    """Run what has no result yet, side by side, then tell the study in order."""
    own: dict[int, list[Cell] | str] = {}
    cells: dict[str, Cell] = {}
    for trial in trials:
        try:
            own[trial.number] = found = _cells(search, search.row.at(_settings(search, trial)))
        except ConfigError as error:
            own[trial.number] = str(error)
            continue
        cells |= {cell.name: cell for cell in found}
    kept = {name: cell.finished_result() for name, cell in cells.items()}
    for cell in cells.values():
        cell.check_unfinished()

    def config(cell: Cell) -> Path:
        return write_config(cell.experiment, search.folder / "configs" / f"{cell.experiment.hash()}.yaml")

    progress, processes = search.progress, search.processes
    outcomes = {
        cell.name: outcome
        for cell, outcome in run_cells(list(cells.values()), kept, config, processes=processes, progress=progress)
    }
    for trial in trials:
        found_cells = own[trial.number]
        if isinstance(found_cells, str):
            _tell(search, trial, None, 0.0, found_cells)
            continue
        results = [outcomes[cell.name] for cell in found_cells]
        failure = next((why or "no result" for result, why in results if result is None), None)
        values = [_validation(result, search.tuning.metric) for result, _ in results if result is not None]
        seconds = sum(float(result["train_seconds"]) for result, _ in results if result is not None)
        if failure is None and None in values:
            failure = f"no {search.tuning.metric} on validation"
        mean = None if failure else statistics.fmean(value for value in values if value is not None)
        _tell(search, trial, mean, seconds, failure)


def _validation(result: Mapping[str, Any], metric: str) -> float | None:
    """All that a selection sees of a result."""
    value = measured(result, metric, "validation")
    return None if value is None else float(value)


def _cells(search: _Search, experiment: Experiment) -> list[Cell]:
    seeds = 1 if experiment.model.kind in DETERMINISTIC else search.tuning.seeds
    runs, name = search.folder / "runs", experiment.hash()
    return [
        Cell(experiment, FIRST_SEED + seed, runs / f"{name}-seed{FIRST_SEED + seed}", search.processes, True)
        for seed in range(seeds)
    ]


def _tell(search: _Search, trial: Any, value: float | None, seconds: float, failure: str | None) -> None:
    from optuna.trial import TrialState

    search.study.set_user_attr(str(trial.number), {"seconds": seconds, "failure": failure})
    if value is None:
        search.study.tell(trial.number, state=TrialState.FAIL)
    else:
        search.study.tell(trial.number, value)


def _said(search: _Search, trial: Any) -> dict[str, Any]:
    """Seconds and failure of a trial."""
    return dict(search.study.user_attrs.get(str(trial.number), {"seconds": 0.0, "failure": None}))


def _selected(search: _Search) -> Tuned:
    trials = []
    # A budget that was larger once does not give a row more than the others now.
    for known in _known(search)[: search.tuning.trials]:
        value = known.value if known.state.name == "COMPLETE" else None
        trials.append(Trial(_settings(search, known), value, **_said(search, known)))
    sign = -1 if smaller_is_better(search.tuning.metric) else 1
    values = {place: sign * trial.value for place, trial in enumerate(trials) if trial.value is not None}
    if not values:
        return Tuned(search.row.experiment, tuple(trials))
    best = max(values, key=values.__getitem__)
    return Tuned(search.row.at(trials[best].settings), tuple(trials), best)
