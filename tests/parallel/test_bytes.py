"""What goes from process to process in a step."""

from __future__ import annotations

from typing import Any

import pytest
from processes import Server
from test_training import FEATURES, HEAD, LEARNED, SPEN, STAGED, tree

F, K, T, NUMBER = FEATURES["hidden"][0], SPEN["energy"]["num_measurements"], SPEN["solver"]["steps"], 4
LOSS, NORM = 8, 8  # float64


def sent(server: Server, model: dict[str, Any], labels: list[int], batch: int, count: int = 2, **given: Any) -> Any:
    settings = tree(model, STAGED[2:], **{"shards": count, **given})
    found = server.succeed(count, "step_bytes", tree=settings, labels=labels, batch=batch)
    assert all(each == found[0] for each in found[1:])
    return [of["sent"] for of in found[0]]


@pytest.mark.parametrize("batch", [5, 8])
def test_of_an_energy_they_do_not_grow_with_labels(server: Server, batch: int) -> None:
    expected = NUMBER * (2 * T * batch * K + batch * F) + LOSS + NORM
    assert sent(server, SPEN, [24, 240, 2400], batch) == 3 * [{"sum": expected}]
    assert sent(server, SPEN, [240], batch, count=3) == [{"sum": expected}]
    # The slopes of c_0 .. c_T besides, where step sizes and tau are learned.
    assert sent(server, LEARNED, [240], batch) == [{"sum": expected + NUMBER * (T + 1)}]


def test_of_a_head_they_do_not_grow_with_labels(server: Server) -> None:
    batch = 5
    assert sent(server, HEAD, [24, 2400], batch) == 2 * [{"sum": NUMBER * batch * F + NUMBER + NORM}]
    # |t| and s_b are sums, lse_b is gathered.
    expected = {"sum": NUMBER * (batch * F + 2 * batch) + NUMBER + NORM, "gather": NUMBER * batch}
    assert sent(server, HEAD, [24, 2400], batch, loss="softmax") == 2 * [expected]


def test_shares_of_the_documents_send_every_gradient_once(server: Server) -> None:
    settings = tree(SPEN, STAGED[2:])
    (found,), _ = server.succeed(2, "step_bytes", tree=settings, labels=[24], batch=6)
    assert found["sent"] == {"sum": found["gradients"] + NUMBER}
    assert found["gradients"] > NUMBER * 24 * (F + K)
