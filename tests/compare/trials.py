"""Cells that write a result without training: their metrics are a known function of their settings and seed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results import FINGERPRINT, result

from energynets.compare.cells import Cell, CompareProgress
from energynets.config import Experiment
from energynets.training.run import RunFolder

DOCUMENTS = 60


class Trials:
    """What ran, and what is to go wrong.

    Args:
        ran: (name of the row, seed, learning rate) of each cell that ran, in order of their ends.
        stop_after: cells until Ctrl-C comes; None never.
        most: cells that ran at a time, at most.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, int, float]] = []
        self.stop_after: int | None = None
        self.most = self._now = 0
        self.lock = threading.Lock()
        self.wait = 0.0

    def run(
        self, cell: Cell, config: Path, progress: CompareProgress, stop: threading.Event | None = None
    ) -> tuple[dict[str, Any] | None, str | None]:
        with self.lock:
            if self.stop_after is not None and len(self.ran) >= self.stop_after:
                raise KeyboardInterrupt
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.wait)
        experiment = cell.experiment
        assert Experiment.load(config).hash() == experiment.hash()
        rate = experiment.stages[0].optimizer.learning_rate
        # Validation is best at a rate of 0.01, test far from there.
        away = abs(np.log10(rate) + 2)
        noise = np.random.default_rng([cell.seed, int(1e9 * rate)]).normal(0, 0.01)
        validation, test = 0.8 - 0.1 * away + noise, 0.2 + 0.1 * away + noise
        row = result(experiment.name, cell.seed, test, config_hash=experiment.hash())
        row["kind"], row["train_seconds"] = experiment.model.kind, 10.0
        row["data"] = {**FINGERPRINT, "name": experiment.data.name}
        row["metrics"]["validation"] = dict.fromkeys(row["metrics"]["test"], validation)
        # With labels shown it is the other way round.
        rest = {"validation": dict.fromkeys(row["metrics"]["test"], 1 - validation)}
        row["observed"] = {f"{share:g}": rest for share in experiment.evaluation.observed}
        cell.folder.mkdir(parents=True)
        values = np.random.default_rng([cell.seed, 7]).normal(test, 0.05, DOCUMENTS)
        RunFolder(cell.folder).save_documents(dict.fromkeys(row["metrics"]["test"], values.astype(np.float32)))
        (cell.folder / "result.json").write_text(json.dumps(row))
        with self.lock:
            self._now -= 1
            self.ran.append((experiment.name, cell.seed, rate))
        return row, None


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    """Every cell is run by these."""
    found = Trials()
    monkeypatch.setattr(Cell, "run", lambda cell, *args, **kwargs: found.run(cell, *args, **kwargs))
    return found


PLANTED = {"num_labels": 4, "num_documents": 60, "num_test_documents": 20, "vocabulary_size": 60, "mean_length": 30}
RATE = "training.stages.0.optimizer.learning_rate"
FILES = {
    "cnn.yaml": f"""
data: {{planted: {json.dumps(PLANTED)}}}
model: {{kind: classifier, features: {{kind: kim_cnn, embedding_dim: 4, windows: [1], num_filters: 4}}}}
training: {{stages: [{{name: unary, epochs: 1, optimizer: {{learning_rate: 0.1}}}}]}}
""",
    "spen.yaml": """
extends: cnn.yaml
model:
  kind: energy_network
  features: {kind: kim_cnn, embedding_dim: 4, windows: [1], num_filters: 4}
  energy: {kind: spen, num_measurements: 4}
""",
    "plan.yaml": f"""
name: small
data:
  - {{name: one, planted: {json.dumps(PLANTED)}}}
  - {{name: two, planted: {json.dumps({**PLANTED, "seed": 1})}}}
rows:
  - config: cnn.yaml
    search: {{{RATE}: {{low: 1e-4, high: 1e-1, log: true}}}}
  - config: spen.yaml
    search:
      {RATE}: {{choices: [0.1, 0.01, 0.001]}}
      model.energy.num_measurements: {{low: 2, high: 8, integer: true}}
linear: false
seeds: 5
tuning: {{trials: 6, seeds: 2}}
""",
}


# Settings that go with a data set, rows with settings of their own, a row that is in one table alone.
SETS = {
    **FILES,
    "linear.yaml": f"data: {{planted: {json.dumps(PLANTED)}}}\nmodel: {{kind: linear}}",
    "default.yaml": """
extends: spen.yaml
training: {stages: null}
""",
    "plan.yaml": f"""
name: sets
data:
  - name: one
    planted: {json.dumps(PLANTED)}
    set: {{model.features.num_filters: 2, training.stages.0.epochs: 2}}
  - name: two
    planted: {json.dumps({**PLANTED, "seed": 1})}
    set: {{model.features.num_filters: 3, training.batch_size: 16}}
rows:
  - config: linear.yaml
  - config: cnn.yaml
  - {{config: cnn.yaml, name: wide, set: {{model.features.num_filters: 8}}}}
  - {{config: spen.yaml, only: [two]}}
seeds: 1
""",
}


def write_files(folder: Path, files: dict[str, str] = FILES) -> Path:
    """A comparison file and its configurations; gives its path."""
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / "plan.yaml"
