"""Cells, resumption, fairness: the comparison around its runs, with runs made by hand or very small ones."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from results import FINGERPRINT, result

from energynets.compare import compare as compare_with_line
from energynets.compare import demonstration
from energynets.compare.cells import Cell, CompareProgress
from energynets.compare.table import caption
from energynets.config import Experiment
from energynets.errors import ConfigError

compare = functools.partial(compare_with_line, linear=False)

PLANTED = {"num_labels": 4, "num_documents": 60, "num_test_documents": 20, "vocabulary_size": 60, "mean_length": 30}


def experiment(name: str, kind: str = "classifier", *overrides: str) -> Experiment:
    features = {"kind": "kim_cnn", "embedding_dim": 4, "windows": [1], "num_filters": 4}
    model: dict[str, Any] = {"kind": kind} | ({"features": features} if kind == "classifier" else {})
    stages = [{"name": "unary", "trains": ["features", "unary"], "epochs": 1}]
    tree: dict[str, Any] = {"name": name, "data": {"planted": PLANTED}, "model": model}
    tree |= {"training": {"stages": stages}} if kind == "classifier" else {}
    return Experiment.from_tree(tree, overrides)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells that write a result without training; gives the names of those that ran."""
    ran: list[str] = []

    def run(self: Cell, config: Path, progress: CompareProgress) -> tuple[dict[str, Any] | None, str | None]:
        ran.append(self.name)
        assert Experiment.load(config).hash() == self.experiment.hash()
        if self.experiment.name == "broken":
            return None, "model.features: too wide"
        sha = "cd" * 32 if self.experiment.name == "elsewhere" else FINGERPRINT["sha256"]
        row = result(self.experiment.name, self.seed, 0.5 + self.seed / 100, config_hash=self.experiment.hash())
        row["data"] = {**FINGERPRINT, "sha256": sha}
        self.folder.mkdir(parents=True)
        (self.folder / "result.json").write_text(json.dumps(row))
        return row, None

    monkeypatch.setattr(Cell, "run", run)
    return ran


def test_a_linear_line_joins_where_there_is_none(tmp_path: Path, faked: list[str]) -> None:
    found = compare_with_line([experiment("cnn")], seeds=1, folder=tmp_path / "without")
    assert [row.kind for row in found.rows] == ["linear", found.rows[1].kind]
    assert faked == ["linear-seed0", "cnn-seed0"]
    for kind in ("linear", "neighbours"):
        compare_with_line([experiment("cnn"), experiment("line", kind)], seeds=1, folder=tmp_path / kind)
    assert faked[2:] == ["cnn-seed0", "line-seed0"] * 2


def test_deterministic_rows_run_once_and_finished_cells_are_kept(tmp_path: Path, faked: list[str]) -> None:
    experiments = [experiment("cnn"), experiment("line", "linear")]
    first = compare(experiments, seeds=2, folder=tmp_path / "c")
    assert faked == ["cnn-seed0", "cnn-seed1", "line-seed0"]
    spread = first.rows[0].metric("precision@1")
    assert spread is not None
    assert spread.values == (0.5, 0.51)
    again = compare(experiments, seeds=3, folder=tmp_path / "c")
    assert faked[3:] == ["cnn-seed2"]
    assert len(again.rows[0].results) == 3
    assert json.loads((tmp_path / "c" / "results.json").read_text())["seeds"] == [0, 1, 2]


