"""`energynets bench`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from energynets.errors import ConfigError, MissingExtraError


def bench(
    select: Annotated[str | None, typer.Option("--select", "-k", help="Only benchmarks whose names match.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the measurements to this JSON file.")] = None,
) -> None:
    """Run the benchmarks of a repository checkout: each speed with the quality and the machine it was measured on.

    Example: energynets bench --select unrolled --save benchmarks/results/laptop.json
    """
    import energynets

    suites = Path(energynets.__file__).resolve().parents[1] / "benchmarks"
    if not any(suites.glob("test_*.py")):
        raise ConfigError(
            f"bench: no benchmarks in {suites}; they come with a checkout of the repository, not a package"
        )
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise MissingExtraError("pytest-benchmark", "bench", "energynets bench")
    command = [sys.executable, "-m", "pytest", str(suites), "--benchmark-only", "-q", "-p", "no:cacheprovider"]
    command += ["-k", select] if select else []
    command += [f"--benchmark-json={save}"] if save else []
    status = subprocess.run(command, cwd=suites.parent).returncode
    if status == 5:
        raise ConfigError(f"bench: no benchmark matches {select!r}")
    if status:
        raise typer.Exit(1)
