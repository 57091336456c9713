"""The harness itself: what it prints and writes, and that nothing wrong or absent is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import cases, gpu, harness, limit, memory, timing
from benchmarks.cases import Case
from benchmarks.rivals import CONTESTANTS, TASKS, Contestant, Ours, PlainLoop
from benchmarks.table import short
from energynets.cli import main
from energynets.errors import ConfigError
from energynets.inference import general_path

TINY = tuple(Case("spen", 12, 4, 3, steps, task) for steps in (2, 3) for task in TASKS)
FAST = timing.Budget(seconds=0.0, min_rounds=3)
INSTALLED = [kind for kind in CONTESTANTS if kind.missing() is None]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick run of next to nothing, with what torch alone can do, so that no compiler is waited for."""
    monkeypatch.setattr(cases, "quick", lambda: TINY)
    monkeypatch.setattr(timing, "QUICK", FAST)
    monkeypatch.setattr(harness, "CONTESTANTS", (Ours, PlainLoop))


class Wrong(PlainLoop):
    """The plain loop, one gradient a thousandth too large."""

    name = "wrong"

    def run(self):
        found = dict(super().run())
        last = list(found)[-1]
        return {**found, last: found[last] * 1.001}


class Absent(Contestant):
    """A rival that nobody has."""

    name = "absent"
    packages = ("no_such_package_anywhere",)

    def run(self):
        raise AssertionError("timed without being there")


class Broken(PlainLoop):
    """A rival that does not run."""

    name = "broken"

    def run(self):
        raise RuntimeError("it does not run here")


def test_a_commit_is_short_and_says_where_the_package_was_another() -> None:
    assert short("0123456789abcdef") == "0123456789"
    assert short("0123456789abcdef-dirty") == "0123456789-dirty"


@pytest.mark.usefixtures("tiny")
def test_a_quick_run_prints_a_table_and_writes_every_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save = tmp_path / "tiny.json"
    assert main(["bench", "--quick", "--threads", "1", "--quiet", "--save", str(save)]) == 0
    out = capsys.readouterr().out
    for words in ("12 x 4", "autograd loop", "limit", "error", "threads: 1, torch", "written: "):
        assert words in out
    result = json.loads(save.read_text())
    machine = result["environment"]
    assert {"device_name", "cpu", "threads", "torch", "python", "git_commit", "date", "versions"} <= set(machine)
    assert machine["threads"] == 1
    assert [case["name"] for case in result["cases"]] == [case.name for case in TINY]
    for case in result["cases"]:
        assert {row["contestant"] for row in case["rows"]} == {"energynets", "autograd loop"}
        for row in case["rows"]:
            assert row["status"] == "timed"
            assert 0 < row["error"] < 1e-5
            assert row["min_ms"] <= row["quartiles_ms"][0] <= row["median_ms"] <= row["quartiles_ms"][1]
            assert row["rounds"] == 3
            assert row["documents_per_second"] == pytest.approx(3e3 / row["median_ms"])
            assert row["peak_bytes"] is not None
        assert set(case["ratios"]) == {"autograd loop", "limit"}
        assert case["limit"]["median_ms"] > 0
    pytest.importorskip("matplotlib")
    assert {path.name for path in tmp_path.glob("*.svg")} >= {"tiny-time-steps.svg", "tiny-memory-steps.svg"}


