"""Check and time everything on a CUDA device, and write one JSON: `python benchmarks/gpu.py --out results.json`.

Checks: CUDA float32 against CPU float64 for every energy and solver, forwards and backwards, and the tests marked
`cuda`. Times: training step and inference, medians, next to the two matrix products a step cannot do without.
`--device cpu --quick` rehearses it where there is no GPU. Needs torch, numpy, scipy and pytest only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import energynets
from energynets import ICNN, SPEN, GradientDescent, MirrorDescent, NoGradient, ProjectedGradient, infer
from energynets.energies import MeasuredEnergy
from energynets.inference import Solver
from energynets.objectives.losses import bce

FEATURES = 128


@dataclass(frozen=True)
class Shape:
    """L labels, K measurements, B documents, T steps."""

    labels: int
    measurements: int
    batch: int
    steps: int = 10


SHAPES = (
    Shape(159, 16, 128),
    Shape(159, 512, 128),
    Shape(4_000, 512, 128),
    Shape(30_000, 256, 32),
    Shape(670_091, 256, 32, 5),
)
QUICK_SHAPES = (Shape(159, 16, 128), Shape(4_000, 64, 16, 5))


def energies(shape: Shape) -> dict[str, MeasuredEnergy]:
    """The energies that are timed, with the same K."""
    half = shape.measurements // 2
    return {
        "spen": SPEN(FEATURES, shape.labels, num_measurements=shape.measurements),
        "icnn": ICNN(FEATURES, shape.labels, hidden=(half, half)),
    }


def solvers() -> dict[str, Solver]:
    """The solvers that are checked."""
    return {
        "mirror_descent": MirrorDescent(4, momentum=0.3, learn_step_sizes=True),
        "gradient_descent": GradientDescent(4, step_size=2.0),
        "projected_gradient": ProjectedGradient(4),
    }


def run_loop(
    energy: MeasuredEnergy, solver: Solver, features: torch.Tensor, targets: torch.Tensor
) -> list[torch.Tensor]:
    """Logits and every parameter's gradient."""
    logits = solver.solve(energy, energy.condition(features))
    parameters = [*energy.parameters(), *solver.parameters()]
    return [logits.detach(), *torch.autograd.grad(bce(logits, targets), parameters)]


def check(device: str) -> list[dict[str, Any]]:
    """Largest relative error of the device's float32 against CPU float64, per energy and solver."""
    rows = []
    for name, energy in energies(Shape(159, 16, 8)).items():
        for solver_name, solver in solvers().items():
            features, targets = torch.randn(8, FEATURES), torch.randint(2, (8, 159)).float()
            exact = run_loop(energy.double().cpu(), solver.double().cpu(), features.double(), targets.double())
            energy.float().to(device)
            solver.float().to(device)
            found = run_loop(energy, solver, features.to(device), targets.to(device))
            errors = [
                float((a.cpu().double() - b).norm() / b.norm().clamp(min=1e-12))
                for a, b in zip(found, exact, strict=True)
            ]
            rows.append(
                {"energy": name, "solver": solver_name, "relative_error": max(errors), "ok": max(errors) < 1e-3}
            )
    return rows


def median_ms(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median wall time of one call, the device's queue drained."""
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(shape: Shape, device: str, repeats: int) -> list[dict[str, Any]]:
    """Training step, inference and the bare products, for one shape."""
    rows = []
    features = torch.randn(shape.batch, FEATURES, device=device)
    targets = (torch.rand(shape.batch, shape.labels, device=device) < 5 / shape.labels).float()
    for name, energy in energies(shape).items():
        energy = energy.to(device)
        solver = MirrorDescent(shape.steps)
        y, rows_of_a = targets, energy.measure.detach()

        def training_step(energy: MeasuredEnergy = energy, solver: Solver = solver) -> None:
            run_loop(energy, solver, features, targets)

        def inference(energy: MeasuredEnergy = energy, solver: Solver = solver) -> None:
            with torch.no_grad():
                infer(energy, energy.condition(features), solver=solver, gradient=NoGradient())

        def products(y: torch.Tensor = y, a: torch.Tensor = rows_of_a) -> None:
            for _ in range(shape.steps):
                (y @ a.T) @ a

        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        step_ms = median_ms(training_step, device, repeats)
        peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
        infer_ms = median_ms(inference, device, repeats)
        products_ms = median_ms(products, device, repeats)
        flops = 4 * shape.batch * shape.labels * shape.measurements * shape.steps
        rows.append(
            {
                "energy": name,
                **vars(shape),
                "training_step_ms": step_ms,
                "inference_ms": infer_ms,
                "products_ms": products_ms,
                "inference_tflops": flops / infer_ms / 1e9,
                "products_tflops": flops / products_ms / 1e9,
                "documents_per_second": 1e3 * shape.batch / infer_ms,
                "peak_memory_bytes": peak,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def environment(device: str) -> dict[str, Any]:
    """Where and when."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "energynets": energynets.__version__,
        "commit": commit or None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    """Run it all; exit 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true", help="small shapes and few repeats, to rehearse")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device; rehearse with --device cpu --quick", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    checks = check(arguments.device)
    tests = None
    if arguments.device.startswith("cuda"):
        # Without the project's own pytest settings, whose plugins a GPU machine may lack.
        command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", ".", "tests/cuda"]
        tests = subprocess.run(command, check=False).returncode
    shapes, repeats = (QUICK_SHAPES, 5) if arguments.quick else (SHAPES, 30)
    timings = [row for shape in shapes for row in measure(shape, arguments.device, repeats)]
    result = {"environment": environment(arguments.device), "checks": checks, "cuda_tests": tests, "timings": timings}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    failed = [row for row in checks if not row["ok"]]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks hold; written {arguments.out}")
    return 1 if failed or tests else 0


if __name__ == "__main__":
    raise SystemExit(main())
