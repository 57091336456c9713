"""Peak memory of a training step against T: `python -m benchmarks.flat [--save FILE]`.

Each number is from a fresh process (see benchmarks/memory.py): what one step takes beyond its inputs, its own gradients
counted. The plain loops beside mirror descent as it comes, which keeps (B, K) numbers of the steps there is room for,
with a budget, and with all of them. What it costs to go through steps again: the first's time over the last's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.harness import describe_machine
from benchmarks.memory import peak_bytes
from benchmarks.rivals import Contestant, EnergyLoop, Ours, PlainLoop
from benchmarks.timing import Budget, available_cores, interleave, limited_threads
from energynets import MirrorDescent

STEPS = (5, 10, 20, 40, 100)
BUDGET = 10


class WithBudget(Ours):
    """`energynets`, its solver told to keep no more than so many iterates."""

    name = f"energynets, memory={BUDGET}"

    def build_solver(self) -> MirrorDescent:
        return MirrorDescent(self.problem.steps, step_size=self.problem.step_size, memory=BUDGET)


class KeepsAll(Ours):
    """`energynets`, its solver told to keep every iterate."""

    name = "energynets, memory=T"

    def build_solver(self) -> MirrorDescent:
        steps = self.problem.steps
        return MirrorDescent(steps, step_size=self.problem.step_size, memory=steps)


CONTESTANTS: tuple[type[Contestant], ...] = (PlainLoop, EnergyLoop, Ours, WithBudget, KeepsAll)


def measure(labels: int, measurements: int, batch: int, threads: int) -> dict[str, Any]:
    """Megabytes by contestant and T, and what that is of the plain loop's."""
    cases = [Case("spen", labels, measurements, batch, steps, "training") for steps in STEPS]
    megabytes = {
        kind.name: {case.steps: (peak_bytes(kind, case, threads=threads) or 0) / 1e6 for case in cases}
        for kind in CONTESTANTS
    }
    gradients = 4e-6 * sum(array.size for array in cases[0].problem().parameters.values())
    return {
        "environment": describe_machine("cpu"),
        "shape": {"labels": labels, "measurements": measurements, "batch": batch},
        "gradients_mb": gradients,
        "peak_mb": megabytes,
        "growth_5_to_40": {name: peaks[40] / peaks[5] - 1 for name, peaks in megabytes.items()},
        "time_over_keeping_all": {case.steps: _time_over_keeping_all(case, threads) for case in cases},
    }


def _time_over_keeping_all(case: Case, threads: int) -> float:
    """Median over rounds of what a step takes as it comes over what it takes where it keeps all."""
    with limited_threads(threads):
        both = {kind.name: kind(case.problem(), case.task, "cpu") for kind in (Ours, KeepsAll)}
        for contestant in both.values():
            contestant.run()
        times = interleave({name: contestant.run for name, contestant in both.items()}, Budget())
    return statistics.median(a / b for a, b in zip(times[Ours.name], times[KeepsAll.name], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=4_000)
    parser.add_argument("--measurements", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--save", type=Path, help="a JSON file")
    options = parser.parse_args()
    found = measure(options.labels, options.measurements, options.batch, options.threads)
    print(f"peak MB, L x K = {options.labels} x {options.measurements}; {found['gradients_mb']:.1f} are the gradients")
    print(f"{'T':>24s}" + "".join(f"{steps:8d}" for steps in STEPS) + "  5 to 40")
    for name, peaks in found["peak_mb"].items():
        print(f"{name:>24s}" + "".join(f"{peak:8.1f}" for peak in peaks.values()), end="")
        print(f"  {found['growth_5_to_40'][name]:+7.0%}")
    print(
        f"{'time over memory=T':>24s}" + "".join(f"{ratio:8.2f}" for ratio in found["time_over_keeping_all"].values())
    )
    if options.save:
        options.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
