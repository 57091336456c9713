"""Of several processes that stop for one reason before they have met, one says so."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

_PATIENCE = 4.0  # seconds: for torchrun's store to answer, and for the others to stop too


@contextlib.contextmanager
def first_to_say(message: str) -> Iterator[bool]:
    """Whether no other process that torchrun has started on this machine has said these words; True without torchrun.

    Asked of torchrun's own store. Where reasons differ each process is the first to say its own, so one whose trouble
    nobody else has is heard. The block is the last thing that the process does.
    """
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or count == 1:
        yield True
        return
    # torchrun ends all others as soon as one is gone, which must keep nobody from saying why, nor change its status.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # An error said twice is better than one not said, whatever is wrong with the store.
    broken = contextlib.suppress(ImportError, KeyError, ValueError, RuntimeError)
    where = "/".join(os.environ.get(key, "0") for key in ("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT"))
    said, stopped = (f"energynets/{what}/{where}" for what in (hashlib.sha256(message.encode()).hexdigest(), "stopped"))
    store, first = None, True
    with broken:
        store = _store()
        first = store.add(said, 1) == 1
    yield first
    with broken:
        if store is not None and store.add(stopped, 1) < count:
            until = time.monotonic() + _PATIENCE
            while store.add(stopped, 0) < count and time.monotonic() < until:
                time.sleep(0.05)


def _store() -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_PATIENCE), wait_for_workers=False)
