"""Whole trainings, this version against an earlier one: `python -m benchmarks.trainings --before COMMIT [--save FILE]`.

Both versions train the same configurations with the same seeds, in turn, each in a process of its own; the earlier one
from a checkout beside this one, with the packages of this environment. The table says whether quality is the same, seed
by seed, and how many times as long the earlier version took.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import describe_machine

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("bibtex/spen", "bibtex/icnn", "delicious/spen", "delicious/icnn")
METRICS = ("precision@1", "f1_example")


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree of the commit, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "before")
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(place), commit], cwd=ROOT, check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True)


def train(root: Path, config: str, seed: int) -> dict[str, Any]:
    """Seconds and test metrics of one training by the version that lies there."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "energynets", "train", str(root / "configs" / f"{config}.yaml"), "--quiet"]
        command += ["--set", f"seed={seed}", "--set", "name=run"]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
        (found,) = Path(folder, "runs").rglob("result.json")
        result = json.loads(found.read_text(encoding="utf-8"))
    metrics = result["metrics"]["test"]
    return {"seconds": result["train_seconds"], **{name: 100 * metrics[name] for name in METRICS}}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads of both versions, and the median of the seeds' ratios."""
    found: dict[str, Any] = {}
    for name in ("seconds", *METRICS):
        for version in ("before", "now"):
            values = [row[version][name] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[f"{name}, {version}"] = {"mean": statistics.mean(values), "sd": spread}
    found["times as fast"] = statistics.median(row["before"]["seconds"] / row["now"]["seconds"] for row in rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="below configs/, without .yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="a JSON file")
    options = parser.parse_args()
    result: dict[str, Any] = {"environment": describe_machine("cpu"), "before": options.before, "trainings": {}}
    with checkout(options.before) as before:
        for config in options.configs:
            rows = []
            for seed in range(options.seeds):
                rows.append({"before": train(before, config, seed), "now": train(ROOT, config, seed)})
                print(config, seed, rows[-1], file=sys.stderr)
            found = {"seeds": rows, "summary": summary(rows)}
            result["trainings"][config] = found
            if options.save:
                options.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(config)
            for name, value in found["summary"].items():
                print(
                    f"  {name:24s}",
                    f"{value['mean']:.2f} ± {value['sd']:.2f}" if name != "times as fast" else f"{value:.2f}",
                )


if __name__ == "__main__":
    main()
