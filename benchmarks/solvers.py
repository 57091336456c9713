"""Steps and time that solvers take to a given residual: `python -m benchmarks.solvers [--labels L] [--measurements K]`.

The residual is the most that a mean-field step moves a label; a document counts once it is within tolerance. Energies
are drawn, not trained; `rows` and `output` multiply A and the head's last weights: the larger, the tighter labels are
tied and the stiffer the descent. Time is processor time of one thread, the median of interleaved runs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from energynets import ICNN, SPEN, Anderson, MeasuredEnergy, MirrorDescent, NoGradient
from energynets.inference import Solver
from energynets.inference.solver import residual

STEP_SIZES, MIXINGS, LIMIT = (1.0, 0.5, 0.3, 0.1), (1.0, 0.3), 300


def make(kind: str, labels: int, measurements: int, rows: float, output: float) -> MeasuredEnergy:
    torch.manual_seed(0)
    half = measurements // 2
    energy = ICNN(150, labels, hidden=(half, half)) if kind == "ICNN" else SPEN(150, labels, num_measurements=2 * half)
    with torch.no_grad():
        energy.measure.mul_(rows)
        energy.head.output.mul_(output)
        energy.unary.bias.fill_(-3.0)
        energy.unary.weight.mul_(3)
    return energy


def within(energy, context, logits: torch.Tensor, tolerance: float) -> torch.Tensor:
    slope = energy.gradient(torch.sigmoid(logits), context) + energy.tau * logits
    return residual(energy, logits, slope) <= tolerance


@torch.no_grad()
def compare(energy: MeasuredEnergy, batch: int, tolerance: float, repeats: int) -> None:
    context = energy.condition(torch.randn(batch, 150))
    solvers: dict[str, Solver] = {}
    for size in STEP_SIZES:
        solvers[f"MirrorDescent({size})"] = MirrorDescent(LIMIT, step_size=size, tolerance=tolerance)
        # What no user can know: the fewest steps that bring every document there, by the engine, without a check.
        for steps, logits in enumerate(MirrorDescent(LIMIT, step_size=size).trajectory(energy, context)):
            if within(energy, context, logits, tolerance).all():
                solvers[f"MirrorDescent({size}), T = {steps} known"] = MirrorDescent(steps, step_size=size)
                break
    solvers |= {f"Anderson(mixing={beta})": Anderson(LIMIT, mixing=beta, tolerance=tolerance) for beta in MIXINGS}
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(repeats):
        for name, solver in solvers.items():
            start = time.process_time()
            found = solver.run(energy, context, gradient=NoGradient())
            seconds[name].append(time.process_time() - start)
    for name, solver in solvers.items():
        found = solver.run(energy, context, gradient=NoGradient())
        share = within(energy, context, found.logits, tolerance).double().mean()
        print(
            f"  {name:36s} steps {found.steps.double().mean():6.1f} (at most {found.steps.max():3d})  "
            f"{share:4.0%} there  {1e3 * statistics.median(seconds[name]):8.2f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=159)
    parser.add_argument("--measurements", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind, rows, output in (("ICNN", 1, 20), ("ICNN", 3, 20), ("ICNN", 3, 60), ("SPEN", 1, 20), ("SPEN", 2, 10)):
        print(f"{kind}, L = {options.labels}, K = {options.measurements}, rows x {rows}, output x {output}")
        energy = make(kind, options.labels, options.measurements, rows, output)
        compare(energy, options.batch, options.tolerance, options.repeats)


if __name__ == "__main__":
    main()
