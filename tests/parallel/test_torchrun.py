"""`energynets train` as torchrun starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import ROOT
from test_training import SPEN, assert_same_run, tree

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
