"""Processes that stop, together or alone, and runs that go on with another number of them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from processes import Server
from test_training import HEAD, SPEN, STAGED, assert_same_run, lines, tree


def run(shards: int = 1) -> dict[str, Any]:
    """Two stages, the state of Adam in the second; 10 steps in each epoch."""
    return tree(SPEN, STAGED[1:], checkpoint_every=2, shards=shards, batch_size=6)


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    server.succeed(1, "training", folder=folder, tree=run())
    return folder


@pytest.mark.parametrize(
    ("before", "after"), [((1, 1), (2, 2)), ((2, 2), (1, 1)), ((3, 3), (2, 1)), ((2, 1), (3, 3))], ids=str
)
def test_a_run_goes_on_with_other_processes(
    server: Server, tmp_path: Path, whole: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    folder = tmp_path / "run"
    # In the second stage, by a signal to the last process alone.
    stopped = {"folder": folder, "tree": run(before[1]), "asked": (before[0] - 1, 17), "slow_disk": before == (2, 2)}
    endings = server.run(before[0], "training", **stopped)
    assert [ending.status for ending in endings] == [130] * before[0], endings[0].said
    said = "".join(ending.said for ending in endings)
    assert said.count("everything up to here is saved") == said.count("energynets:") == 1
    assert [line["stage"] for line in lines(folder)] == ["energy", "energy", "joint"]
    server.succeed(after[0], "training", folder=folder, tree=run(after[1]), resume=True)
    assert_same_run(folder, whole, 1e-10)


OWN = {"learning_rate": 0.01, "kind": "sgd", "features": {"kind": "adam", "learning_rate": 0.01}}


@pytest.mark.parametrize(("before", "after"), [((1, 1), (2, 1)), ((2, 1), (1, 1))], ids=str)
@pytest.mark.parametrize(
    ("model", "own"),
    [
        (HEAD, OWN),
        (SPEN | {"keep_unary": True}, OWN | {"kind": "adam", "unary": {"kind": "sgd", "learning_rate": 0.1}}),
    ],
    ids=["head", "spen"],
)
def test_optimisers_of_their_own_go_on_with_other_processes(
    server: Server,
    tmp_path: Path,
    model: dict[str, Any],
    own: dict[str, Any],
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    """One process keeps the gradient of the unary to itself, several sum it, and so they order their optimisers."""
    stages = ({"name": "all", "epochs": 2, "optimizer": own},)

    def given(shards: int, folder: str) -> dict[str, Any]:
        made = tree(model, stages, checkpoint_every=2, shards=shards, batch_size=6)
        return {"folder": tmp_path / folder, "tree": made}

    server.succeed(1, "training", **given(1, "whole"))
    endings = server.run(before[0], "training", **given(before[1], "run"), asked=(before[0] - 1, 7))
    assert [ending.status for ending in endings] == [130] * before[0], endings[0].said
    server.succeed(after[0], "training", **given(after[1], "run"), resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole", 1e-10)


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_one_process_is_killed(server: Server, tmp_path: Path, whole: Path, dies: int) -> None:
    folder = tmp_path / "run"
    endings = server.run(3, "training", folder=folder, tree=run(3), dies=(dies, 17))
    assert endings[dies].status == -signal.SIGKILL
    others = [ending for rank, ending in enumerate(endings) if rank != dies]
    assert [ending.status for ending in others] == [1, 1], others[0].said
    said = "".join(ending.said for ending in others)
    assert f"process {dies} of 3 does not answer" in said
    assert "--resume goes on from the last checkpoint" in said
    assert said.count("energynets:") == 1
    assert "Traceback" not in said
    server.succeed(3, "training", folder=folder, tree=run(3), resume=True)
    assert_same_run(folder, whole, 1e-10)


def test_one_process_fails(server: Server, tmp_path: Path) -> None:
    """The others say what it was."""
    endings = server.run(2, "training", folder=tmp_path / "run", tree=run(2), fails=1)
    assert [ending.status for ending in endings] == [1, 1]
    said = "".join(ending.said for ending in endings)
    assert "no memory left" in said


def test_a_loss_that_is_not_finite_stops_all_before_any_weight_changes(server: Server, tmp_path: Path) -> None:
    wild = ({"name": "wild", "epochs": 3, "optimizer": {"kind": "sgd", "learning_rate": 1e30}},)
    endings = server.run(2, "training", folder=tmp_path / "run", tree=tree(HEAD, wild, shards=2), double=False)
    assert [ending.status for ending in endings] == [1, 1]
    said = "".join(ending.said for ending in endings)
    assert said.count("nothing was updated") == said.count("energynets:") == 1


def test_a_folder_in_use_is_told_once(server: Server, tmp_path: Path, whole: Path) -> None:
    endings = server.run(2, "training", folder=whole, tree=run(2))
    assert "there is a run here already" in endings[0].said
    assert endings[0].status == 2
    assert not endings[1].said
