"""Documents with sparse labels, their splits and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array, issparse, vstack

from energynets.data.texts import Texts
from energynets.errors import DataError

SPLITS = ("train", "validation", "test")
_DOCUMENTS = 10_000  # of a mapped file, looked at together


def csr(values: np.ndarray, columns: np.ndarray, offsets: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """A CSR matrix of its own memory, with 32-bit indices wherever they suffice: scikit-learn takes no others.

    Args:
        values: (nnz,).
        columns: (nnz,) integers in [0, shape[1]).
        offsets: (shape[0] + 1,) integers, row i is `columns[offsets[i]:offsets[i + 1]]`.
        shape: rows, columns.
    """
    return csr_of(values.copy(), columns.copy(), offsets.copy(), shape)


def csr_of(values: np.ndarray, columns: np.ndarray, offsets: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """As `csr`, over these very arrays where they have the right kinds: for large ones and those that are mapped."""
    kind = np.int32 if max(*shape, len(columns)) < 2**31 else np.int64
    parts = (values, columns.astype(kind, copy=False), offsets.astype(kind, copy=False))
    return csr_array(parts, shape=shape)


def row_numbers(rows: Any, count: int) -> np.ndarray:
    """What selects some of `count` documents, as their numbers (B,) int64: numbers, a mask, a slice or a range.

    Raises:
        DataError: it is none of these, or a mask of another number of documents.
    """
    if isinstance(rows, slice):
        return np.arange(count)[rows]
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, rows.step)
    try:
        found = np.asarray(rows)
    except (TypeError, ValueError):
        found = np.empty((), object)
    if found.ndim == 1 and found.dtype == bool:
        if len(found) != count:
            raise DataError(f"rows: expected a mask of {count} documents, got one of {len(found)}")
        return np.flatnonzero(found)
    if found.ndim != 1 or not (np.issubdtype(found.dtype, np.integer) or not found.size):
        came = f"{found.dtype} of shape {found.shape}" if found.dtype != object else f"a {type(rows).__name__}"
        raise DataError(f"rows: expected row numbers, a bool mask or a slice, got {came}: a list of numbers will do")
    return found.astype(np.int64, copy=False)


def _rows_among(rows: Any, count: int) -> np.ndarray:
    """`row_numbers`, each of them in [0, count).

    Raises:
        DataError: one is not.
    """
    found = row_numbers(rows, count)
    if len(found) and not (found.min() >= 0 and found.max() < count):
        wrong = found[(found < 0) | (found >= count)][0]
        raise DataError(f"rows: expected numbers from 0 to {count - 1}, got {wrong}: count from the first document on")
    return found


@dataclass(frozen=True)
class TokenSequences:
    """Token ids of N documents, each of its own length, stored end to end.

    Args:
        ids: (sum of lengths,) int32, document i is `ids[offsets[i]:offsets[i + 1]]`, in [0, vocabulary_size).
        offsets: (N + 1,) int64, non-decreasing, starting at 0.
        vocabulary_size: V. Id 0 is reserved for padding and id 1 for unknown words.
        starts: (N,) of documents out of a mapped file: document i begins at `ids[starts[i]]`, and only its length is
            what `offsets` say. `packed` gives those of a few, end to end.
    """

    ids: np.ndarray
    offsets: np.ndarray
    vocabulary_size: int
    starts: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: np.ndarray | Sequence[int] | slice) -> TokenSequences:
        rows = row_numbers(rows, len(self))
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if self.starts is not None:
            return TokenSequences(self.ids, offsets, self.vocabulary_size, self.starts[rows])
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(self.offsets[rows], lengths)
        return TokenSequences(self.ids[positions], offsets, self.vocabulary_size)

    @classmethod
    def from_lists(cls, documents: Sequence[Sequence[int]], vocabulary_size: int) -> TokenSequences:
        """Build from one sequence of ids per document."""
        offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
        parts = [np.asarray(d, dtype=np.int32) for d in documents]
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return cls(ids.astype(np.int32), offsets, vocabulary_size)

    def packed(self) -> TokenSequences:
        """The same documents end to end in memory."""
        if self.starts is None:
            return self
        positions = np.arange(self.offsets[-1]) + np.repeat(self.starts - self.offsets[:-1], self.lengths)
        return TokenSequences(np.asarray(self.ids[positions]), self.offsets, self.vocabulary_size)

    def word_counts(self) -> np.ndarray:
        """(V,) how often each id occurs."""
        if self.starts is None:
            return np.bincount(self.ids, minlength=self.vocabulary_size)
        found = np.zeros(self.vocabulary_size, np.int64)
        for begin in range(0, len(self), _DOCUMENTS):
            found += self[np.arange(begin, min(begin + _DOCUMENTS, len(self)))].packed().word_counts()
        return found

    def counts(self) -> csr_array:
        """Word counts of each document, (N, V) float32: the bag of words."""
        if self.starts is not None:
            return self.packed().counts()
        ones = np.ones(len(self.ids), dtype=np.float32)
        matrix = csr(ones, self.ids, self.offsets, (len(self), self.vocabulary_size))
        matrix.sum_duplicates()
        return matrix


@dataclass(frozen=True)
class TextDocuments:
    """Raw text of N documents, before a vocabulary exists: strings, or `Texts` where they lie in a file."""

    texts: tuple[str, ...] | Texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: np.ndarray | Sequence[int] | slice) -> TextDocuments:
        rows = row_numbers(rows, len(self))
        if isinstance(self.texts, Texts):
            return TextDocuments(self.texts.select(rows))
        return TextDocuments(tuple(self.texts[i] for i in rows))


Inputs: TypeAlias = csr_array | TokenSequences | TextDocuments


def num_rows(inputs: Inputs) -> int:
    """Number of documents, whatever the kind of input."""
    return inputs.shape[0] if isinstance(inputs, csr_array) else len(inputs)


def _concatenate(parts: Sequence[Inputs]) -> Inputs:
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise DataError(f"splits hold different kinds of input: {', '.join(type(p).__name__ for p in parts)}")
    if isinstance(first, csr_array):
        if len({part.shape[1] for part in parts}) > 1:  # type: ignore[union-attr]
            raise DataError(f"splits differ in feature count: {[part.shape[1] for part in parts]}")  # type: ignore[union-attr]
        return csr_array(vstack(parts, format="csr"))
    if isinstance(first, TokenSequences):
        parts = [part.packed() for part in parts]  # type: ignore[union-attr]
        ids = np.concatenate([part.ids for part in parts])  # type: ignore[union-attr]
        lengths = np.concatenate([part.lengths for part in parts])  # type: ignore[union-attr]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return TokenSequences(ids, offsets, first.vocabulary_size)
    if all(isinstance(part.texts, Texts) for part in parts):  # type: ignore[union-attr]
        return TextDocuments(Texts.concatenate([part.texts for part in parts]))  # type: ignore[union-attr, misc]
    return TextDocuments(tuple(text for part in parts for text in part.texts))  # type: ignore[union-attr]


def _as_csr(what: str, given: Any) -> csr_array:
    if isinstance(given, csr_array) and given.ndim == 2:
        return given
    if not issparse(given) or given.ndim != 2:
        came = type(given).__name__ + (f" of shape {tuple(given.shape)}" if hasattr(given, "shape") else "")
        raise DataError(f"{what}: expected a sparse matrix of two dimensions, got {came}: scipy.sparse.csr_array(x)")
    return csr_array(given)


def _as_inputs(given: Any) -> Inputs:
    if isinstance(given, TokenSequences | TextDocuments):
        return given
    if isinstance(given, Texts):
        return TextDocuments(given)
    listed = given.tolist() if isinstance(given, np.ndarray) and given.dtype.kind in "UO" else given
    if isinstance(listed, list | tuple):
        others = {type(text).__name__ for text in listed if not isinstance(text, str)}
        if not others:
            return TextDocuments(tuple(listed))
        raise DataError(
            f"inputs: expected a sparse table, TokenSequences or strings, got a {type(given).__name__} of "
            f"{', '.join(sorted(others))}: csr_array(x) is a table, TokenSequences.from_lists(x, size) are token ids"
        )
    return _as_csr("inputs, which are no TokenSequences and no list of strings", given)


def _expect_ones(labels: csr_array) -> None:
    data = labels.data
    if isinstance(data, np.memmap) or isinstance(data.base, np.memmap):  # which is not to be read through
        return
    if not (data == 1).all():
        wrong = data[data != 1][0]
        raise DataError(f"labels: expected 1 where a label is true and no entry elsewhere, got {wrong}")


@dataclass(frozen=True)
class Documents:
    """Inputs and labels of N documents: what one file holds, or one split.

    Args:
        inputs: (N, D) float32 CSR, or token sequences, or raw text. Another sparse matrix of scipy is made CSR, and
            a list of strings raw text.
        labels: (N, L) CSR of ones (float32), column indices sorted, no explicit zeros; a row may be empty. Another
            sparse matrix of scipy is made CSR.
        label_names: L names, or None.
        feature_names: D names, or None.
        notes: what a reader counted and a user should know, e.g. {"documents without labels": 14}.
        unknown: (N, L) CSR of ones where nobody knows whether the label is true, none of them in `labels`; None: all
            are known. Such a label is neither learned from nor ranked.

    Raises:
        DataError: inputs or labels of another kind, labels that are not 1, or parts that do not fit each other.
    """

    inputs: Inputs
    labels: csr_array
    label_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    unknown: csr_array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _as_inputs(self.inputs))
        object.__setattr__(self, "labels", _as_csr("labels", self.labels))
        if self.unknown is not None:
            object.__setattr__(self, "unknown", _as_csr("unknown", self.unknown))
        _expect_ones(self.labels)
        if num_rows(self.inputs) != self.labels.shape[0]:
            raise DataError(f"{num_rows(self.inputs)} documents but {self.labels.shape[0]} rows of labels")
        if self.label_names is not None and len(self.label_names) != self.labels.shape[1]:
            raise DataError(f"{len(self.label_names)} label names for {self.labels.shape[1]} labels")
        if self.unknown is not None:
            if self.unknown.shape != self.labels.shape:
                raise DataError(f"unknown: expected the shape of labels, {self.labels.shape}, got {self.unknown.shape}")
            if both := self.labels.multiply(self.unknown).nnz:
                raise DataError(f"unknown: {both} pairs of a document and a label are true and unknown at once")

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def __getitem__(self, rows: np.ndarray | Sequence[int] | slice) -> Documents:
        """Some documents, by their numbers in any order, a mask of all, or a slice.

        Raises:
            DataError: rows that are not there, or a mask of another length.
        """
        rows = _rows_among(rows, len(self))
        unknown = None if self.unknown is None else self.unknown[rows]
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows], notes={}, unknown=unknown)

    @property
    def num_labels(self) -> int:
        return int(self.labels.shape[1])

    @property
    def input_size(self) -> int | None:
        """D for sparse rows, V for tokens, None for raw text."""
        if isinstance(self.inputs, csr_array):
            return int(self.inputs.shape[1])
        return self.inputs.vocabulary_size if isinstance(self.inputs, TokenSequences) else None

    @classmethod
    def concatenate(cls, parts: Sequence[Documents]) -> Documents:
        """Stack documents of one label space."""
        if len({part.num_labels for part in parts}) > 1:
            raise DataError(f"splits differ in label count: {[part.num_labels for part in parts]}")
        if len({part.label_names for part in parts}) > 1:
            raise DataError("splits differ in label names")
        notes: dict[str, int] = {}
        for part in parts:
            for key, count in part.notes.items():
                notes[key] = notes.get(key, 0) + count
        labels, unknown = csr_array(vstack([part.labels for part in parts], format="csr")), None
        if any(part.unknown is not None for part in parts):
            none = [csr_array(part.labels.shape, dtype=np.float32) for part in parts]
            found = [part.unknown if part.unknown is not None else n for part, n in zip(parts, none, strict=True)]
            unknown = csr_array(vstack(found, format="csr"))
        inputs = _concatenate([p.inputs for p in parts])
        return replace(parts[0], inputs=inputs, labels=labels, notes=notes, unknown=unknown)


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a data set in a result: sizes, the hash of its contents, and how it was split.

    `documents` is N over all splits, `sizes` the rows of each split, `input_size` D or V (None for raw text),
    `labels` L, `sha256` the hash of inputs and labels *as read* (before tokenising or scaling) and of the splits.
    Two runs are comparable exactly when their `sha256` agree.
    """

    name: str
    documents: int
    sizes: Mapping[str, int]
    input_size: int | None
    labels: int
    sha256: str
    split_rule: str


