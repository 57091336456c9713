"""The best labels of documents whose logits come a chunk at a time: against sorting all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from energynets.top import top_labels


def sorted_all(logits, k):
    order = torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :k]
    return order, logits.gather(1, order)


@given(
    seed=st.integers(0, 2**31),
    documents=st.integers(1, 5),
    labels=st.integers(1, 200),
    chunk=st.integers(1, 40),
    k=st.integers(1, 30),
    kind=st.sampled_from(["distinct", "tied", "infinite"]),
)
def test_top_labels_are_those_of_a_sort(seed, documents, labels, chunk, k, kind):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(documents, labels, generator=generator)
    if kind == "tied":
        logits = logits.round()
    elif kind == "infinite":
        logits[torch.rand(documents, labels, generator=generator) < 0.4] = -torch.inf
    found, (order, values) = top_labels(logits.split(chunk, 1), k), sorted_all(logits, k)
    assert torch.equal(found.labels, order)
    assert torch.equal(found.logits, values)
    assert found.num_labels == labels
    torch.testing.assert_close(found.log_total, logits.logsumexp(1))


@pytest.mark.parametrize("at", [0, 7, 30, 99])
def test_what_is_not_a_number_is_never_passed_over(at):
    logits = torch.randn(2, 100)
    logits[1, at] = torch.nan
    found = top_labels(logits.split(10, 1), 3)
    assert found.logits[1].isnan().any()
    assert torch.equal(found.labels[0], sorted_all(logits, 3)[0][0])


def test_chunks_may_be_overwritten():
    logits, place = torch.randn(3, 60), torch.empty(3, 10)

    def chunks():
        for part in logits.split(10, 1):
            yield place.copy_(part)

    assert torch.equal(top_labels(chunks(), 4).labels, sorted_all(logits, 4)[0])
