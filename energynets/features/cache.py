"""Features computed once and kept across epochs while their network is frozen."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from energynets.data.batches import batches
from energynets.data.dataset import Documents
from energynets.errors import ConfigError, ShapeError
from energynets.features.bag_of_words import BagOfWords
from energynets.features.network import FeatureNetwork


class FeatureCache:
    """f of every document, computed in evaluation mode without a graph, recomputed when the network has changed.

    Whether it has is judged by its weights and buffers and by its `repr`. A network of one's own must show in
    `extra_repr` each plain attribute that its features depend on, or the cache does not notice a change of it.

    Args:
        features: the frozen network; f is kept in the dtype of its parameters.
        storage: memory, or disk: one memory-mapped .npy file for each key.
        folder: where the files lie; needed for disk.

    Raises:
        ConfigError: unknown storage, or disk without a folder.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> from energynets import BagOfWords, FeatureCache
        >>> from energynets.data import Documents
        >>> documents = Documents(csr_array(np.eye(3, 4, dtype=np.float32)), csr_array(np.eye(3, dtype=np.float32)))
        >>> cache = FeatureCache(BagOfWords(num_inputs=4, hidden=(8,)))
        >>> cache.get(documents, key="my data, train").shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        features: FeatureNetwork,
        *,
        storage: Literal["memory", "disk"] = "memory",
        folder: str | Path | None = None,
    ) -> None:
        if storage not in ("memory", "disk"):
            raise ConfigError(f"FeatureCache: unknown storage {storage!r} (valid: disk, memory)")
        if storage == "disk" and folder is None:
            raise ConfigError("FeatureCache: storage='disk' needs a folder")
        self.features = features
        self.folder = Path(folder) if storage == "disk" and folder is not None else None
        self._held: dict[str, tuple[str, Tensor]] = {}

    def get(
        self, documents: Documents, *, key: str, batch_size: int = 256, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Features of all documents in their order, (N, F) on CPU; do not change them in place.

        Args:
            documents: N documents, prepared for the network.
            key: identity of the documents, e.g. the data's fingerprint and the split.
            batch_size: documents a pass.
            device: where the network is.

        Raises:
            ShapeError: `key` is known, for another number of documents; or features that are not (B, num_features).
        """
        identity = _identity(self.features)
        held = self._held.get(key)
        if held is None or held[0] != identity:
            # Inference-mode tensors could not enter training, even where the caller is in that mode.
            with torch.inference_mode(False), torch.no_grad(), _evaluation_mode(self.features):
                if self.folder is None:
                    held = (identity, self._in_memory(documents, batch_size, device))
                else:
                    held = (identity, self._on_disk(self.folder, documents, key, identity, batch_size, device))
            self._held[key] = held
        if len(held[1]) != len(documents):
            raise ShapeError(f"the cache holds {len(held[1])} documents under {key!r}, got {len(documents)}")
        return held[1]

    def _in_memory(self, documents: Documents, batch_size: int, device: torch.device | str) -> Tensor:
        values = torch.empty(len(documents), self.features.num_features, dtype=_dtype(self.features))
        begin = 0
        for part in self._compute(documents, batch_size, device):
            values[begin : begin + len(part)] = part
            begin += len(part)
        return values

    def _on_disk(
        self,
        folder: Path,
        documents: Documents,
        key: str,
        identity: str,
        batch_size: int,
        device: torch.device | str,
    ) -> Tensor:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"features-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        shape = (len(documents), self.features.num_features)
        dtype = _on_disk_dtype(_dtype(self.features))
        if path.exists():
            damage = _damage(path, key, identity, shape, dtype)
            if damage is None:
                return _mapped(path, _dtype(self.features))
            if damage:
                warnings.warn(f"{path}: {damage}; the features are computed again", stacklevel=4)
        with _replacing(path) as write:
            digest = hashlib.sha256()
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(write, header)
            for part in self._compute(documents, batch_size, device):
                data = np.ascontiguousarray(_bits(part).numpy()).tobytes()
                digest.update(data)
                write.write(data)
        facts = {"key": key, "weights": identity, "shape": shape, "dtype": dtype.str, "sha256": digest.hexdigest()}
        with _replacing(_facts_path(path)) as write:
            write.write(json.dumps(facts).encode())
        return _mapped(path, _dtype(self.features))

    def _compute(self, documents: Documents, batch_size: int, device: torch.device | str) -> Iterator[Tensor]:
        """f of each batch, (B, F), in the dtype of the cache."""
        dtype, width = _dtype(self.features), self.features.num_features
        for batch in batches(documents, batch_size):
            part = self.features(batch.inputs.to(device))
            if tuple(part.shape) != (len(batch), width):
                raise ShapeError(
                    f"FeatureCache: expected features of shape {(len(batch), width)}, documents by num_features, "
                    f"got {tuple(part.shape)} from {type(self.features).__name__}: mend its num_features or forward"
                )
            yield part.to(dtype).cpu()


def _identity(features: nn.Module) -> str:
    """Hash of everything the features depend on: settings, and every weight's name, type, shape and bytes."""
    digest = hashlib.sha256(repr(features).encode())
    for name, value in sorted(features.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _dtype(features: nn.Module) -> torch.dtype:
    without = next((module.dtype for module in features.modules() if isinstance(module, BagOfWords)), torch.float32)
    return next((p.dtype for p in features.parameters() if p.is_floating_point()), without)


def _on_disk_dtype(dtype: torch.dtype) -> np.dtype:
    """numpy has no bfloat16: its bits lie there as int16."""
    return np.dtype("int16" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch."))


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


@contextmanager
def _evaluation_mode(features: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each submodule's own mode restored after."""
    modes = [(module, module.training) for module in features.modules()]
    features.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _facts_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _damage(path: Path, key: str, identity: str, shape: tuple[int, int], dtype: np.dtype) -> str | None:
    """None: the file is good. "": it is out of date. Else what is wrong with it."""
    try:
        facts = json.loads(_facts_path(path).read_text())
        if facts["key"] != key or facts["weights"] != identity:
            return ""
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.shape != shape or values.dtype != dtype:
            return f"holds {values.shape} {values.dtype}, expected {shape} {dtype}"
        digest = hashlib.sha256()
        for begin in range(0, len(values), 4096):
            digest.update(np.ascontiguousarray(values[begin : begin + 4096]).data)
        return None if digest.hexdigest() == facts["sha256"] else "its contents do not match their checksum"
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read ({error})"


def _mapped(path: Path, dtype: torch.dtype) -> Tensor:
    # Copy on write: a tensor wants writable memory, the file must not change.
    values = np.load(path, mmap_mode="c", allow_pickle=False)
    found = torch.from_numpy(values)
    return found.view(dtype) if dtype == torch.bfloat16 else found


@contextmanager
def _replacing(path: Path) -> Iterator[tempfile._TemporaryFileWrapper[bytes]]:
    """Write to a temporary file beside `path` and rename it: `path` is never half written."""
    handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False)  # noqa: SIM115
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(handle.name, path)
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise
