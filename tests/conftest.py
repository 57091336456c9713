"""What all tests share: the folder of real data sets, where there is one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: processes side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Under nohup a hangup is ignored, and so it would be by the processes that tests start and hang up.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("energynets", deadline=None)  # a busy machine is no failure
settings.load_profile("energynets")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = os.environ.get("ENERGYNETS_DATA")
    if not folder:
        pytest.skip("ENERGYNETS_DATA is not set: it names the folder of real data sets")
    if not Path(folder).is_dir():
        pytest.skip(f"ENERGYNETS_DATA is {folder}, which is no folder")
    return Path(folder)
