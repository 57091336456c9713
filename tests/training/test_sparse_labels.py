"""From file to result with labels in chunks: no array of documents by labels, wherever one could hide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.utils._python_dispatch import TorchDispatchMode

from energynets.config import Experiment
from energynets.data.batches import SparseBatch
from energynets.training import trainer

LABELS, BATCH = 60_000, 32
MODELS: dict[str, dict[str, Any]] = {
    "classifier": {"kind": "classifier", "output": {"kind": "chunked"}},
    "spen": {"kind": "energy_network", "energy": {"kind": "spen", "num_measurements": 4}, "label_chunk": 1024},
}


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gave, by its bytes: checkpoints look at weights as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = ()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.nbytes > self.bytes:
                self.shape, self.bytes = tuple(tensor.shape), tensor.nbytes
        return out


def write(path: Path, documents: int) -> None:
    random = np.random.default_rng(documents)
    lines = [f"{documents} 50 {LABELS}"]
    for _ in range(documents):
        labels = np.unique(random.integers(0, LABELS, 5))
        features = np.unique(random.integers(0, 50, 10))
        lines.append(",".join(map(str, labels)) + " " + " ".join(f"{feature}:1" for feature in features))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", MODELS)
def test_no_array_of_documents_by_labels(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, documents in (("train", 100), ("test", 40)):
        write(tmp_path / f"{name}.txt", documents)
    tree = {
        "name": kind,
        "data": {"format": "xmc", "train": "train.txt", "test": "test.txt", "root": str(tmp_path)}
        | {"validation_share": 0.4},
        "model": MODELS[kind] | {"features": {"kind": "bag_of_words", "hidden": [4]}},
        "training": {"batch_size": BATCH, "monitor": "precision@1", "stages": [{"name": "joint", "epochs": 1}]},
        "evaluation": {"batch_size": BATCH},
    }
    rows = 4
    monkeypatch.setattr(trainer, "TRACED_NUMBERS", rows * LABELS)
    dense, toarray = SparseBatch.dense, csr_array.toarray

    def refuse(shape: tuple[int, ...]) -> None:
        assert np.prod(shape) < LABELS * BATCH, f"{shape} made dense"

    def checked_dense(batch: SparseBatch, *args: Any) -> torch.Tensor:
        refuse((len(batch), batch.num_columns))
        return dense(batch, *args)

    def checked_toarray(matrix: csr_array, *args: Any, **options: Any) -> np.ndarray:
        refuse(matrix.shape)
        return toarray(matrix, *args, **options)

    monkeypatch.setattr(SparseBatch, "dense", checked_dense)
    monkeypatch.setattr(csr_array, "toarray", checked_toarray)
    with Largest() as largest:
        result = trainer.train(Experiment.from_tree(tree, [], source="test"), folder=tmp_path / "run")
    assert 0 <= result.metrics["test"]["precision@1"] <= 1
    # Weights are (L, 4), a trace's tensors (4, L), chunks (B or T B, 1024) and (B, 4352).
    assert largest.bytes < 4 * LABELS * BATCH / 2, largest.shape
