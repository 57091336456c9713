"""The benchmark of the output layer: everybody takes the same steps, and a wrong one is not timed."""

from __future__ import annotations

import pytest

from benchmarks import head


@pytest.mark.parametrize("name", head.CONTESTANTS)
def test_every_contestant_has_the_dense_loss(name: str) -> None:
    dense, found = (head.measure_one(kind, 300, steps=1, threads=1) for kind in ("dense, Adam", name))
    tolerance = head.CONTESTANTS[name][1]
    assert abs(found["loss"] - dense["loss"]) <= tolerance * dense["loss"]
    assert len(found["ms"]) == 1
    assert found["ms"][0] > 0


def test_who_differs_or_fails_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, labels: int, steps: int, threads: int) -> dict:
        if name == "dense, fused SGD":
            return {"failed": "out of memory"}
        loss = 1.01 if name == "chunked, SGD" else 1.0
        return {"ms": [2.0, 4.0, 3.0], "loss": loss, "peak_bytes": 10**9}

    monkeypatch.setattr(head, "in_fresh_process", run)
    rows = {row["contestant"]: row for row in head.measure(10, steps=3, rounds=2, threads=1)}
    assert rows["chunked, SGD"]["reason"].startswith("disagrees: loss 1.01, dense 1")
    assert rows["dense, fused SGD"]["reason"] == "failed: out of memory"
    assert rows["dense, Adam"]["median_ms"] == 3.0
    assert len(rows["dense, Adam"]["ms"]) == 6
    table = head.report(10, list(rows.values()))
    assert "disagrees" in table
    assert "3.0   1.00" in table