@pytest.mark.usefixtures("tiny")
def test_json_on_stdout_and_selection(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "-k", "T3 inference", "--quiet", "--json", "--threads", "1"]) == 0
    assert [case["name"] for case in json.loads(capsys.readouterr().out)["cases"]] == ["spen 12x4 B3 T3 inference"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-k", "spenn"], "did you mean 'spen'"), (["--save", "/nowhere/at/all.json"], "no folder /nowhere/at")],
)
def test_mistakes_are_told_before_anything_is_timed(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["bench", "--quick", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_wrong_broken_and_missing_rivals_are_reported_and_not_timed() -> None:
    contestants = (Ours, Wrong, Absent, Broken, PlainLoop)
    result = harness.run(TINY[:1], budget=FAST, contestants=contestants, threads=1, measure_memory=False)
    assert "no_such_package_anywhere not installed" in result["contestants"]["absent"]["skipped"]
    rows = {row["contestant"]: row for row in result["cases"][0]["rows"]}
    assert rows.keys() == {"energynets", "wrong", "broken", "autograd loop"}
    assert [rows[name]["status"] for name in ("wrong", "broken", "autograd loop")] == ["disagrees", "failed", "timed"]
    assert rows["wrong"]["difference"] == pytest.approx(1e-3, rel=0.01)
    assert "it does not run here" in rows["broken"]["reason"]
    assert not {"median_ms", "documents_per_second"} & (rows["wrong"].keys() | rows["broken"].keys())
    assert set(result["cases"][0]["ratios"]) == {"autograd loop", "limit"}
    assert [line.split(":")[1].strip() for line in harness.failures(result)] == ["wrong disagrees", "broken failed"]


def test_coarse_factors_are_unstable_where_their_rounding_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coarse(Wrong):
        """The same of coarse factors."""

        name = "coarse"
        tolerance = 5e-4
        rounding = 2.0**-6

    def status() -> tuple[str, int]:
        contestants = (Ours, Coarse, PlainLoop)
        result = harness.run(TINY[:1], budget=FAST, contestants=contestants, threads=1, measure_memory=False)
        rows = {row["contestant"]: row["status"] for row in result["cases"][0]["rows"]}
        assert rows["energynets"] == rows["autograd loop"] == "timed"
        return rows["coarse"], len(harness.failures(result))

    assert status() == ("unstable", 0)  # 1e-3 off; float32's 1e-7 stands for more of such factors
    monkeypatch.setattr(Coarse, "rounding", 2.0**-20)
    assert status() == ("disagrees", 1)


@pytest.mark.usefixtures("tiny")
def test_a_wrong_rival_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "CONTESTANTS", (Ours, Wrong))
    assert main(["bench", "--quick", "-k", "T2 training", "--quiet", "--threads", "1"]) == 1
    out, errors = capsys.readouterr()
    assert "disagrees" in out
    assert "wrong disagrees: differs by 1.0e-03, more than 1e-04" in errors


@pytest.mark.parametrize("kind", INSTALLED, ids=[kind.name for kind in INSTALLED])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("energy", ["spen", "icnn"])
@pytest.mark.filterwarnings("ignore")  # what rivals warn of is not ours to repair
def test_every_contestant_computes_the_same(energy: str, task: str, kind: type[Contestant]) -> None:
    case = Case(energy, 20, 6, 4, 5, task)
    exact = Ours(case.problem().astype(np.float64), task)
    with general_path():
        expected = exact.numbers()
    assert len(expected) == (1 if task == "inference" else len(exact.parameters))
    assert harness.difference(kind(case.problem(), task).numbers(), expected) < 1e-5


def test_the_limit_counts_the_products_of_the_mathematics() -> None:
    batch, labels, measurements, steps = 3, 12, 4, 5
    case = Case("spen", labels, measurements, batch, steps, "training")
    found = {product["name"]: product["count"] for product in limit.Limit(case).products}
    assert found == {
        **{"f U^T": 1, "dU": 1, "y A^T": steps, "dz A^T": steps, "dm A": steps, "dA": steps},
        "n A": 2 * steps - 1,
    }
    once = 2 * batch * labels * measurements
    unary = 2 * 2 * batch * labels * cases.FEATURES
    # dA is two products stacked as one.
    assert limit.Limit(case).flops == (7 * steps - 1) * once + unary
    forward = limit.Limit(Case("icnn", labels, measurements, batch, steps, "inference"))
    assert forward.flops == 2 * steps * once + unary // 2 + 2 * steps * 2 * batch * (measurements // 2) ** 2


@pytest.mark.parametrize("long", [0.0, 1.0])
def test_turns_are_fair(long: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_LONG", long)
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) or torch.ones(400, 400).sin() for name in ("a", "b", "c")}
    samples = timing.interleave(runs, timing.Budget(seconds=0.0, min_rounds=4, max_rounds=9))
    assert {len(times) for times in samples.values()} == {4}
    assert timing.ratio([1.0, 2.0, 3.0], [2.0, 4.0, 9.0]) == 2.0
    assert timing.summary([3.0, 1.0, 2.0])["median_ms"] == 2.0
    assert set(calls) == {"a", "b", "c"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_memory_is_that_of_the_step_and_grows_as_it_should() -> None:
    def peak(kind: type[Contestant], steps: int) -> int:
        found = memory.peak_bytes(kind, Case("spen", 4_000, 16, 64, steps, "training"), threads=1)
        assert found is not None
        return found

    number = 4 * 64 * 4_000  # bytes of one (B, L)
    short, long = peak(PlainLoop, 4), peak(PlainLoop, 24)
    # The plain loop keeps y_t at least, for each of the 20 further steps; ours nothing of that size.
    assert 20 * number < long - short < 60 * number
    assert peak(Ours, 24) - peak(Ours, 4) < 2 * number


def test_a_deadline_begins_no_further_case() -> None:
    result = harness.run(TINY, budget=FAST, contestants=(Ours,), measure_memory=False, seconds=0.0, threads=1)
    assert result["cases"] == []
    assert result["not_begun"] == [case.name for case in TINY]


def test_names_are_unique_and_select_by_words() -> None:
    names = [case.name for case in cases.full()]
    assert len(set(names)) == len(names)
    assert len(cases.select(cases.full(), "icnn T10 training")) == 5
    with pytest.raises(ConfigError, match="did you mean"):
        cases.select(cases.full(), "159x161")


def test_the_gpu_script_rehearses_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "QUICK_CASES", TINY[:1])
    monkeypatch.setattr(gpu, "QUICK", FAST)
    monkeypatch.setattr(gpu, "RIVALS", (PlainLoop,))
    monkeypatch.setattr(gpu, "OursCompiled", Absent)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--quick", "--commit", "abc", "--out", str(out)])
    assert gpu.main() == 0
    report = json.loads(out.read_text())
    assert report["timings"]["environment"]["git_commit"] == "abc"
    assert len(report["checks"]) == 6
    assert all(row["ok"] and row["relative_error"] < 1e-5 for row in report["checks"])
    rates = report["product_gflops"]
    row = report["timings"]["cases"][0]["rows"][0]
    assert row["share_of_rate"]["float32"] == pytest.approx(row["product_gflops"] / rates["float32"])
    assert report["compiled"]["contestants"]["absent"]["skipped"]
