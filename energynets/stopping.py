"""Which signals ask a program to stop. By itself: who only waits for other processes need not import what they do."""

from __future__ import annotations

import signal

# Of a terminal that is closed; not every platform has it.
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)


def stopping_signals() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM, and SIGHUP unless it is ignored, as it is under nohup: then a closed terminal stops nothing."""
    asked = (signal.SIGINT, signal.SIGTERM)
    return asked if HANGUP is None or signal.getsignal(HANGUP) is signal.SIG_IGN else (*asked, HANGUP)
