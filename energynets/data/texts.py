"""Texts in one array of bytes, read when they are looked at: millions of them need no Python object each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Texts(Sequence[str]):
    """N texts out of arrays of UTF-8 bytes.

    Args:
        parts: (bytes, offsets) of each array: its text i is bytes[offsets[i] : offsets[i + 1]].
        identity: what tells these texts from all others, e.g. the hash of the files they came from.
        rows: (N,) which texts, numbered through all parts; default all of them.

    Example:
        >>> import numpy as np
        >>> from energynets.data.texts import Texts
        >>> texts = Texts([(np.frombuffer(b"oneothers", np.uint8), np.array([0, 3, 9]))], "an example")
        >>> list(texts.select(np.array([1])))
        ['others']
    """

    def __init__(
        self, parts: Sequence[tuple[np.ndarray, np.ndarray]], identity: str, rows: np.ndarray | None = None
    ) -> None:
        self._parts = tuple(parts)
        self._begins = np.cumsum([0, *(len(offsets) - 1 for _, offsets in self._parts)])
        self._identity = identity
        self._rows = np.arange(self._begins[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self._text(row) for row in self._rows[index].tolist())
        return self._text(int(self._rows[index]))

    def __iter__(self) -> Iterator[str]:
        return (self._text(row) for row in self._rows.tolist())

    def _text(self, row: int) -> str:
        part = int(np.searchsorted(self._begins, row, side="right")) - 1 if len(self._parts) > 1 else 0
        data, offsets = self._parts[part]
        at = row - int(self._begins[part])
        return data[offsets[at] : offsets[at + 1]].tobytes().decode("utf-8", "surrogatepass")

    def select(self, rows: np.ndarray) -> Texts:
        """Some of them; nothing is copied."""
        return Texts(self._parts, self._identity, self._rows[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Texts]) -> Texts:
        """One after the other; nothing is copied."""
        begins = np.cumsum([0, *(part._begins[-1] for part in parts)])
        rows = np.concatenate([part._rows + begin for part, begin in zip(parts, begins, strict=False)])
        return cls([piece for part in parts for piece in part._parts], " ".join(part._identity for part in parts), rows)

    @property
    def identity(self) -> str:
        """A hash that tells these texts from all others."""
        digest = hashlib.sha256(self._identity.encode())
        digest.update(np.ascontiguousarray(self._rows, np.int64).data)
        return digest.hexdigest()
