"""Shards, shares, draws and whole tensors, without other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import Server
from safetensors.torch import load_file
from test_training import DENSE, HEAD, SPEN, STAGED, tree

from energynets.config import Experiment
from energynets.data.batches import Batch, CachedFeatures, SparseBatch, TokenBatch
from energynets.errors import ConfigError
from energynets.features.dropout import dropout
from energynets.models import Classifier
from energynets.parallel import LabelShard
from energynets.parallel.draws import Cut, cut_from, documents
from energynets.parallel.launch import check
from energynets.parallel.mesh import Mesh
from energynets.parallel.shard import shard_labels
from energynets.parallel.share import share_of
from energynets.parallel.whole import ShardedTensor
from energynets.top import TopLabels, top_labels
from energynets.training import Sizes, build_model
from energynets.training.machine import resolve_device
from energynets.training.tensors import save_file


def sparse(dense: torch.Tensor) -> SparseBatch:
    rows, columns = dense.nonzero(as_tuple=True)
    offsets = torch.nn.functional.pad((dense != 0).sum(1).cumsum(0), (1, 0))
    return SparseBatch(columns, dense[rows, columns], offsets, dense.shape[1])


def batch_of(size: int, labels: int = 7, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (torch.rand(size, n, generator=generator).round() for n in (5, labels))
    return Batch(sparse(inputs), sparse(targets), torch.arange(size))


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))
def test_shares_and_shards_are_all_of_a_batch(size: int, shares: int, shards: int) -> None:
    batch, found = batch_of(size), torch.zeros(size, 7)
    inputs, rows, weight = [], [], 0.0
    for i in range(shares):
        for j in range(shards):
            shard = LabelShard(7, j, shards)
            share = share_of(batch, i, shares, shard)
            if share.weight:
                found[share.batch.rows, shard.start : shard.stop] += share.batch.labels.dense()
        weight += share.weight
        if share.weight:
            assert share.weight == pytest.approx(len(share.batch) / size)
            inputs.append(share.batch.inputs.dense())  # type: ignore[union-attr]
            rows += share.batch.rows.tolist()
        else:
            assert len(share.batch) == 1  # the last document, so that all go the same way
    assert weight == pytest.approx(1)
    assert rows == list(range(size))
    assert torch.equal(torch.cat(inputs), batch.inputs.dense())  # type: ignore[union-attr]
    assert torch.equal(found, batch.labels.dense())


def test_shares_of_other_inputs() -> None:
    tokens = TokenBatch(torch.tensor([[4, 0, 0], [5, 6, 0], [7, 8, 9]]), torch.tensor([1, 2, 3]))
    labels, rows = batch_of(3).labels, torch.arange(3)
    first = share_of(Batch(tokens, labels, rows), 0, 2, LabelShard(7)).batch.inputs
    assert isinstance(first, TokenBatch)
    assert first.tokens.tolist() == [[4]]
    values = torch.arange(6.0).view(3, 2)
    for inputs in (values, CachedFeatures(values)):
        second: Any = share_of(Batch(inputs, labels, rows), 1, 2, LabelShard(7)).batch.inputs
        assert type(second) is type(inputs)
        found = second.values if isinstance(second, CachedFeatures) else second
        assert found.tolist() == [[2, 3], [4, 5]]


def test_dropout_of_a_share_is_that_of_the_whole() -> None:
    x = torch.randn(10, 6)
    torch.manual_seed(3)
    whole, after = dropout(x, 0.4, True), torch.rand(())
    for start, stop in ((0, 3), (3, 10)):
        torch.manual_seed(3)
        with cut_from(Cut(x, start, stop)):
            assert torch.equal(dropout(x[start:stop], 0.4, True), whole[start:stop])
        assert torch.rand(()) == after
    assert documents() is None


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_the_best_of_shards_are_the_best_of_all(shards: int, k: int, seed: int) -> None:
    """Ties go to the smaller label, also between shards."""
    logits = torch.randint(4, (5, 9), generator=torch.Generator().manual_seed(seed)).double()
    parts = [LabelShard(9, i, shards) for i in range(shards)]
    own = [top_labels([logits[:, part.start : part.stop]], k) for part in parts]
    expected = top_labels([logits], k)
    for part in parts:
        found = Stacked(part, own, k).top(own[part.index], k)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.logits, expected.logits)
        torch.testing.assert_close(found.log_total, expected.log_total)
        assert found.num_labels == 9


class Stacked(LabelShard):
    """A shard that knows what the others have: each of their tensors in turn."""

    def __init__(self, part: LabelShard, own: list[TopLabels], k: int) -> None:
        super().__init__(part.labels, part.index, part.count)
        self.__dict__["own"], self.__dict__["asked"], self.__dict__["k"] = own, 0, k

    def stack(self, tensor: torch.Tensor) -> torch.Tensor:
        others = []
        for index, best in enumerate(self.own):  # type: ignore[attr-defined]
            start = LabelShard(self.labels, index, self.count).start
            missing = tensor.shape[1] - best.logits.shape[1] if tensor.ndim == 2 else 0
            if tensor.ndim == 1:
                others.append(best.log_total)
            elif tensor.dtype == torch.int64:
                others.append(torch.nn.functional.pad(best.labels + start, (0, missing), value=self.labels))
            else:
                others.append(torch.nn.functional.pad(best.logits, (0, missing), value=-torch.inf))
        assert torch.equal(others[self.index], tensor)
        return torch.stack(others)


def test_a_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4).T,
        "b": torch.tensor(3),
        "c": torch.randn(5).bfloat16(),
        "d": torch.tensor([True, False, True]),
        "e": torch.zeros(0, 2, dtype=torch.float64),
        "f": torch.arange(7, dtype=torch.uint8),
        "g": ShardedTensor(torch.arange(6.0).view(2, 3), 1, LabelShard(3)),
    }
    save_file(tensors, tmp_path / "file", {"x": "y"})
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    tensors["g"] = tensors["g"].own  # type: ignore[union-attr]
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)  # type: ignore[arg-type]


def test_replicas_stay_replicas_of_weights_that_round_at_random(server: Server) -> None:
    head = HEAD | {"output": {"kind": "chunked", "chunk": 3, "weights": "bf16"}}
    stages = ({"name": "sgd", "epochs": 1, "optimizer": {"kind": "sgd", "learning_rate": 0.2}},)
    runs = {
        count: server.succeed(count, "replicas", tree=tree(head, stages, shards=count), labels=9, steps=12)
        for count in (1, 2)
    }
    first, second = runs[2]
    assert first == second
    assert first["losses"] != runs[1][0]["losses"]
    assert first["losses"] == pytest.approx(runs[1][0]["losses"], rel=0.15)
    assert first["losses"][-1] < 0.9 * first["losses"][0]


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DENSE, "training.parallel.labels: shards need chunks of labels: set model.output: {kind: chunked}"),
        (SPEN | {"label_chunk": None}, "training.parallel.labels: shards need chunks of labels: set model.label_chunk"),
        (SPEN | {"shortlist": 3}, "training.parallel.labels: shards do not go with model.shortlist"),
        (
            SPEN | {"label_chunk": None, "shortlist": 3},
            "training.parallel.labels: shards do not go with model.shortlist",
        ),
        ({"kind": "linear"}, "training.parallel.labels: model.kind linear is fitted by one process"),
    ],
)
def test_models_without_chunks_are_refused(model: dict[str, Any], message: str) -> None:
    settings = tree(model, STAGED[2:], shards=2)
    settings["training"]["stages"] = None
    with pytest.raises(ConfigError, match=message):
        Experiment.from_tree(settings)


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        (tree(SPEN, STAGED, shards=2), 3, "2 shards of the labels need 2 processes .*, got 3: set it to 1 or 3, or"),
        (tree(SPEN, STAGED, shards=2), 1, "got 1: set it to 1, or start others with torchrun --nproc-per-node 2"),
        ({**tree({"kind": "linear"}, ()), "training": {}}, 2, "model.kind linear is fitted by one process, got 2"),
        (tree({"kind": "linear"}, STAGED[:1]), 2, "model.kind linear is fitted by one process, got 2"),
        (tree(DENSE, STAGED[:1], compile="graph"), 2, "training.compile: graph goes with one process alone, got 2"),
    ],
)
def test_so_many_processes_are_refused(settings: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Experiment.from_tree(settings), count)


def test_models_that_cannot_be_spread_are_refused() -> None:
    spen = build_model(Experiment.from_tree(tree(SPEN | {"label_chunk": None}, STAGED)), Sizes(20, 7, False))
    with pytest.raises(ConfigError, match="only labels in chunks can be cut into shards"):
        shard_labels(spen, LabelShard(7, 0, 2))
    with pytest.raises(ConfigError, match="9 shards of 7 labels: one would be empty"):
        LabelShard(7, 0, 9)
    features = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.1))
    features.num_features = 3  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"features.1 is torch's Dropout.*use energynets.features.dropout"):
        Mesh._check_draws(Classifier(features, 7))
    head = HEAD | {"output": {"kind": "chunked", "weights": "bf16"}}
    sgd = ({"name": "sgd", "optimizer": {"kind": "sgd"}},)
    model = build_model(Experiment.from_tree(tree(head, sgd)), Sizes(20, 7, False))
    with pytest.raises(ConfigError, match="unary has bf16 weights"):
        Mesh._check_draws(model)


def test_one_device_is_not_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'cuda:1' is one device, and several processes have one each: use cuda"):
        resolve_device("cuda:1", own=0)
    assert resolve_device("cpu", own=3) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto", own=1) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="there are only 2 CUDA devices"):
        resolve_device("cuda", own=2)
