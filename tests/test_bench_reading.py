"""The benchmark of reading: everybody reads the same documents, and whose differ are not timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import reading
from energynets.data import cache


def test_everybody_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ENERGYNETS_CACHE", raising=False)
    monkeypatch.setattr(cache, "WORTH_BYTES", 1)
    path = tmp_path / "a.txt"
    reading.generate(path, 50)
    found = [reading.measure_one(name, path) for name in reading.CONTESTANTS]
    assert len({row["sha256"] for row in found}) == 1
    assert all(row["seconds"] > 0 for row in found)
    memory, kept = found[1]["result_bytes"], found[3]["result_bytes"]
    assert kept < memory / 2, "what is mapped is not held"


def test_who_differs_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, path: Path, cache: Path) -> dict[str, object]:
        digest = "b" if name == "energynets, kept" else "a"
        return {"seconds": 2.0, "peak_bytes": 3 * 10**6, "result_bytes": 10**6, "sha256": digest}

    monkeypatch.setattr(reading, "in_fresh_process", run)
    rows = reading.measure(tmp_path / "a.txt", rounds=3)
    assert [row.get("reason") for row in rows] == [None, None, None, "disagrees"]
    assert rows[0]["seconds"] == [2.0] * 3
    assert rows[0]["beyond_result_bytes"] == 2 * 10**6
    assert "disagrees" in reading.report(10, 10**6, rows)
