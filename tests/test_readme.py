"""Every command of the README and every Python example of it and of docs/ runs; long ones are accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from energynets.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PYTHON = {
    f"{page.name}-{number}": source
    for page in PAGES
    for number, source in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
}
COMMANDS = [
    line.removeprefix("$ ").partition("   #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
TARGETS = [shlex.split(command)[1] for command in COMMANDS if command.startswith("make ")]
PLANS = re.findall(r"^    energynets compare (configs/comparisons/\S+) --processes \d+$", README, re.MULTILINE)
VERBS = [command for command in COMMANDS if "energynets " in command]
INDENTED = [
    pytest.param(command, id=f"{page.name}-{number}")
    for page in PAGES
    for number, command in enumerate(
        re.findall(r"^    energynets ((?:compare|train|evaluate) .+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
]
BEGUN = 77


@pytest.mark.parametrize("name", PYTHON)
def test_python_example(name: str) -> None:
    exec(compile(PYTHON[name], name, "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("target", TARGETS)
def test_make_target_is_there(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.timeout(900)  # all of them, trainings included, beside other tests
def test_commands_run_in_their_order(tmp_path: Path) -> None:
    """As a reader would: one after another, in one folder that holds the configurations."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    assert VERBS
    for command in VERBS:
        if command == "energynets compare":
            continue  # the demonstration takes minutes; its configurations are run one by one elsewhere
        done = subprocess.run(
            ["bash", "-c", f'energynets() {{ "{sys.executable}" -m energynets "$@"; }}; set -o pipefail; {command}'],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_there_is_a_command_for_every_table() -> None:
    assert len(PLANS) == 2


@pytest.mark.parametrize("command", INDENTED)
def test_command_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is checked that is checked before anything is trained or a run is read."""

    def begin(*_: object, **__: object) -> None:
        raise typer.Exit(BEGUN)

    places = ("compare.comparison.run_cells", "compare.suite.require_optuna", "training.load_run", "training.train")
    for place in places:
        monkeypatch.setattr(f"energynets.{place}", begin)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], check=True, capture_output=True, text=True)
    assert main(words.stdout.splitlines()) == BEGUN
