"""Triton kernels on a CPU: by its interpreter, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
AGREED = "kernels agree"
"""What a script prints last."""


def run_interpreted(script: str, **environment: str) -> None:
    """Run a test file as a script: Triton reads TRITON_INTERPRET when it is imported."""
    own = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, script]
    run = subprocess.run(command, env=os.environ | own | environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert AGREED in run.stdout


def count_launches(module: ModuleType, *names: str) -> list[str]:
    """The names of the module's kernels, from now on in the order in which they are launched."""
    launched: list[str] = []
    for name in names:
        setattr(module, name, _Counted(getattr(module, name), name, launched))
    return launched


class _Counted:
    def __init__(self, kernel: Any, name: str, launched: list[str]) -> None:
        self.kernel, self.name, self.launched = kernel, name, launched

    def __getitem__(self, grid: Any) -> Any:
        self.launched.append(self.name)
        return self.kernel[grid]
