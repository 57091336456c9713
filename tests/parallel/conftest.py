from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))  # its toy data


@pytest.fixture(scope="session")
def server() -> Iterator:
    from processes import Server

    server = Server()
    yield server
    server.process.communicate(timeout=60)
