"""The feature cache: each document once, never stale, never half a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from energynets.data.batches import TokenBatch, batches
from energynets.data.dataset import Documents, TokenSequences
from energynets.errors import ConfigError, ShapeError
from energynets.features import FeatureCache, KimCNN

V = 12


class Counted(KimCNN):
    """Counts the documents that pass."""

    documents = 0

    def forward(self, inputs: TokenBatch) -> torch.Tensor:
        assert not self.training
        self.documents += len(inputs)
        return super().forward(inputs)


def documents(count: int = 11) -> Documents:
    rng = np.random.default_rng(0)
    tokens = TokenSequences.from_lists([rng.integers(1, V, n % 6).tolist() for n in range(count)], V)
    return Documents(tokens, csr_array((count, 2), dtype=np.float32))


@pytest.fixture
def network() -> Counted:
    torch.manual_seed(0)
    return Counted(V, embedding_dim=4, windows=(2, 3), num_filters=3)


@pytest.fixture(params=["memory", "disk"])
def cache(request, network, tmp_path) -> FeatureCache:
    return FeatureCache(network, storage=request.param, folder=tmp_path / "cache")


def direct(network: KimCNN, data: Documents) -> torch.Tensor:
    modes, seen = network.training, network.documents
    network.eval()
    with torch.no_grad():
        out = torch.cat([network(batch.inputs) for batch in batches(data, 100)])
    network.train(modes)
    network.documents = seen
    return out


def test_each_document_passes_once_across_epochs(cache, network) -> None:
    data = documents()
    for _ in range(5):
        features = cache.get(data, key="train", batch_size=4)
    assert network.documents == len(data)
    torch.testing.assert_close(features, direct(network, data), rtol=0, atol=1e-6)
    cache.get(data, key="validation", batch_size=4)
    assert network.documents == 2 * len(data)


def test_changed_weights_are_noticed(cache, network) -> None:
    data = documents()
    before = cache.get(data, key="train").clone()
    with torch.no_grad():
        network.convolutions[0].bias[0] += 5.0
    after = cache.get(data, key="train")
    assert network.documents == 2 * len(data)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, direct(network, data), rtol=0, atol=1e-6)


def test_another_number_of_documents_under_one_key(cache) -> None:
    cache.get(documents(11), key="train")
    with pytest.raises(ShapeError, match="holds 11 documents under 'train', got 7"):
        cache.get(documents(7), key="train")


def test_modes_come_back(cache, network) -> None:
    network.train()
    network.convolutions[1].eval()
    cache.get(documents(), key="train")
    assert network.training
    assert network.convolutions[0].training
    assert not network.convolutions[1].training


def test_features_enter_training_even_when_built_in_inference_mode(cache) -> None:
    with torch.inference_mode():
        features = cache.get(documents(), key="train")
    assert not features.requires_grad
    weight = torch.ones(features.shape[1], requires_grad=True)
    (features * weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(0))


def test_no_documents(cache, network) -> None:
    assert cache.get(documents(0), key="train").shape == (0, network.num_features)


def test_float64(cache, network) -> None:
    network.double()
    features = cache.get(documents(), key="train")
    assert features.dtype == torch.float64
    assert torch.equal(features, direct(network, documents()))


def test_disk_serves_the_next_process(network, tmp_path) -> None:
    data = documents()
    first = FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train")
    second = FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train")
    assert torch.equal(first, second)
    assert network.documents == len(data)
    assert len(list(tmp_path.iterdir())) == 2


def npy_of(folder: Path) -> Path:
    (path,) = folder.glob("*.npy")
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)


def reshape(path: Path) -> None:
    np.save(path, np.zeros((3, 3), np.float32))


def lose_facts(path: Path) -> None:
    path.with_suffix(".json").unlink()


def break_facts(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def drop_checksum(path: Path) -> None:
    facts = json.loads(path.with_suffix(".json").read_text())
    del facts["sha256"]
    path.with_suffix(".json").write_text(json.dumps(facts))


@pytest.mark.parametrize("damage", [truncate, empty, flip, reshape, lose_facts, break_facts, drop_checksum])
def test_damaged_files_are_computed_again(network, tmp_path, damage) -> None:
    data = documents()
    good = FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train").clone()
    damage(npy_of(tmp_path))
    with pytest.warns(UserWarning, match="computed again"):
        again = FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train")
    assert torch.equal(again, good)
    assert network.documents == 2 * len(data)
    FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train")
    assert network.documents == 2 * len(data)


def test_a_failure_midway_leaves_nothing_and_restores_the_mode(network, tmp_path, monkeypatch) -> None:
    network.train()
    calls = []

    def failing(self: object, inputs: TokenBatch) -> torch.Tensor:
        calls.append(len(inputs))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return torch.zeros(len(inputs), 6)

    monkeypatch.setattr(Counted, "forward", failing)
    with pytest.raises(OSError, match="No space"):
        FeatureCache(network, storage="disk", folder=tmp_path).get(documents(), key="train", batch_size=4)
    assert list(tmp_path.iterdir()) == []
    assert network.training


def test_writing_to_the_tensor_does_not_reach_the_file(network, tmp_path) -> None:
    data = documents()
    features = FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train")
    good = features.clone()
    features.zero_()
    assert torch.equal(FeatureCache(network, storage="disk", folder=tmp_path).get(data, key="train"), good)


def test_settings_that_cannot_be(network) -> None:
    with pytest.raises(ConfigError, match="needs a folder"):
        FeatureCache(network, storage="disk")
    with pytest.raises(ConfigError, match="unknown storage 'ram'"):
        FeatureCache(network, storage="ram")


class Own(torch.nn.Module):
    """A network whose features are not of the dtype of its weight, or not of its width."""

    num_features = 2
    input_kind = "tokens"

    def __init__(self, out: torch.dtype, width: int = 2) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.3, -1.7]))
        self.out, self.width = out, width

    def forward(self, inputs: TokenBatch) -> torch.Tensor:
        return ((inputs.lengths[:, None] + 1) * self.weight)[:, : self.width].to(self.out)


@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("out", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_features_are_kept_in_the_dtype_of_the_parameters(tmp_path, storage, out, weight) -> None:
    data, network = documents(), Own(out).to(weight)
    expected = torch.cat([network(batch.inputs) for batch in batches(data, 4)]).detach().to(weight)
    for _ in range(2):  # computed, then read
        found = FeatureCache(network, storage=storage, folder=tmp_path).get(data, key="a", batch_size=4)
        assert found.dtype == weight
        assert torch.equal(found, expected)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_features_of_another_width_are_not_broadcast(tmp_path, storage) -> None:
    cache = FeatureCache(Own(torch.float32, width=1), storage=storage, folder=tmp_path)
    with pytest.raises(
        ShapeError, match=r"features of shape \(4, 2\), documents by num_features, got \(4, 1\) from Own"
    ):
        cache.get(documents(), key="a", batch_size=4)