def test_the_environment_is_that_of_every_finished_run(
    tmp_path: Path, faked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Cell.run
    names = ["cpu", "cuda:0", "cuda:0"]

    def on_a_device(self: Cell, *args: Any) -> tuple[dict[str, Any] | None, str | None]:
        found = run(self, *args)
        commit = None if self.seed == 0 else "abc"
        environment = {"torch": "2.13.0", "device": names[self.seed], "git_commit": commit, "command": [self.name]}
        environment |= {"label_shards": 1} if self.seed else {}
        self.folder.mkdir(parents=True, exist_ok=True)
        if found[0] is None:
            environment["device"] = "of a run that failed"
        (self.folder / "environment.json").write_text(json.dumps(environment))
        return found

    monkeypatch.setattr(Cell, "run", on_a_device)
    found = compare([experiment("broken"), experiment("cnn")], seeds=3, folder=tmp_path / "c")
    expected = {"torch": "2.13.0", "device": ["cpu", "cuda:0"], "git_commit": [None, "abc"], "label_shards": [None, 1]}
    assert found.environment == expected
    assert json.loads((tmp_path / "c" / "results.json").read_text())["environment"] == expected
    assert compare([experiment("cnn")], seeds=1, folder=tmp_path / "c").environment["device"] == "cpu"


def test_one_failing_cell_leaves_the_others(tmp_path: Path, faked: list[str]) -> None:
    found = compare([experiment("broken"), experiment("cnn")], seeds=1, folder=tmp_path / "c")
    assert found.failures == ["broken-seed0: model.features: too wide"]
    assert found.rows[1].metric("precision@1") is not None
    assert "broken (failed)" in (tmp_path / "c" / "table.md").read_text()


def test_other_documents_are_refused(tmp_path: Path, faked: list[str]) -> None:
    with pytest.raises(
        ConfigError, match="elsewhere-seed0 has other documents or splits than cnn-seed0: sha256 cdcdcd"
    ):
        compare([experiment("cnn"), experiment("elsewhere")], seeds=1, folder=tmp_path / "c")


def test_a_folder_with_runs_of_other_settings_is_refused_before_anything_runs(tmp_path: Path, faked: list[str]) -> None:
    compare([experiment("cnn")], seeds=1, folder=tmp_path / "c")
    changed = experiment("cnn", "classifier", "model.features.num_filters=5")
    with pytest.raises(ConfigError, match=r"cnn-seed0: holds a run of other settings \(config_hash .*another --folder"):
        compare([experiment("new"), changed], seeds=1, folder=tmp_path / "c")
    assert faked == ["cnn-seed0"]


def test_a_run_begun_with_other_settings_is_refused_before_anything_runs(tmp_path: Path, faked: list[str]) -> None:
    begun = tmp_path / "c" / "runs" / "cnn-seed1"
    begun.mkdir(parents=True)
    changed = ("model.features.num_filters=5", "seed=1")
    (begun / "config.yaml").write_text(experiment("cnn", "classifier", *changed).to_yaml())
    with pytest.raises(ConfigError, match=r"cnn-seed1: was started with other settings: model.features.num_filters: 5"):
        compare([experiment("cnn")], seeds=2, folder=tmp_path / "c")
    assert faked == []
    Cell(experiment("cnn", "classifier", changed[0]), 1, begun).check_unfinished()


@pytest.mark.parametrize(
    ("experiments", "seeds", "expected"),
    [
        ([], 1, "no experiment given"),
        ([experiment("a"), experiment("a")], 1, "2 experiments are called 'a'"),
        ([experiment("a")], 0, "expected one or more different seeds"),
        ([experiment("a")], [1, 1], "expected one or more different seeds"),
        ([experiment("a")], [1, 2**32], "expected seeds from 0 to 4294967295, got 4294967296"),
        (
            [experiment("a"), experiment("b", "classifier", "evaluation.ks=[1]")],
            1,
            r"evaluation.ks \(1,\), not \(1, 3, 5\)",
        ),
        (
            [experiment("a"), experiment("b", "classifier", "evaluation.decoding=expected_f1")],
            1,
            "b is measured otherwise than a: evaluation.decoding expected_f1, not global",
        ),
        (
            [experiment("a"), experiment("b", "classifier", "evaluation.observed=[0.5]")],
            1,
            r"b is measured otherwise than a: evaluation.observed \(0.5,\), not \(\)",
        ),
        (
            [experiment("a"), experiment("b", "classifier", "evaluation.draws=3")],
            1,
            "b is measured otherwise than a: evaluation.draws 3, not 1",
        ),
    ],
)
def test_what_cannot_be_compared(experiments: list[Experiment], seeds: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        compare(experiments, seeds=seeds, folder=tmp_path)


def test_data_sections_that_differ_are_read_before_training(tmp_path: Path, faked: list[str]) -> None:
    pytest.importorskip("energynets.data.planted")
    other = experiment("other", "classifier", "data.planted.seed=5")
    with pytest.raises(ConfigError, match="other has other documents or splits than cnn"):
        compare([experiment("cnn"), other], seeds=1, folder=tmp_path / "c")
    fewer = experiment("fewer", "classifier", "data.missing={fraction: 0.5}")
    with pytest.raises(ConfigError, match="fewer has other documents or splits than cnn"):
        compare([experiment("cnn"), fewer], seeds=1, folder=tmp_path / "c")
    same = experiment("named", "classifier", "data.name=called-otherwise")
    compare([experiment("cnn"), same], seeds=1, folder=tmp_path / "d")
    assert faked == ["cnn-seed0", "named-seed0"]


def test_the_room_is_its_function_too() -> None:
    import energynets
    from energynets.compare.comparison import compare as function

    with pytest.raises(ConfigError, match="no experiment given"):
        energynets.compare([])
    with pytest.raises(ConfigError, match="no experiment given"):
        function([])


def test_demonstration_is_fair_and_complete() -> None:
    experiments = demonstration()
    kinds = [e.model.kind for e in experiments]
    assert (kinds[0], kinds[-1]) == ("label_frequency", "bayes_optimal")
    assert {json.dumps(e.data.model_dump(mode="json")) for e in experiments}.__len__() == 1
    features = {e.name: e.model.features for e in experiments if hasattr(e.model, "features")}
    assert features["xml-cnn"] == features["spen"] == features["icnn"]


class Listener(CompareProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def evaluation(self, cell: Cell, line: Mapping[str, Any]) -> None:
        self.lines.append(line["stage"])


def test_real_runs_in_processes_of_their_own(tmp_path: Path) -> None:
    listener = Listener()
    broken = experiment("broken", "classifier", "data.vectors=nowhere.txt")
    found = compare([experiment("cnn"), broken], seeds=1, folder=tmp_path / "c", progress=listener)
    assert "unary" in listener.lines
    row = found.rows[0]
    assert row.results[0]["config_hash"] == experiment("cnn").hash()
    assert row.quantity("peak_memory_bytes").mean > 2**24  # type: ignore[union-attr]
    assert len(found.failures) == 1
    assert "broken-seed0" in found.failures[0]


@pytest.mark.parametrize("processes", [1, 2])
def test_seeds_that_share_a_process(tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each seed has the result of a process of its own; what the process leaves out runs alone, and fails alone."""
    small = ("data.inputs=counts", "model.features={kind: bag_of_words, hidden: [8]}")
    rows = [experiment("small", "classifier", *small), experiment("broken", "classifier", "data.vectors=nowhere.txt")]
    alone = compare(rows[:1], seeds=(0, 4), folder=tmp_path / "alone").rows[0]
    ran: list[str] = []
    run = Cell.run
    monkeypatch.setattr(Cell, "run", lambda cell, *args, **kwargs: ran.append(cell.name) or run(cell, *args, **kwargs))
    listener = Listener()
    settings: dict[str, Any] = {"seeds": (0, 4), "together": True, "processes": processes, "progress": listener}
    found = compare(rows, folder=tmp_path / "c", **settings)
    assert ran == ["broken-seed0", "broken-seed4"]
    assert [failure.partition(":")[0] for failure in found.failures] == ran
    for ours, theirs in zip(found.rows[0].results, alone.results, strict=True):
        assert (ours["seed"], ours["together"], theirs["together"]) == (theirs["seed"], 2, 1)
        assert ours["metrics"]["test"] == pytest.approx(theirs["metrics"]["test"], abs=1e-6)
    assert "Seeds that trained at once, seconds a share of theirs, memory that of all: small." in caption(found)
    assert "unary" in listener.lines
    again = compare(rows[:1], folder=tmp_path / "c", **settings)
    assert again.rows[0].results == found.rows[0].results


HANGUP = getattr(signal, "SIGHUP", None)


@pytest.mark.parametrize(
    ("options", "training", "numbers"),
    [
        (["--seeds", "1"], [0], [signal.SIGINT]),
        (["--seeds", "2", "--processes", "2"], [0, 1], [signal.SIGINT]),
        (["--seeds", "2", "--together"], [0], [signal.SIGINT]),
        # A closed terminal: the system and the shell each say so.
        pytest.param(["--seeds", "1"], [0], [HANGUP] * 2, marks=pytest.mark.skipif(not HANGUP, reason="no SIGHUP")),
    ],
    ids=["one", "two", "together", "hangup"],
)
def test_interrupted_comparison_continues(
    tmp_path: Path, options: list[str], training: list[int], numbers: list[signal.Signals]
) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(experiment("long", "classifier", "training.stages.0.epochs=100000").to_yaml())
    command = [sys.executable, "-m", "energynets", "compare", str(path), *options, "--folder", str(tmp_path / "c")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        runs = [tmp_path / "c" / "runs" / f"long-seed{seed}" for seed in training]
        _interrupt_once_they_train(process, runs, numbers)


def _interrupt_once_they_train(process: subprocess.Popen[str], runs: list[Path], numbers: list[signal.Signals]) -> None:
    files = [run / "metrics.jsonl" for run in runs]
    deadline = time.monotonic() + 100
    try:
        while time.monotonic() < deadline and not all(f.exists() and f.stat().st_size > 2000 for f in files):
            time.sleep(0.1)
        for number in numbers:
            os.kill(process.pid, number)
            time.sleep(0.01)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command continues where this one stopped" in errors
    for run in runs:
        assert list((run / "checkpoints").glob("checkpoint-*.safetensors")), "the run saved itself"


def test_the_reference_is_chosen_or_named(tmp_path: Path, faked: list[str]) -> None:
    experiments = [experiment("cnn"), experiment("line", "linear")]
    found = compare(experiments, seeds=2, folder=tmp_path / "c")
    assert (found.reference, found.monitor) == ("cnn", "f1_example")
    assert compare(experiments, seeds=2, folder=tmp_path / "c", reference="line").reference == "line"
    ran = len(faked)
    with pytest.raises(ConfigError, match=r"reference 'lime' is none of the rows \(did you mean 'line'"):
        compare(experiments, seeds=5, folder=tmp_path / "c", reference="lime")
    assert len(faked) == ran, "told before anything runs"
