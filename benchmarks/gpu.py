"""Check and time everything on a CUDA device, in eight minutes: one JSON, `python benchmarks/gpu.py --out gpu.json`.

Checks: CUDA float32 against CPU float64 for every energy and solver, forwards and backwards, and the tests marked
`cuda`. Times: what `energynets bench` times, on the device, with the package as it comes, as a CUDA graph, in bfloat16
and compiled, next to the measured rate of products. `--device cpu --quick` rehearses it where there is no GPU.
Needs torch, numpy, scipy, rich and pytest only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import harness
from benchmarks.cases import FEATURES, Case
from benchmarks.rivals import RIVALS, Ours, OursBF16, OursCompiled, OursGraph, build_energy
from benchmarks.table import print_table
from benchmarks.timing import QUICK, Budget, interleave, summary
from energynets import GradientDescent, MirrorDescent, ProjectedGradient
from energynets.energies import MeasuredEnergy
from energynets.inference import Solver
from energynets.objectives.losses import bce

LARGEST_ERROR = 1e-3
"""Of a check: relative, float32 on the device against float64 on the CPU."""

CASES = (
    *(Case("spen", 159, 16, 128, steps, "training") for steps in (1, 10, 100)),
    Case("spen", 159, 512, 128, 10, "training"),
    Case("icnn", 159, 64, 128, 10, "training"),
    *(Case("spen", 4_000, 512, 128, steps, "training") for steps in (1, 10, 100)),
    Case("icnn", 4_000, 512, 128, 10, "training"),
    *(Case("spen", 30_000, 256, 32, steps, "training") for steps in (10, 100)),
    Case("spen", 159, 16, 128, 10, "inference"),
    Case("spen", 4_000, 512, 128, 10, "inference"),
    Case("spen", 30_000, 256, 32, 10, "inference"),
    Case("spen", 670_091, 256, 32, 5, "training"),
    Case("spen", 670_091, 256, 32, 5, "inference"),
    # Products of 32 documents are bound by memory; of so many, by arithmetic.
    Case("spen", 30_000, 256, 512, 10, "training"),
    Case("spen", 670_091, 256, 128, 5, "training"),
)
# Compilers take half a minute for each.
COMPILED_CASES = tuple(CASES[index] for index in (1, 6, 4))
QUICK_CASES = (
    Case("spen", 159, 16, 128, 1, "training"),
    Case("spen", 159, 16, 128, 10, "training"),
    Case("icnn", 159, 64, 32, 5, "training"),
    Case("spen", 4_000, 64, 16, 5, "inference"),
)


def solvers() -> dict[str, Solver]:
    """The solvers that are checked."""
    return {
        "mirror_descent": MirrorDescent(4, momentum=0.3, learn_step_sizes=True),
        "gradient_descent": GradientDescent(4, step_size=2.0),
        "projected_gradient": ProjectedGradient(4),
    }


def run_loop(
    energy: MeasuredEnergy, solver: Solver, features: torch.Tensor, targets: torch.Tensor
) -> dict[str, np.ndarray[Any, Any]]:
    """Logits and every parameter's gradient."""
    logits = solver.solve(energy, energy.condition(features))
    parameters = {**dict(energy.named_parameters()), **dict(solver.named_parameters())}
    gradients = torch.autograd.grad(bce(logits, targets), list(parameters.values()))
    found = {"logits": logits, **dict(zip(parameters, gradients, strict=True))}
    return {name: tensor.detach().cpu().numpy() for name, tensor in found.items()}


def check(device: str) -> list[dict[str, Any]]:
    """Largest relative error of the device's float32 against CPU float64, per energy and solver."""
    rows = []
    for kind in ("spen", "icnn"):
        energy = build_energy(kind, FEATURES, 159, 16)
        for name, solver in solvers().items():
            features, targets = torch.randn(8, FEATURES), torch.randint(2, (8, 159)).float()
            exact = run_loop(energy.double().cpu(), solver.double().cpu(), features.double(), targets.double())
            energy.float().to(device)
            solver.float().to(device)
            error = harness.difference(run_loop(energy, solver, features.to(device), targets.to(device)), exact)
            rows.append({"energy": kind, "solver": name, "relative_error": error, "ok": error < LARGEST_ERROR})
    return rows


def product_rates(device: str) -> dict[str, float]:
    """GFLOP/s of one square product, by what its factors are made of."""
    size, rates = 8192 if device.startswith("cuda") else 1024, {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        x, out = torch.randn(size, size, device=device).to(dtype), torch.empty(size, size, device=device, dtype=dtype)
        product = {name: lambda x=x, out=out: torch.mm(x, x, out=out)}
        times = interleave(product, Budget(seconds=1.0, min_rounds=5), device)[name]
        rates[name] = 2e-6 * size**3 / summary(times)["median_ms"]
    return rates


def add_shares(result: Mapping[str, Any], rates: Mapping[str, float]) -> None:
    """To every row, how much of the product rate it reaches."""
    for case in result["cases"]:
        for row in (*case["rows"], case["limit"]):
            if "product_gflops" in row:
                row["share_of_rate"] = {name: row["product_gflops"] / rate for name, rate in rates.items()}


def main() -> int:
    """Run it all; exit 1 where a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true", help="small shapes and few repeats, to rehearse")
    parser.add_argument("--commit", help="of the code, where the machine has no git to ask")
    parser.add_argument("--seconds", type=float, default=420, help="after which no further case is begun")
    arguments = parser.parse_args()
    device, cuda = arguments.device, arguments.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        print("no CUDA device; rehearse with --device cpu --quick", file=sys.stderr)
        return 2
    began = time.monotonic()
    torch.manual_seed(0)
    report: dict[str, Any] = {
        "checks": check(device),
        "cuda_tests": None,
        "product_gflops": product_rates(device),
    }
    if cuda:
        # Without the project's own pytest settings, whose plugins a GPU machine may lack.
        command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", ".", "tests/cuda"]
        report["cuda_tests"] = subprocess.run(command, check=False, cwd=Path(__file__).resolve().parents[1]).returncode

    def write(name: str, result: dict[str, Any]) -> None:
        # After every case: a run that is cut short leaves what it has.
        add_shares(result, report["product_gflops"])
        result["environment"]["git_commit"] = arguments.commit or result["environment"]["git_commit"]
        report[name] = result
        report["seconds"] = time.monotonic() - began
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")

    def say(done: int, total: int, note: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {done}/{total} {note}", flush=True)

    budget = QUICK if arguments.quick else Budget(seconds=2.0)
    cases = QUICK_CASES if arguments.quick else CASES
    compiled = QUICK_CASES[:1] if arguments.quick else COMPILED_CASES
    runs = {
        "timings": (cases, (Ours, OursGraph, OursBF16, *RIVALS)),
        "compiled": (compiled, (Ours, OursGraph, OursCompiled)),
    }
    for name, (chosen, contestants) in runs.items():
        left = max(arguments.seconds - (time.monotonic() - began), 0.0)
        result = harness.run(
            chosen,
            budget=budget,
            contestants=contestants,
            device=device,
            measure_memory=cuda,
            seconds=left,
            tell=say,
            finished=lambda result, name=name: write(name, result),
        )
        write(name, result)
        print_table(result, Console(width=200, highlight=False))
    failed = [row for row in report["checks"] if not row["ok"]]
    print(f"{len(report['checks']) - len(failed)} of {len(report['checks'])} checks hold; written {arguments.out}")
    wrong = [line for name in runs for line in harness.failures(report[name])]
    print("\n".join(wrong), file=sys.stderr)
    return 1 if failed or wrong or report["cuda_tests"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
