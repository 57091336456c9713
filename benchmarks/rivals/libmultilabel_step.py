"""LibMultiLabel's XML-CNN and its trainer's step: a script for an interpreter of their own.

    python libmultilabel_step.py FOLDER

needs libmultilabel[nn] and nothing of energynets. It reads case.json, documents.npz and, where there are some,
weights.npz from the folder and prints a line of JSON. Steps are taken by the Lightning trainer that the library makes
(`init_trainer`: clipping by value, deterministic operations). Batches are as its loader collates them: tokens padded to
the longest document, labels dense. Making them is not timed.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning  # type: ignore[import-not-found]
import numpy as np
import torch
from libmultilabel.nn.nn_utils import init_model, init_trainer  # type: ignore[import-not-found]
from lightning.pytorch.callbacks import ModelCheckpoint  # type: ignore[import-not-found]


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return 1024 * int(found[1]) if found else 0


def build(case: dict[str, Any]) -> Any:
    config = {
        "embed_dropout": case["embedding_dropout"],
        "post_encoder_dropout": case["dropout"],
        "filter_sizes": case["windows"],
        "hidden_dim": case["hidden"],
        "num_filter_per_size": case["filters"],
        "num_pool": case["chunks"],
        "activation": "relu",
    }
    vectors = torch.randn(case["vocabulary"], case["embedding"]) * 0.1
    model = init_model(
        "XMLCNN",
        config,
        classes=range(case["labels"]),
        embed_vecs=vectors,
        learning_rate=1e-3,
        monitor_metrics=["P@1"],
        silent=True,
    )
    return model.train()


def copy_weights(network: Any, weights: Any) -> None:
    """Of an energynets XMLCNN and its output; there a pooled document is laid out by chunk, here by filter."""
    count = len(network.encoder.convs)
    names = {"embedding.embedding.weight": "embedding", "linear1.bias": "bottleneck.bias"}
    names |= {"linear2.weight": "unary.weight", "linear2.bias": "unary.bias"}
    names |= {
        f"encoder.convs.{i}.{what}": f"convolution.{i}.{what}" for i in range(count) for what in ("weight", "bias")
    }
    state = {mine: torch.from_numpy(weights[theirs]) for mine, theirs in names.items()}
    columns = torch.from_numpy(weights["bottleneck.weight"])
    filters = network.encoder.convs[0].out_channels
    columns = columns.unflatten(1, (count, -1, filters)).transpose(2, 3)
    state["linear1.weight"] = columns.flatten(1)
    network.load_state_dict(state)


class Batches(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """One for each step."""

    def __init__(self, documents: Any, labels: int, count: int) -> None:
        self.documents, self.labels, self.count = documents, labels, count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for number in range(self.count):
            yield self.batch(number % len(self.documents["lengths"]))

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        lengths = self.documents["lengths"][number]
        labels = torch.zeros(len(lengths), self.labels, dtype=torch.int32)
        for row, columns in enumerate(self.documents["labels"][number]):
            labels[row, columns] = 1
        tokens = torch.from_numpy(self.documents["tokens"][number][:, : lengths.max()])
        return {"text": tokens, "label": labels, "length": torch.from_numpy(lengths)}


class Clock(lightning.Callback):  # type: ignore[misc]
    """Milliseconds from a batch at hand to new weights."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.milliseconds.append(1e3 * (time.perf_counter() - self.began))
        self.loss = float(outputs["loss"])


def main() -> None:
    folder = Path(sys.argv[1])
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    documents = dict(np.load(folder / "documents.npz"))
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    before = resident("VmRSS")
    model = build(case)
    if (folder / "weights.npz").exists():
        copy_weights(model.network, np.load(folder / "weights.npz"))
        model.eval()
        with torch.no_grad():
            alone = [
                model({"text": torch.from_numpy(tokens[None, :length])})
                for tokens, length in zip(documents["tokens"][0][:8], documents["lengths"][0][:8], strict=True)
            ]
        np.save(folder / "outputs.npy", torch.cat(alone).numpy())
        model.train()
    trainer = init_trainer(str(folder), epochs=1, silent=True, use_cpu=True, save_checkpoints=False)
    clock = Clock()
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, ModelCheckpoint)] + [clock]
    batches = Batches(documents, case["labels"], case["steps"] + 1)
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    found = {"ms": clock.milliseconds[1:], "loss": clock.loss, "peak_bytes": resident("VmHWM") - before}
    found["parameters"] = sum(parameter.numel() for parameter in model.network.parameters())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
