"""Search: one budget for each row, resumable, the same whoever runs beside, blind to test."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("optuna")
from trials import RATE, Trials, trials, write_files

from energynets.compare.cells import Cell
from energynets.compare.plan import PlannedRow, Tuning, load_plan
from energynets.compare.tuning import FIRST_SEED, Tuned, tune
from energynets.errors import ConfigError, MissingExtraError

__all__ = ["trials"]

BUDGET = Tuning(trials=10)


@pytest.fixture
def row(tmp_path: Path) -> PlannedRow:
    return load_plan(write_files(tmp_path))[1]["one"][0]


def values(found: Tuned) -> list[tuple[Any, float | None]]:
    return [(trial.settings[RATE], trial.value) for trial in found.trials]


def test_the_best_on_validation_is_selected(tmp_path: Path, row: PlannedRow, trials: Trials) -> None:
    found = tune(row, BUDGET, tmp_path / "t")
    assert len(found.trials) == len(trials.ran) == 10
    assert found.best is not None
    best = found.trials[found.best]
    assert best.value == max(trial.value for trial in found.trials if trial.value is not None)
    assert found.experiment.stages[0].optimizer.learning_rate == best.settings[RATE]
    assert found.experiment.name == "cnn"
    assert abs(best.settings[RATE] - 0.01) < 0.02
    assert all(1e-4 <= trial.settings[RATE] <= 1e-1 for trial in found.trials)
    assert {seed for _, seed, _ in trials.ran} == {FIRST_SEED}


def test_selected_by_what_is_left_to_find_where_labels_are_shown(tmp_path: Path, trials: Trials) -> None:
    path = write_files(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("trials: 6", "trials: 6, metric: observed/0.5/f1_example"))
    with pytest.raises(ConfigError, match=r"'observed/0.5/f1_example' .*evaluation.observed is \[\]"):
        load_plan(path)
    cnn = tmp_path / "cnn.yaml"
    cnn.write_text(cnn.read_text() + "evaluation: {observed: [0, 0.5]}\n")
    plan, tables = load_plan(path)
    found = tune(tables["one"][0], plan.tuning, tmp_path / "t")
    assert found.best is not None
    value = {trial.settings[RATE]: trial.value for trial in found.trials}
    assert value[found.trials[found.best].settings[RATE]] == max(v for v in value.values() if v is not None)
    farthest = max(value, key=lambda rate: abs(math.log10(rate) + 2))
    assert found.trials[found.best].settings[RATE] == farthest


@pytest.mark.parametrize("stop_after", [0, 1, 3, 4, 6, 9])
def test_interrupted_it_goes_on_to_the_same_trials(
    tmp_path: Path, row: PlannedRow, trials: Trials, stop_after: int
) -> None:
    whole = tune(row, BUDGET, tmp_path / "whole")
    trials.ran.clear()
    trials.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        tune(row, BUDGET, tmp_path / "cut")
    trials.stop_after = None
    assert values(tune(row, BUDGET, tmp_path / "cut")) == values(whole)
    assert len(trials.ran) == 10, "nothing ran twice"
    assert values(tune(row, BUDGET, tmp_path / "cut")) == values(whole)
    assert len(trials.ran) == 10


def test_cut_off_between_proposals_it_goes_on_to_the_same_trials(
    tmp_path: Path, row: PlannedRow, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    whole = tune(row, BUDGET, tmp_path / "whole")
    ask, asked = optuna.Study.ask, iter(range(100))

    def killed(study: Any, *args: Any) -> Any:
        if next(asked) == 5:
            raise KeyboardInterrupt
        return ask(study, *args)

    monkeypatch.setattr(optuna.Study, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(row, BUDGET, tmp_path / "cut")
    assert values(tune(row, BUDGET, tmp_path / "cut")) == values(whole)


def test_runs_side_by_side_give_the_same_trials(tmp_path: Path, row: PlannedRow, trials: Trials) -> None:
    one = tune(row, BUDGET, tmp_path / "one")
    assert trials.most == 1
    trials.wait = 0.02
    three = tune(row, BUDGET, tmp_path / "three", processes=3)
    assert 1 < trials.most <= 3
    assert values(three) == values(one)


def test_more_trials_go_on_and_fewer_do_not_favour(tmp_path: Path, row: PlannedRow, trials: Trials) -> None:
    four = tune(row, Tuning(trials=4), tmp_path / "t")
    eight = tune(row, Tuning(trials=8), tmp_path / "t")
    assert values(eight)[:4] == values(four)
    assert len(trials.ran) == 8
    again = tune(row, Tuning(trials=4), tmp_path / "t")
    assert (values(again), again.best) == (values(four), four.best)


def test_another_question_is_another_study(tmp_path: Path, row: PlannedRow, trials: Trials) -> None:
    tune(row, Tuning(trials=2), tmp_path / "t")
    found = tune(row, Tuning(trials=2, seeds=3), tmp_path / "t")
    assert len(found.trials) == 2
    assert {seed for _, seed, _ in trials.ran} == {FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2}


def test_seconds_end_a_search_too(tmp_path: Path, row: PlannedRow, trials: Trials) -> None:
    found = tune(row, Tuning(trials=100, seconds=50.0), tmp_path / "t")
    assert len(found.trials) == 8, "10 s each, 4 proposed at a time"
    assert [trial.seconds for trial in found.trials] == [10.0] * 8


class Poisoned(dict[str, Any]):
    """Metrics of a result that nobody may read on test."""

    def __getitem__(self, key: str) -> Any:
        assert key != "test", "a selection has read test metrics"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert key != "test", "a selection has read test metrics"
        return super().get(key, default)

    def _all(self, *args: Any) -> Iterator[Any]:
        raise AssertionError("a selection has read all metrics")

    __iter__ = items = values = _all  # type: ignore[assignment]


def test_test_metrics_are_never_read(
    tmp_path: Path, row: PlannedRow, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = tune(row, BUDGET, tmp_path / "clean")
    run, finished = Cell.run, Cell.finished_result

    def poison(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "metrics": Poisoned(row["metrics"])}

    def poisoned_run(cell: Cell, *args: Any) -> Any:
        result, failure = run(cell, *args)
        assert result is not None
        return poison(result), failure

    def poisoned_result(cell: Cell) -> Any:
        found = finished(cell)
        return None if found is None else poison(found)

    monkeypatch.setattr(Cell, "run", poisoned_run)
    monkeypatch.setattr(Cell, "finished_result", poisoned_result)
    assert values(tune(row, BUDGET, tmp_path / "poisoned")) == values(clean)
    assert values(tune(row, BUDGET, tmp_path / "clean")) == values(clean)
    with pytest.raises(AssertionError, match="read test"):
        Poisoned(test={})["test"]


def test_runs_that_fail_are_trials_too(
    tmp_path: Path, row: PlannedRow, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Cell.run

    def fails(cell: Cell, *args: Any) -> Any:
        return (None, "diverged") if cell.experiment.stages[0].optimizer.learning_rate > 0.01 else run(cell, *args)

    monkeypatch.setattr(Cell, "run", fails)
    found = tune(row, BUDGET, tmp_path / "t")
    assert len(found.trials) == 10
    failed = [trial for trial in found.trials if trial.failure]
    assert 0 < len(failed) < 10
    assert all((trial.value, trial.failure) == (None, "diverged") for trial in failed)
    assert found.experiment.stages[0].optimizer.learning_rate <= 0.01
    monkeypatch.setattr(Cell, "run", lambda cell, *args: (None, "no memory"))
    none = tune(row, Tuning(trials=3), tmp_path / "none")
    assert none.best is None
    assert none.failure == "all 3 trials of its tuning failed: no memory"


def test_nothing_to_search(tmp_path: Path, row: PlannedRow, trials: Trials) -> None:
    assert tune(PlannedRow(row.experiment), BUDGET, tmp_path / "t") == Tuned(row.experiment)
    assert trials.ran == []


def test_without_optuna(tmp_path: Path, row: PlannedRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"tuning needs 'optuna'.*energynets\[search\]"):
        tune(row, BUDGET, tmp_path / "t")
