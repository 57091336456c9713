"""Arrays that grow piece by piece: in memory, or in files of a folder that are mapped when they are whole."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

_STEP = 1 << 18  # elements


class MemoryStore:
    """Arrays of one dimension in memory. Growing moves pages, not bytes, where the system can (Linux's mremap), and
    never keeps more beyond what is used than 256 Ki elements or a 64th of an array."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._used: dict[str, int] = {}

    def append(self, name: str, piece: np.ndarray) -> None:
        """Add to the end of an array; its first piece says of what kind it is."""
        array = self._arrays.setdefault(name, np.empty(0, piece.dtype))
        used = self._used.get(name, 0)
        end = used + len(piece)
        if end > len(array):
            array.resize(end + max(_STEP, end // 64), refcheck=False)
        array[used:end] = piece
        self._used[name] = end

    def array(self, name: str, dtype: Any) -> np.ndarray:
        """The array as it stands, without the room to grow; empty, of this kind, where nothing was added."""
        array = self._arrays.setdefault(name, np.empty(0, dtype))
        array.resize(self._used.get(name, 0), refcheck=False)
        return array


class FolderStore:
    """Arrays in the files `NAME.bin` of a folder: memory holds none of them.

    Args:
        folder: exists, and is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._hashes: dict[str, Any] = {}
        self.kinds: dict[str, np.dtype[Any]] = {}

    def append(self, name: str, piece: np.ndarray) -> None:
        """As `MemoryStore.append`.

        Raises:
            OSError: the disk is full, say.
        """
        if name not in self._files:
            self._files[name] = self._open.enter_context(open(self.folder / f"{name}.bin", "wb"))  # noqa: SIM115
            self._hashes[name], self.kinds[name] = hashlib.sha256(), piece.dtype
        data = np.ascontiguousarray(piece, self.kinds[name]).data.cast("B") if len(piece) else b""
        self._files[name].write(data)
        self._hashes[name].update(data)

    def array(self, name: str, dtype: Any) -> np.ndarray:
        """As `MemoryStore.array`; the array can be read but not written."""
        if name not in self._files:
            return np.empty(0, dtype)
        self._files[name].flush()
        return mapped(self.folder / f"{name}.bin", self.kinds[name])

    def contents(self) -> dict[str, dict[str, str]]:
        """What `MappedStore` needs to know: kind and hash of every array."""
        for file in self._files.values():
            file.flush()
        return {
            name: {"dtype": self.kinds[name].str, "sha256": digest.hexdigest()} for name, digest in self._hashes.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


class MappedStore:
    """Arrays that a `FolderStore` wrote, all mapped at once: they stay when the folder goes.

    Args:
        folder: theirs.
        contents: what `FolderStore.contents` said.
        verify: whether to hash them first (at some 1.5 GB/s).

    Raises:
        ValueError: an array is not what was written.
        OSError: or cannot be read.
    """

    def __init__(self, folder: Path, contents: dict[str, dict[str, str]], *, verify: bool = True) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        for name, facts in contents.items():
            path = folder / f"{name}.bin"
            if verify and sha256_of(path) != facts["sha256"]:
                raise ValueError(f"{path} has changed")
            self._arrays[name] = mapped(path, np.dtype(facts["dtype"]))

    def array(self, name: str, dtype: Any) -> np.ndarray:
        """As `FolderStore.array`."""
        return self._arrays[name] if name in self._arrays else np.empty(0, dtype)


Store = MemoryStore | FolderStore


def mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file's numbers, read when they are looked at."""
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


def sha256_of(path: Path) -> str:
    """Of a file's contents.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
