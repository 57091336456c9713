"""Nothing is lost: killed, interrupted and damaged runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_run import run_toy, stage, staged_experiment, toy_data, toy_experiment

from energynets.errors import CheckpointError, ConfigError
from energynets.training import Interrupted, Progress, RunFolder, train
from energynets.training import checkpoint as checkpoints
from energynets.training.checkpoint import Checkpoint, CheckpointFolder, read_file, write_file
from energynets.training.interrupt import interruptible

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


class Server:
    """Real processes, by way of `toy_run.py`."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("toy_run.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment, cwd=ROOT)
        self.said = ""

    def run(self, folder: Path, *arguments: str, signal_: int | None = None, after: float = 0) -> int:
        """Exit status of a process, sent a signal so long after its training has started."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(shlex.join([str(folder), *arguments]) + "\n")
        self.process.stdin.flush()
        self.said, pid, waiting = "", 0, signal_ is not None
        for line in self.process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "exit":
                return int(rest)
            if word == "pid":
                pid = int(rest)
            self.said += line
            # The process may say `started` before the server tells its number.
            if waiting and pid and "started" in self.said:
                time.sleep(after)
                waiting = False
                with contextlib.suppress(ProcessLookupError):  # it may have finished first
                    os.kill(pid, signal_)
        raise AssertionError("the server has died")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.communicate(timeout=60)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "model.safetensors")


def lines(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_run(folder: Path, reference: Path) -> None:
    """The same bits, the same log, the same row but for times."""
    expected, found = weights(reference), weights(folder)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert lines(folder) == lines(reference)
    rows = [json.loads((path / "result.json").read_text()) for path in (folder, reference)]
    for key in ("metrics", "threshold", "config_hash", "data", "parameters"):
        assert rows[0][key] == rows[1][key]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["model.safetensors"]


@pytest.fixture(scope="module")
def reference(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert server.run(folder) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, in this process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_toy(folder)
    return folder


@pytest.mark.parametrize("part", ["half", "before", "after"])
def test_kill_during_a_checkpoint(server: Server, tmp_path: Path, reference: Path, part: str) -> None:
    assert server.run(tmp_path / "run", "--die-at-save", f"9:{part}") == KILLED
    assert server.run(tmp_path / "run", "--resume") == 0
    assert_same_run(tmp_path / "run", reference)


def test_killed_between_result_and_tidying(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "tidy", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path / "run")
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) > 1
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def kill_often(server: Server, folder: Path, times: int, longest: float, seed: int, *arguments: str) -> int:
    """SIGKILL at random moments, resume each time; how many of them came before the end."""
    chance = random.Random(seed)
    kills = 0
    for _ in range(times):
        after = chance.uniform(0, longest)
        status = server.run(folder, "--resume", *arguments, signal_=signal.SIGKILL, after=after)
        kills += status == KILLED
    assert server.run(folder, "--resume", *arguments) == 0
    return kills


# Epochs enough that no machine is done with them before it is killed.
@pytest.mark.parametrize(
    ("times", "longest", "least", "seed"),
    [(6, 0.2, 1, 0), *(pytest.param(30, 0.3, 5, seed, marks=pytest.mark.slow) for seed in range(5))],
)
def test_kill_at_random_moments(
    server: Server, tmp_path: Path, times: int, longest: float, least: int, seed: int
) -> None:
    assert server.run(tmp_path / "reference", "--epochs", "40") == 0
    assert kill_often(server, tmp_path / "run", times, longest, seed, "--epochs", "40") >= least
    assert_same_run(tmp_path / "run", tmp_path / "reference")


@pytest.mark.slow
def test_kill_in_every_second_checkpoint(server: Server, tmp_path: Path, reference: Path) -> None:
    for number in range(200):
        part = ("half", "before", "after")[number % 3]
        if server.run(tmp_path / "run", "--resume", "--die-at-save", f"2:{part}") == 0:
            break
    assert number > 20
    assert_same_run(tmp_path / "run", reference)


# Windows has no SIGHUP.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGHUP", None)])])
def test_ctrl_c_saves_and_says_how_to_resume(
    server: Server, tmp_path: Path, reference: Path, number: signal.Signals
) -> None:
    assert server.run(tmp_path / "run", signal_=number) == 130
    assert number.name in server.said
    assert "--resume" in server.said
    assert server.run(tmp_path / "run", "--resume") == 0
    assert_same_run(tmp_path / "run", reference)


class StopAt(Progress):
    """Ctrl-C at the n-th event of a kind."""

    def __init__(self, event: str, number: int) -> None:
        self.event, self.left = event, number

    def count(self, event: str) -> None:
        self.left -= event == self.event
        if event == self.event and self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def step(self, *_: object) -> None:
        self.count("step")

    def scoring(self, split: str, *_: object) -> None:
        self.count(split)


@pytest.mark.parametrize(
    ("event", "number"), [("step", 1), ("step", 4), ("step", 21), ("validation", 1), ("validation", 5), ("test", 1)]
)
def test_stop_between_batches_wherever_it_is(tmp_path: Path, whole: Path, event: str, number: int) -> None:
    progress = StopAt(event, number)
    with pytest.raises(Interrupted, match="--resume"):
        run_toy(tmp_path / "run", progress=progress)
    assert progress.left == 0, "went on after it was asked to stop"
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    class Impatient(Progress):
        def step(self, *_: object) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stop:
        run_toy(tmp_path / "run", progress=Impatient())
    assert not isinstance(stop.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the platform has no SIGHUP")
def test_a_closed_terminal_is_told_twice_and_ignored_under_nohup() -> None:
    def gone(_: str) -> None:
        raise OSError("no terminal")

    with interruptible(gone) as request:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert request.signal == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(gone) as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request
    finally:
        signal.signal(signal.SIGHUP, before)


# ------------------------------------------------------------------------------------------------ damaged checkpoints


def stopped(folder: Path) -> list[Path]:
    with pytest.raises(Interrupted):
        run_toy(folder, progress=StopAt("step", 7))
    paths = RunFolder(folder).checkpoints.paths()
    assert len(paths) == 2
    return paths


def test_truncated_checkpoint_names_the_one_before(tmp_path: Path, whole: Path) -> None:
    previous, last = stopped(tmp_path / "run")
    os.truncate(last, last.stat().st_size - 100)
    with pytest.raises(CheckpointError, match=f"truncated.*{previous.name}, is whole: delete {last.name}"):
        run_toy(tmp_path / "run", resume=True)
    last.unlink()
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_both_checkpoints_truncated(tmp_path: Path) -> None:
    for path in stopped(tmp_path / "run"):
        os.truncate(path, 10)
    with pytest.raises(CheckpointError, match="truncated") as error:
        run_toy(tmp_path / "run", resume=True)
    assert "whole" not in str(error.value)


def test_foreign_checkpoint(tmp_path: Path) -> None:
    _, last = stopped(tmp_path / "run")
    save_file({"weight": torch.zeros(2)}, last)
    with pytest.raises(CheckpointError, match="not a checkpoint of energynets"):
        run_toy(tmp_path / "run", resume=True)
    last.write_bytes(b"PK\x03\x04 something else entirely")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        run_toy(tmp_path / "run", resume=True)
    save_file({"weight": torch.zeros(2)}, last, metadata={"energynets": "[]"})
    with pytest.raises(CheckpointError, match="its header is not what energynets writes"):
        run_toy(tmp_path / "run", resume=True)


def test_checkpoint_of_another_model_or_other_data(tmp_path: Path) -> None:
    _, last = stopped(tmp_path / "run")
    whole = read_file(last)
    name = next(name for name in whole.tensors if name.startswith("model/") and whole.tensors[name].ndim == 2)
    write_file(last, Checkpoint({**whole.tensors, name: torch.zeros(1, 1)}, whole.state))
    with pytest.raises(CheckpointError, match=r"has shape \(1, 1\), the model needs"):
        run_toy(tmp_path / "run", resume=True)
    write_file(last, Checkpoint({key: tensor for key, tensor in whole.tensors.items() if key != name}, whole.state))
    with pytest.raises(CheckpointError, match="lacks tensor"):
        run_toy(tmp_path / "run", resume=True)
    write_file(last, whole)
    with pytest.raises(CheckpointError, match="other data"):
        train(staged_experiment(), folder=tmp_path / "run", data=toy_data(seed=1), resume=True)


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    for path in stopped(tmp_path / "run"):
        content = path.read_bytes()
        assert not content.startswith((b"PK", b"\x80"))
        assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"].keys() == {
            "energynets"
        }


# ------------------------------------------------------------------------------------------------ full disks


def test_full_disk_loses_no_checkpoint(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, count = checkpoints.save_file, 0

    def full(tensors: dict, path: Path, metadata: dict) -> None:
        nonlocal count
        count += 1
        if count == 8:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match=r"no space left.*checkpoint-000007.safetensors, is whole.*--resume"):
        run_toy(tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["checkpoint-000006.safetensors", "checkpoint-000007.safetensors"]
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    """The system itself refuses the write, half through."""
    resource = pytest.importorskip("resource")
    folder = CheckpointFolder(tmp_path)
    folder.save(Checkpoint({"model/weight": torch.zeros(10)}, {}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint-000001\.safetensors, is whole"):
            folder.save(Checkpoint({"model/weight": torch.zeros(100_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000001.safetensors"]
    assert folder.latest() is not None


def test_full_disk_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    run = RunFolder(tmp_path)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: cannot append: no space left"):
        run.append_metrics({"epoch": 1})


# ------------------------------------------------------------------------------------------------ the folder


def test_a_folder_is_never_overwritten_silently(tmp_path: Path) -> None:
    experiment = toy_experiment(stages=[stage("unary", "features", "unary", epochs=1)])
    first = run_toy(tmp_path / "run", experiment=experiment)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match="--resume, or choose another name"):
        run_toy(tmp_path / "run", experiment=experiment)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert run_toy(tmp_path / "run", experiment=experiment, resume=True) == first


def test_resuming_with_other_settings_lists_them(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    tree = staged_experiment().model_dump(mode="json")
    other_batches = type(staged_experiment()).from_tree(tree, ["training.batch_size=8"])
    with pytest.raises(ConfigError, match=r"training.batch_size: 16 there, 8 now"):
        train(other_batches, folder=tmp_path / "run", data=toy_data(), resume=True)
    other_seed = staged_experiment().model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match=r"other settings: seed: 0 there, 5 now; choose"):
        train(other_seed, folder=tmp_path / "run", data=toy_data(), resume=True)
    longer = type(staged_experiment()).from_tree(tree, ["training.stages.1.epochs=77"])
    with pytest.raises(ConfigError, match=r"other settings: training.stages.1.epochs: \d there, 77 now; choose"):
        train(longer, folder=tmp_path / "run", data=toy_data(), resume=True)
    renamed = staged_experiment().model_copy(update={"name": "renamed"})
    train(renamed, folder=tmp_path / "run", data=toy_data(), resume=True)


def test_resume_writes_into_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not a run folder"):
        run_toy(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_fails_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    wrong = toy_experiment({"kind": "classifier", "features": {"kind": "kim_cnn"}})
    with pytest.raises(ConfigError, match="reads token sequences"):
        run_toy(tmp_path / "run", experiment=wrong)
    assert not any((tmp_path / "run").iterdir())
    run_toy(tmp_path / "run", experiment=toy_experiment(stages=[stage("unary", "features", "unary", epochs=1)]))


def test_resume_without_a_run_starts_one(tmp_path: Path, whole: Path) -> None:
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_one_process_a_folder(tmp_path: Path) -> None:
    experiment = staged_experiment()

    def resume_too() -> None:
        with RunFolder(tmp_path / "run").opened(experiment, resume=True):
            pass

    class Second(Progress):
        def stage(self, *_: object) -> None:
            with pytest.raises(ConfigError, match="another process is training"):
                resume_too()

    run_toy(tmp_path / "run", progress=Second())


def test_leftovers_of_killed_writes_are_swept(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    for name in ("checkpoint-000009.safetensors.tmp", ".tmpA1b2C3"):
        (tmp_path / "run" / "checkpoints" / name).write_bytes(b"half")
    run_toy(tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["model.safetensors"]
