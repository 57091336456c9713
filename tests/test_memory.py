"""Memory from the configuration alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import estimates
from energynets.cli import main
from energynets.config import Experiment
from energynets.errors import ConfigError
from energynets.memory import bytes_text, count_text, estimate, sizes_of, step
from energynets.memory.step import Tracker
from energynets.training import Sizes, build_model

ROOT = Path(__file__).parents[1]


def experiment(energy: dict[str, Any] | None = None, *overrides: str) -> Experiment:
    model: dict[str, Any] = {"kind": "classifier", "features": {"kind": "bag_of_words", "hidden": [8]}}
    if energy is not None:
        model |= {"kind": "energy_network", "energy": energy, "solver": {"kind": "mirror_descent", "steps": 3}}
    tree = {"name": "m", "data": {"planted": {"num_labels": 20}, "inputs": "counts"}, "model": model}
    return Experiment.from_tree(tree, overrides)


def test_case_study_prints_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", str(ROOT / "configs" / "memory-case-study.yaml")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["embedding", "9.00", "M", "(9,000,000)"]
    assert lines[1] == ["convolutions", "224", "K", "(224,000)"]
    assert lines[2] == ["bottleneck", "6.29", "M", "(6,291,456)"]
    assert lines[3] == ["output", "343.04", "M", "(343,040,000)"]
    assert lines[4] == ["total", "358.56", "M", "(358,555,456)"]
    assert lines[6][:3] == ["weights", "1.34", "GiB"]


@pytest.mark.parametrize("energy", [None, {"kind": "spen"}, {"kind": "icnn", "gate": True}])
def test_counts_are_those_of_the_model(energy: dict[str, Any] | None) -> None:
    settings = experiment(energy)
    sizes = Sizes(inputs=30, labels=20, tokens=False)
    needed = estimate(settings, sizes)
    weights = list(build_model(settings, sizes).parameters())
    assert needed.parameters == sum(weight.numel() for weight in weights)
    assert needed.weights == 4 * needed.parameters
    last = needed.stages[-1]
    assert (last.gradients, last.optimizer) == (needed.weights, 2 * needed.weights)
    assert last.step > 0


def test_stages_count_what_they_train() -> None:
    frozen = experiment({"kind": "spen"}, "training.stages=[{name: e, trains: [energy], optimizer: {kind: sgd}}]")
    needed = estimate(frozen, Sizes(30, 20, False))
    energy = dict(needed.components)["energy"]
    assert needed.stages[0].gradients == 4 * energy
    assert needed.stages[0].optimizer == 0


def test_the_tracker_counts_what_is_alive() -> None:
    outside = torch.zeros(100)
    with Tracker() as tracker:
        tracker.known(outside)
        first = outside[:50] + 1
        assert tracker.now == 4 * 50
        second = first.view(5, 10)  # no memory of its own
        del first
        third = torch.zeros(1000)
        assert tracker.now == 4 * 1050
        del third
        tracker.reset()
        del second
    assert (tracker.now, tracker.peak) == (0, 4 * 50)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.label_chunk=300",),
        ("model.label_chunk=300", "model.keep_unary=true"),
        ("model.energy={kind: icnn, gate: true}", "objective.steps=all"),
        ("model.solver={kind: gradient_descent}", "objective.loss=soft_f1"),
    ],
)
def test_two_small_steps_tell_of_a_large_one(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment({"kind": "spen", "num_measurements": 40}, "training.batch_size=16", *overrides)
    sizes = Sizes(30, 60_000, False)
    measured = estimate(settings, sizes)
    monkeypatch.setattr(step, "FEW", 16 * 20_000)
    assert estimate(settings, sizes).total == pytest.approx(measured.total, rel=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read as Linux has it")
def test_a_process_takes_what_the_estimate_says() -> None:
    """All of the cases: `python -m benchmarks.estimates`."""
    name = "SPEN, Bibtex"
    command = [sys.executable, "-m", "benchmarks.estimates", "--one", name]
    peak = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(peak) == pytest.approx(estimate(*estimates.settings(name)).total, rel=0.1)


@pytest.mark.parametrize("solver", ["gradient_descent", "anderson"])
def test_what_inference_keeps_follows_the_gradient_mode(solver: str) -> None:
    def kept(gradient: str, steps: int) -> int:
        chosen = [f"model.solver={{kind: {solver}, steps: {steps}}}", f"model.gradient={{{gradient}}}"]
        return estimate(experiment({"kind": "spen"}, *chosen), Sizes(30, 20, False)).stages[-1].step

    assert kept("kind: unroll", 40) > 2.5 * kept("kind: unroll", 10)
    assert 0 < kept("kind: implicit", 40) == kept("kind: implicit", 10) < kept("kind: unroll", 3)
    assert kept("kind: truncated, steps: 2", 40) < 2 * kept("kind: truncated, steps: 2", 10)


def test_sizes_come_from_the_configuration_the_catalogue_or_the_options() -> None:
    assert sizes_of(experiment()) == Sizes(2000, 20, False)
    assert sizes_of(experiment(), inputs=7, labels=9) == Sizes(7, 9, False)
    tree = {
        "name": "b",
        "data": {"name": "bibtex"},
        "model": {"kind": "classifier", "features": {"kind": "bag_of_words"}},
    }
    assert sizes_of(Experiment.from_tree(tree)) == Sizes(1836, 159, False)
    text = {"kind": "classifier", "features": {"kind": "kim_cnn"}}
    tree = {"name": "r", "data": {"name": "reuters", "text": {"vocabulary_size": 5000}}, "model": text}
    assert sizes_of(Experiment.from_tree(tree)) == Sizes(5000, 90, True)


def test_baselines_have_nothing_to_count() -> None:
    tree = {"name": "l", "data": {"planted": {}}, "model": {"kind": "linear"}}
    with pytest.raises(ConfigError, match="linear has no weights before it has seen the data"):
        estimate(Experiment.from_tree(tree), Sizes(10, 10, True))


def test_numbers_are_readable() -> None:
    assert [count_text(n) for n in (12, 224_000, 9_000_000, 2_500_000_000)] == ["12", "224 K", "9.00 M", "2.50 G"]
    assert [bytes_text(n) for n in (12, 2048, 3 * 2**20, 358_555_456 * 4)] == [
        "12 B",
        "2.00 KiB",
        "3.00 MiB",
        "1.34 GiB",
    ]
