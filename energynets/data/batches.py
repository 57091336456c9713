"""Documents -> mini-batches of tensors, in an order that a seed fixes and a position resumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from energynets.data.dataset import Documents, Inputs, TokenSequences
from energynets.data.reveal import Reveal, mask_of
from energynets.eager import eager
from energynets.errors import DataError, ShapeError


@dataclass(frozen=True)
class SparseBatch:
    """B sparse rows: `columns` and `values` end to end, row b from `offsets[b]` to `offsets[b + 1]`.

    Args:
        columns: (nnz,) int64.
        values: (nnz,) float32.
        offsets: (B + 1,) int64.
        num_columns: D.
    """

    columns: Tensor
    values: Tensor
    offsets: Tensor
    num_columns: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to(self, device: torch.device | str) -> SparseBatch:
        return replace(
            self,
            columns=self.columns.to(device, non_blocking=True),
            values=self.values.to(device, non_blocking=True),
            offsets=self.offsets.to(device, non_blocking=True),
        )

    def check(self) -> None:
        """Where to look makes nobody wait, on a CPU: a `ShapeError` where the rows do not end with the entries.

        Entries after the last row would be dropped by some products, without a word.
        """
        if self.offsets.device.type == "cpu" and eager() and len(self.offsets):
            end, count = int(self.offsets[-1]), len(self.columns)
            if end != count:
                raise ShapeError(f"SparseBatch: expected offsets that end at its {count} entries, got an end of {end}")

    def row_indices(self) -> Tensor:
        """(nnz,) the row of each entry.

        Raises:
            ShapeError: offsets that do not end with the entries.
        """
        self.check()
        counts = self.offsets.diff()
        rows = torch.arange(len(counts), device=counts.device)
        return torch.repeat_interleave(rows, counts, output_size=len(self.columns))  # or CUDA waits to know the size

    @classmethod
    def of(cls, rows_BD: Tensor) -> SparseBatch:
        """The entries of a dense (B, D) that are not 0."""
        rows, columns = rows_BD.nonzero(as_tuple=True)
        offsets = torch.searchsorted(rows, torch.arange(len(rows_BD) + 1, device=rows.device))
        return cls(columns, rows_BD[rows, columns], offsets, rows_BD.shape[1])

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """(B, D)."""
        dtype = dtype or self.values.dtype
        out = torch.zeros(len(self), self.num_columns, dtype=dtype, device=self.values.device)
        return out.index_put_((self.row_indices(), self.columns), self.values.to(dtype), accumulate=True)


@dataclass(frozen=True)
class TokenBatch:
    """B documents padded with id 0 to the longest of the batch.

    Args:
        tokens: (B, S) int64, S >= 1.
        lengths: (B,) int64, 0 <= length <= S.
    """

    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> TokenBatch:
        return TokenBatch(self.tokens.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))


@dataclass(frozen=True)
class CachedFeatures:
    """Features that were computed before: what a model takes instead of x once x has been read.

    Args:
        values: (B, F).
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str) -> CachedFeatures:
        return CachedFeatures(self.values.to(device, non_blocking=True))


BatchInputs = SparseBatch | TokenBatch | CachedFeatures | Tensor
"""What a model reads; tensors are for feature networks of one's own."""


@dataclass(frozen=True)
class Batch:
    """What one optimiser step sees: inputs, sparse labels (`labels.dense()` is (B, L)) and row numbers (B,).

    Args:
        revealed: which labels the model is shown, (B, L) bool; None shows none.
        unknown: which labels nobody knows, (B, L) bool; None where all are known.
    """

    inputs: BatchInputs
    labels: SparseBatch
    rows: Tensor
    revealed: Tensor | None = None
    unknown: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def left_out(self) -> Tensor | None:
        """Labels neither learned from nor ranked, (B, L) bool: revealed or unknown; None where there are none."""
        if self.revealed is None or self.unknown is None:
            return self.unknown if self.revealed is None else self.revealed
        return self.revealed | self.unknown

    def to(self, device: torch.device | str) -> Batch:
        masks = (None if mask is None else mask.to(device, non_blocking=True) for mask in (self.revealed, self.unknown))
        return Batch(self.inputs.to(device), self.labels.to(device), self.rows.to(device, non_blocking=True), *masks)


def sparse_batch(matrix: csr_array) -> SparseBatch:
    """A CSR matrix as tensors."""
    return SparseBatch(
        torch.from_numpy(matrix.indices.astype(np.int64)),
        torch.from_numpy(matrix.data.astype(np.float32)),
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        matrix.shape[1],
    )


def token_batch(tokens: TokenSequences) -> TokenBatch:
    """Token sequences padded to the longest of them."""
    tokens = tokens.packed()
    lengths = tokens.lengths
    padded = np.zeros((len(tokens), max(1, int(lengths.max(initial=0)))), dtype=np.int64)
    padded[np.arange(padded.shape[1])[None, :] < lengths[:, None]] = tokens.ids
    return TokenBatch(torch.from_numpy(padded), torch.from_numpy(lengths.astype(np.int64)))


