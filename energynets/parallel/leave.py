"""Leaving the other processes so that all of them stop, soon, and one of them says why.

A process that stops for an error says so in the store through which all have met. One that waits for it in a collective
may never see it: only those that it talks with see its connections end, and on CUDA nobody does. So a thread of each
process looks into the store twice a second, and ends the process where its work has not ended by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from energynets.errors import ProcessLostError

# Seconds: between two looks into the store, and for the others to answer.
_POLL, _PATIENCE = 0.5, 4.0
_STOP, _SAID = "energynets/stop", "energynets/said"


class RollCall:
    """Within it this process answers for itself, and stops when another one does.

    Of all that stop the first one says why: its error has `told` False, for the command line, those of the others True.

    Args:
        store: through which the processes have met.
        rank: of this process.
        count: of all.
    """

    def __init__(self, store: Any, rank: int, count: int) -> None:
        self.store, self.rank, self.count = store, rank, count
        self._left = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left.set()
        try:
            if error is not None:
                self._tell(error)
        finally:
            # A thread that comes back from the store while the interpreter ends aborts the process.
            self._watcher.join(_PATIENCE)

    def _tell(self, error: BaseException) -> None:
        # torchrun ends all others as soon as one is gone, which must not keep us from saying so.
        with _unterminated(), contextlib.suppress(RuntimeError):
            self.store.set(self._key(self.rank), f"{type(error).__name__}: {error}")
            error.told = self.store.add(_STOP, 1) > 1  # type: ignore[attr-defined]
            if error.told:  # type: ignore[attr-defined]
                self._wait(_SAID)
                return
            if isinstance(error, ProcessLostError):
                error.args = (self._what_happened(),)
            self.store.set(_SAID, "")

    def _watch(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it everything
            while not self._left.wait(_POLL):
                if self.store.check([_STOP]):
                    self.store.set(self._key(self.rank), f"{ProcessLostError.__name__}: ")
                    self._wait(_SAID)
                    if not self._left.wait(_POLL):
                        os._exit(1)
                    return

    def _what_happened(self) -> str:
        others = [rank for rank in range(self.count) if rank != self.rank]
        self._wait(*map(self._key, others))
        answers = {rank: self._answer(rank) for rank in others}
        found = [
            f"process {rank} of {self.count} stopped: {text.partition(': ')[2]}"
            for rank, text in answers.items()
            if text and not text.startswith(ProcessLostError.__name__)
        ]
        silent = [str(rank) for rank, text in answers.items() if not text]
        if silent and not found:
            verb = "does" if len(silent) == 1 else "do"
            gone = f"process {', '.join(silent)} of {self.count} {verb} not answer"
            found = [f"{gone}: killed, or the machine or network is gone"]
        what = "; ".join(found) or "the connection between the processes broke"
        return f"{what}. All stop; --resume goes on from the last checkpoint"

    def _answer(self, rank: int) -> str:
        return self.store.get(self._key(rank)).decode() if self.store.check([self._key(rank)]) else ""

    def _wait(self, *keys: str) -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and not all(self.store.check([key]) for key in keys):
            time.sleep(0.05)

    @staticmethod
    def _key(rank: int) -> str:
        return f"energynets/stopped/{rank}"


@contextlib.contextmanager
def _unterminated() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
