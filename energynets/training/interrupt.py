"""Ctrl-C, SIGTERM and SIGHUP as a request that training honours between two batches."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from energynets.stopping import HANGUP, stopping_signals


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved; the message says how to resume.

    A KeyboardInterrupt, so that `except Exception` does not swallow it.
    """


class Request:
    """Whether someone asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def interruptible(announce: Callable[[str], None]) -> Iterator[Request]:
    """Within it the first SIGINT, SIGTERM or SIGHUP sets the request; a second one stops at once.

    But not a second SIGHUP: the system and the shell both send one when a terminal is closed.

    Handlers can be set in the main thread only; elsewhere the request simply never comes.
    """
    request = Request()

    def handle(number: int, frame: FrameType | None) -> None:
        if request:
            if number == HANGUP:
                return
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)
        # The terminal to say it on may be gone.
        with contextlib.suppress(OSError) if number == HANGUP else contextlib.nullcontext():
            announce(
                "stopping after this batch; once more stops at once and loses what was done since the last checkpoint"
            )

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in stopping_signals()}
    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def stop_message(folder: Path, request: Request) -> str:
    """What an interrupted run tells its user."""
    name = request.signal.name if request.signal is not None else "a request"
    return f"stopped by {name}; everything up to here is saved in {folder}: continue with --resume"
