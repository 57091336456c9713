"""`energynets train` as torchrun starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import ROOT
from test_training import SPEN, assert_same_run, tree

from energynets.cli import once

STAGES = ({"name": "all", "epochs": 3},)
DATA = {"planted": {"num_labels": 12, "num_documents": 200, "num_test_documents": 50, "vocabulary_size": 300}}


def config(folder: Path) -> Path:
    settings = {**tree(SPEN, STAGES, checkpoint_every=2), "data": {**DATA, "inputs": "counts", "validation_share": 0.2}}
    settings = json.loads(json.dumps(settings))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def command(processes: int, *arguments: object) -> list[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [*start, "energynets", "train", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_it_just_works(tmp_path: Path) -> None:
    path, said = config(tmp_path), {}
    for processes in (1, 2):
        arguments = (path, "--folder", tmp_path / str(processes), "--set", f"training.parallel.labels={processes}")
        done = subprocess.run(
            command(processes, *arguments), env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        said[processes] = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert said[2] == said[1]  # metrics, once
    assert_same_run(tmp_path / "2", tmp_path / "1", 1e-5)
    environment = json.loads((tmp_path / "2" / "environment.json").read_text())
    assert (environment["processes"], environment["label_shards"]) == (2, 2)


@pytest.mark.parametrize("wrong", ["all", "one"])
def test_a_setting_that_is_wrong_is_told_once(tmp_path: Path, wrong: str) -> None:
    """Whether every process finds it, or one that is not the first."""
    key = "sede" if wrong == "all" else "$([ $RANK = 1 ] && echo sede || echo seed)"
    script = f'exec {sys.executable} -m energynets train "$0" --set {key}=1'
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*start, "sh", "-c", script, str(config(tmp_path))],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("energynets:")]
    assert "sede" in line
    codes = [line.split()[2] for line in done.stderr.splitlines() if line.strip().startswith("exitcode")]
    assert codes[-1] == "2"  # the root cause
    assert wrong == "one" or set(codes) == {"2"}


def test_without_an_answer_each_process_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    asked = {"TORCHELASTIC_USE_AGENT_STORE": "True", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for key, value in {**asked, "MASTER_PORT": port}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(once, "_PATIENCE", 0.2)
    before = signal.getsignal(signal.SIGTERM)
    try:
        for _ in range(2):
            with once.first_to_say("wrong") as first:
                assert first
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_killed_process(tmp_path: Path) -> None:
    arguments = [config(tmp_path), "--folder", tmp_path / "run", "--set", "training.parallel.labels=2"]
    arguments += ["--set", "training.stages.0.epochs=1000"]
    with subprocess.Popen(
        command(2, *arguments), env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not list((tmp_path / "run").glob("checkpoints/*.safetensors")):
            time.sleep(0.2)
            assert process.poll() is None
        victim = int(children.read_text().split()[-1])
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - killed < 40
        assert process.returncode == 1
    ours = [line for line in said.splitlines() if line.startswith("energynets:")]
    assert len(ours) == 1
    assert "process 1 of 2 does not answer" in ours[0] or "process 0 of 2 does not answer" in ours[0]
    assert "--resume" in ours[0]
