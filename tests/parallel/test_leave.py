"""The thread that looks for processes that have stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

from energynets.parallel import leave


class Wrong(Exception):
    told: bool


class SlowStore:
    """Answers `check` late, as a store on a busy machine does."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.values: dict[str, Any] = {}

    def check(self, keys: list[str]) -> bool:
        self.asked.set()
        time.sleep(0.3)
        return all(key in self.values for key in keys)

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def add(self, key: str, amount: int) -> int:
        self.values[key] = self.values.get(key, 0) + amount
        return self.values[key]


@pytest.mark.parametrize("error", [None, Wrong()], ids=["well", "error"])
def test_nothing_asks_the_store_once_it_is_left(monkeypatch: pytest.MonkeyPatch, error: Wrong | None) -> None:
    """Or the interpreter may end meanwhile, and the answer that comes then aborts the process."""
    monkeypatch.setattr(leave, "_POLL", 0.01)
    store, before = SlowStore(), threading.active_count()
    with contextlib.suppress(Wrong), leave.RollCall(store, 0, 2):
        assert store.asked.wait(5)
        if error is not None:
            raise error
    assert error is None or error.told is False
    assert threading.active_count() == before
