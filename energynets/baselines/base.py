"""What every baseline is: fitted on training documents, scores others, and is kept in one file."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, Inputs, TextDocuments, TokenSequences
from energynets.errors import CheckpointError, ConfigError, DataError, ShapeError
from energynets.metrics.scores import TopScores

Progress = Callable[[int, int], None]
State = dict[str, np.ndarray]
FILE = "baseline.safetensors"


class Baseline(ABC):
    """A model without gradient training: `fit(train)`, then `scores(documents, k)`; values are in [0, 1].

    `kind` is the name the experiment's configuration knows it by.
    """

    kind: ClassVar[str]

    @abstractmethod
    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Fit on training documents; `progress(done, total)` is called as it goes."""

    @abstractmethod
    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """The k best labels of each document (all L where k > L), in batches that bound memory."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Numbers kept from training."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Constructor arguments and sizes, as JSON values."""

    @abstractmethod
    def _arrays(self) -> State:
        """What fitting learned."""

    @classmethod
    @abstractmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        """The inverse of `_settings` and `_arrays`."""

    def save(self, folder: str | Path) -> None:
        """Write `baseline.safetensors` into the folder, whole or not at all."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        save_file(arrays, part, metadata={"kind": self.kind, "settings": json.dumps(self._settings(), sort_keys=True)})
        os.replace(part, path)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, truncated, or of another kind.
        """
        path = Path(folder) / FILE
        kind = saved_kind(folder)
        if kind != cls.kind:
            raise CheckpointError(f"{path}: expected a baseline of kind {cls.kind!r}, found {kind!r}")
        with safe_open(path, framework="numpy") as file:
            settings = json.loads(file.metadata()["settings"])
            names = file.keys()  # an open file is no mapping: it cannot be iterated
            arrays = {name: file.get_tensor(name) for name in names}
        return cls._restore(settings, arrays)


def saved_kind(folder: str | Path) -> str:
    """The kind of the baseline in a folder.

    Raises:
        CheckpointError: no baseline there, or not one of ours.
    """
    path = Path(folder) / FILE
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, so no baseline was saved in this folder") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from error
    if "kind" not in metadata or "settings" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not one that a baseline wrote")
    return metadata["kind"]


def sparse_rows(inputs: Inputs) -> csr_array:
    """(N, D) rows: a table as it is, token sequences as word counts.

    Raises:
        DataError: the inputs are raw text.
    """
    if isinstance(inputs, TokenSequences):
        return inputs.counts()
    if isinstance(inputs, TextDocuments):
        raise DataError("raw text has no columns yet: prepare it first (energynets.data.prepare)")
    return inputs


def require_training(documents: Documents) -> Documents:
    """The same documents.

    Raises:
        DataError: there are none.
    """
    if len(documents) == 0:
        raise DataError("no training documents: a baseline needs at least one")
    return documents


def require_known(documents: Documents, kind: str) -> Documents:
    """The same documents, of a baseline that cannot leave a label out of one document and learn it from another.

    Raises:
        ConfigError: some labels are unknown.
    """
    if documents.unknown is not None and (count := documents.unknown.count_nonzero()):
        raise ConfigError(
            f"baseline {kind}: expected training documents whose labels are all known, got {count} unknown ones: use "
            "linear, neighbours or label_frequency, or leave these documents out"
        )
    return documents


def require_width(rows: csr_array, width: int) -> csr_array:
    """The same rows.

    Raises:
        ShapeError: they have another number of columns than the training rows had.
    """
    if rows.shape[1] != width:
        raise ShapeError(f"fitted on {width} input columns, got {rows.shape[1]}: prepare both with one Preparation")
    return rows


def pack_csr(name: str, matrix: csr_array) -> State:
    """A CSR matrix as named arrays, integers as int64."""
    return {
        f"{name}.data": matrix.data,
        f"{name}.indices": matrix.indices.astype(np.int64),
        f"{name}.indptr": matrix.indptr.astype(np.int64),
        f"{name}.shape": np.array(matrix.shape, dtype=np.int64),
    }


def unpack_csr(name: str, arrays: State) -> csr_array:
    """The inverse of `pack_csr`."""
    data, indices, indptr = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    return csr_array((data, indices, indptr), shape=tuple(int(n) for n in arrays[f"{name}.shape"]))
