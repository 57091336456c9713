"""Every case, every contestant: gradients compared first, then clocks in turn, then memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from benchmarks.cases import FEATURES, Case
from benchmarks.limit import Limit
from benchmarks.memory import peak_bytes, share_compilations
from benchmarks.rivals import CONTESTANTS, Array, Contestant, Ours, PlainLoop
from benchmarks.timing import Budget, available_cores, interleave, limited_threads, ratio, summary
from energynets.training.machine import environment

Tell = Callable[[int, int, str], None]


def run(
    cases: Sequence[Case],
    *,
    budget: Budget,
    contestants: Sequence[type[Contestant]] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    measure_memory: bool = True,
    seconds: float | None = None,
    tell: Tell = lambda done, total, note: None,
    finished: Callable[[Mapping[str, Any]], object] = lambda result: None,
) -> dict[str, Any]:
    """Measure the cases.

    Args:
        cases: what is timed.
        budget: how long each.
        contestants: `Ours` first; default `CONTESTANTS`.
        threads: of everybody; default all cores there are.
        device: where torch computes.
        measure_memory: take peaks too.
        seconds: after which no further case is begun; which were not is said in the result.
        tell: is told cases done, all cases, and what is being done.
        finished: is given the result so far after each case.

    Returns:
        Environment, contestants, and the measurements of each case, as plain data.
    """
    threads = threads or available_cores()
    present, listed = [], {}
    for kind in CONTESTANTS if contestants is None else contestants:
        reason = kind.missing(device)
        about = (kind.__doc__ or "").splitlines()[0]
        listed[kind.name] = {"about": about, "tolerance": kind.tolerance, "skipped": reason}
        if reason is None:
            present.append(kind)
    with limited_threads(threads):
        share_compilations()
        result: dict[str, Any] = {
            "environment": describe_machine(device, present),
            "features": FEATURES,
            "contestants": listed,
            "cases": [],
            "not_begun": [],
        }
        began = time.monotonic()
        winners: dict[Any, str] = {}
        for done, case in enumerate(cases):
            if seconds is not None and time.monotonic() - began > seconds:
                result["not_begun"] = [later.name for later in cases[done:]]
                break

            def say(what: str, done: int = done, case: Case = case) -> None:
                tell(done, len(cases), f"{case.name}: {what}")

            found = measure(case, present, budget, device, winners, say)
            if measure_memory:
                for row in found["rows"]:
                    if row["status"] == "timed":
                        say(f"memory of {row['contestant']}")
                        kind = next(kind for kind in present if kind.name == row["contestant"])
                        row["peak_bytes"] = peak_bytes(kind, case, threads=threads, device=device)
            result["cases"].append(found)
            finished(result)
        tell(len(cases), len(cases), "")
    return result


def measure(
    case: Case,
    contestants: Sequence[type[Contestant]],
    budget: Budget,
    device: str = "cpu",
    winners: dict[Any, str] | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Clocks of one case, of those whose numbers are right.

    Every contestant's gradients (logits, for inference) are compared with those of the plain loop in float64, and with
    ours, which decides: who differs from ours by more than the tolerance is reported and not timed. Where rounding
    grows over the steps, so that the plain loop's own float32 is that far off, ten times its error is tolerated. A
    contestant of coarser factors who differs where their rounding must have grown beyond its tolerance is `unstable`:
    not timed, and no fault of its own.
    """
    problem = case.problem()
    say("the same in float64")
    exact = PlainLoop(problem.astype(np.float64), case.task, device).numbers()
    float32_error = difference(PlainLoop(problem, case.task, device).numbers(), exact)
    rounding = 10 * float32_error
    rows, runs, ours = [], {}, exact
    for kind in contestants:
        if case.task not in kind.tasks:
            continue
        say(f"gradients of {kind.name}")
        row: dict[str, Any] = {"contestant": kind.name, "status": "timed", "reason": None, "peak_bytes": None}
        rows.append(row)
        try:
            contestant = kind(problem, case.task, device)
            numbers = contestant.numbers()
        except Exception as error:  # a rival that breaks must not end the others' race
            row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
            continue
        row |= {"error": difference(numbers, exact), "difference": difference(numbers, ours)}
        tolerance = max(kind.tolerance, rounding)
        if not row["difference"] <= tolerance:
            reason = f"differs by {row['difference']:.1e}, more than {tolerance:.0e}"
            row |= {"status": "disagrees", "reason": reason}
            grown = float32_error * kind.rounding / PlainLoop.rounding
            if kind.rounding > PlainLoop.rounding and tolerance < grown:
                reason += f"; these steps make {grown:.0e} of its rounding"
                row |= {"status": "unstable", "reason": reason}
            continue
        if kind is Ours:
            ours = numbers
        runs[kind.name] = contestant.run
    say("the products alone")
    limit = Limit(case, device, winners)
    say(f"{len(runs)} contestants in turn")
    samples = interleave({**runs, "limit": limit.run}, budget, device)
    for row in rows:
        if row["status"] == "timed":
            row |= summary(samples[row["contestant"]])
            row["documents_per_second"] = 1e3 * case.batch / row["median_ms"]
            row["product_gflops"] = limit.flops / row["median_ms"] / 1e6
    own = samples.get(Ours.name)
    against = {name: ratio(own, times) for name, times in samples.items() if name != Ours.name} if own else {}
    alone = {**summary(samples["limit"]), "flops": limit.flops, "products": limit.products}
    alone["product_gflops"] = limit.flops / alone["median_ms"] / 1e6
    return {"name": case.name, **vars(case), "rows": rows, "limit": alone, "ratios": against}


def difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Largest relative difference |a - b| / |b| over the arrays; infinite where one is missing or not finite."""
    if found.keys() != expected.keys():
        return float("inf")
    worst = 0.0
    for name, right in expected.items():
        a, b = np.asarray(found[name], np.float64), np.asarray(right, np.float64)
        if a.shape != b.shape or not np.isfinite(a).all():
            return float("inf")
        worst = max(worst, float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)))
    return worst


def describe_machine(device: str, contestants: Iterable[type[Contestant]] = ()) -> dict[str, Any]:
    """Where, when and with what."""
    versions: dict[str, str] = {}
    for kind in contestants:
        versions |= kind.versions()
    return {
        **environment(torch.device(device)),
        "versions": versions,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """What went wrong, a line each."""
    return [
        f"{case['name']}: {row['contestant']} {row['status']}: {row['reason']}"
        for case in result["cases"]
        for row in case["rows"]
        if row["status"] not in ("timed", "unstable")
    ]