def documents_of(inputs: BatchInputs, vocabulary_size: int) -> Inputs:
    """The documents of a batch, on the CPU: the inverse of `sparse_batch` and `token_batch`.

    Args:
        inputs: B documents.
        vocabulary_size: V, of tokens.

    Raises:
        ShapeError: cached features, or inputs of another kind.
    """
    if isinstance(inputs, SparseBatch):
        parts = tuple(part.cpu().numpy() for part in (inputs.values, inputs.columns, inputs.offsets))
        return csr_array(parts, shape=(len(inputs), inputs.num_columns))
    if isinstance(inputs, TokenBatch):
        tokens, lengths = inputs.tokens.cpu().numpy(), inputs.lengths.cpu().numpy()
        ids = tokens[np.arange(tokens.shape[1])[None, :] < lengths[:, None]]
        return TokenSequences(ids.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]), vocabulary_size)
    raise ShapeError(f"expected documents, a SparseBatch or TokenBatch, got {type(inputs).__name__}")


def collate(
    documents: Documents, rows: np.ndarray, features: Tensor | None = None, reveal: Reveal | None = None
) -> Batch:
    """The batch of these rows.

    Args:
        documents: N documents.
        rows: (B,) of them.
        features: (N, F), cached features that are read instead of the inputs.
        reveal: which of their labels are shown; one that nobody knows never is.

    Raises:
        DataError: the inputs are raw text, which must be prepared first.
    """
    inputs: BatchInputs
    if features is not None:
        inputs = CachedFeatures(features[torch.from_numpy(np.asarray(rows))])
    elif isinstance(documents.inputs, csr_array):
        inputs = sparse_batch(documents.inputs[rows])
    elif isinstance(documents.inputs, TokenSequences):
        inputs = token_batch(documents.inputs[rows])
    else:
        raise DataError("raw text cannot be batched: prepare it first (energynets.data.prepare)")
    rows = np.asarray(rows, dtype=np.int64)
    revealed = None if reveal is None else torch.from_numpy(mask_of(reveal, rows, documents.num_labels))
    unknown = None
    if documents.unknown is not None:
        unknown = sparse_batch(documents.unknown[rows]).dense() > 0
        revealed = None if revealed is None else revealed & ~unknown
    return Batch(inputs, sparse_batch(documents.labels[rows]), torch.from_numpy(rows), revealed, unknown)


def epoch_order(num_documents: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one training epoch: a permutation that (seed, epoch) alone determine, so resuming needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(num_documents)


def by_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, window: int, seed: int, epoch: int
) -> np.ndarray:
    """The same documents in an order that puts those of like length into one batch, so that little is padding.

    The order is cut into windows of so many batches, each is sorted by length, and then all full batches are shuffled:
    a document meets others of its window alone, and windows differ from epoch to epoch as the order does. Documents
    that fill no batch stay at the end.

    Args:
        order: (N,) from `epoch_order`.
        lengths: (N,) tokens of each document, by its row.
        batch_size: documents a batch.
        window: batches a window; 1 leaves the order as it is.
        seed: with the epoch, fixes the order of the batches.
        epoch: its number.
    """
    full = len(order) // batch_size * batch_size
    if window == 1 or full == 0:
        return order
    sized = order[:full].copy()
    for begin in range(0, full, window * batch_size):
        part = sized[begin : begin + window * batch_size]
        part[:] = part[np.argsort(lengths[part], kind="stable")]
    shuffled = np.random.default_rng([seed, epoch, 1]).permutation(full // batch_size)
    return np.concatenate([sized.reshape(-1, batch_size)[shuffled].ravel(), order[full:]])


def training_order(documents: Documents, batch_size: int, window: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one training epoch: `epoch_order`, token sequences `by_length`."""
    order = epoch_order(len(documents), seed, epoch)
    if not isinstance(documents.inputs, TokenSequences):
        return order
    return by_length(order, documents.inputs.lengths, batch_size, window, seed, epoch)


def padded_share(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> float:
    """What share of the token places of these batches is padding, in [0, 1]."""
    sized = lengths[order]
    if len(sized) == 0:
        return 0.0
    longest = np.maximum(np.maximum.reduceat(sized, np.arange(0, len(sized), batch_size)), 1)
    documents = np.minimum(batch_size, len(sized) - batch_size * np.arange(len(longest)))
    return 1 - float(sized.sum()) / float((longest * documents).sum())


def batches(
    documents: Documents,
    batch_size: int,
    *,
    order: np.ndarray | None = None,
    start: int = 0,
    features: Tensor | None = None,
    reveal: Reveal | None = None,
) -> Iterator[Batch]:
    """Batches of `batch_size` documents in the given order (default: as stored), from batch number `start` on."""
    order = np.arange(len(documents)) if order is None else order
    for begin in range(start * batch_size, len(order), batch_size):
        yield collate(documents, order[begin : begin + batch_size], features, reveal)