def _hash(documents: Documents, splits: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    inputs = documents.inputs
    if isinstance(inputs, csr_array):
        arrays = [
            inputs.indptr.astype(np.int64, copy=False),
            inputs.indices.astype(np.int64, copy=False),
            inputs.data.astype(np.float32, copy=False),
        ]
    elif isinstance(inputs, TokenSequences):
        inputs = inputs.packed()
        arrays = [inputs.offsets.astype(np.int64, copy=False), inputs.ids.astype(np.int32, copy=False)]
    else:
        arrays = []
        for text in inputs.texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    arrays += [
        documents.labels.indptr.astype(np.int64, copy=False),
        documents.labels.indices.astype(np.int64, copy=False),
    ]
    if documents.unknown is not None:
        arrays += [part.astype(np.int64, copy=False) for part in (documents.unknown.indptr, documents.unknown.indices)]
    arrays += [splits[name].astype(np.int64, copy=False) for name in SPLITS if name in splits]
    for array in arrays:
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _disjoint(splits: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """The splits as row numbers, once it is known that they are those of `count` documents and share none."""
    found: dict[str, np.ndarray] = {}
    taken = np.zeros(count, bool)
    for name, given in splits.items():
        if name not in SPLITS:
            raise DataError(f"splits: expected names of {', '.join(SPLITS)}, got {name!r}")
        try:
            rows = found[name] = _rows_among(given, count)
        except DataError as error:
            raise DataError(f"split {name!r}: {error}") from None
        if shared := int(taken[rows].sum()):
            raise DataError(f"split {name!r}: expected documents of no other split, got {shared} that are in one")
        taken[rows] = True
    return found


@dataclass(frozen=True)
class MultiLabelDataset:
    """Documents with sparse labels and their train, validation and test rows.

    Args:
        name: what results call it.
        documents: all N documents.
        splits: split name (of `SPLITS`) -> sorted row numbers, or a mask of all documents; disjoint.
        split_rule: how the splits came about, in words, recorded in every result.
        fingerprint: identity of the data as read; computed when not given.

    Raises:
        DataError: a split of another name, with rows that are not there, or with some of another split.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> from energynets import MultiLabelDataset
        >>> from energynets.data import Documents
        >>> inputs, labels = np.eye(5, 4, dtype=np.float32), np.eye(5, 3, dtype=np.float32)
        >>> splits = {"train": np.arange(4), "test": np.array([4])}
        >>> dataset = MultiLabelDataset("mine", Documents(csr_array(inputs), csr_array(labels)), splits, "by position")
        >>> dataset.split("train").labels.shape
        (4, 3)
    """

    name: str
    documents: Documents
    splits: Mapping[str, np.ndarray]
    split_rule: str
    fingerprint: Fingerprint = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", _disjoint(self.splits, len(self.documents)))
        if self.fingerprint is None:
            fingerprint = Fingerprint(
                name=self.name,
                documents=len(self.documents),
                sizes={name: len(rows) for name, rows in self.splits.items()},
                input_size=self.documents.input_size,
                labels=self.documents.num_labels,
                sha256=_hash(self.documents, self.splits),
                split_rule=self.split_rule,
            )
            object.__setattr__(self, "fingerprint", fingerprint)

    @property
    def num_labels(self) -> int:
        return self.documents.num_labels

    @property
    def label_names(self) -> tuple[str, ...] | None:
        return self.documents.label_names

    def split(self, name: str) -> Documents:
        """The documents of one split.

        Raises:
            DataError: the data set has no such split.
        """
        if name not in self.splits:
            raise DataError(f"data set {self.name!r} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.documents[self.splits[name]]

    def with_inputs(self, inputs: Inputs, feature_names: tuple[str, ...] | None = None) -> MultiLabelDataset:
        """The same documents, labels, splits and fingerprint with inputs prepared for a model."""
        documents = replace(self.documents, inputs=inputs, feature_names=feature_names)
        return replace(self, documents=documents)
