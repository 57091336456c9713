"""Arrays that grow: what was added, in memory and in files alike, and no room beyond it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from energynets.data import store
from energynets.data.store import FolderStore, MappedStore, MemoryStore

PIECES = st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(-9, 9), max_size=5)), max_size=12)
KINDS = {"a": np.dtype(np.int32), "b": np.dtype(np.float32)}


@given(PIECES)
def test_growing_is_concatenation(pieces: list[tuple[str, list[int]]]) -> None:
    memory = MemoryStore()
    with (
        tempfile.TemporaryDirectory() as name,
        FolderStore(Path(name)) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(store, "_STEP", 3)
        for key, numbers in pieces:
            for grown in (memory, folder):
                grown.append(key, np.array(numbers, KINDS[key]))
        for key, kind in KINDS.items():
            expected = np.array([number for k, numbers in pieces if k == key for number in numbers], kind)
            for grown in (memory, folder):
                array = grown.array(key, kind)
                assert array.dtype == kind
                np.testing.assert_array_equal(array, expected)
                assert array.base is None or isinstance(array, np.memmap), "no room left behind it"
            mapped = MappedStore(Path(name), folder.contents())
            np.testing.assert_array_equal(mapped.array(key, kind), expected)


def test_what_grows_keeps_little_room() -> None:
    grown = MemoryStore()
    for _ in range(100):
        grown.append("a", np.ones(100_000, np.int32))
    assert len(grown._arrays["a"]) < 10_000_000 * (1 + 1 / 64) + store._STEP + 100_000
    assert grown.array("a", np.int32).nbytes == 40_000_000


def test_files_can_be_read_but_not_written(tmp_path: Path) -> None:
    with FolderStore(tmp_path) as folder:
        folder.append("a", np.arange(3))
        array = folder.array("a", np.int64)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_changed_files_are_refused(tmp_path: Path) -> None:
    with FolderStore(tmp_path) as folder:
        folder.append("a", np.arange(3))
        contents = folder.contents()
    MappedStore(tmp_path, contents)
    (tmp_path / "a.bin").write_bytes(np.array([0, 1, 3]).tobytes())
    with pytest.raises(ValueError, match=r"a\.bin has changed"):
        MappedStore(tmp_path, contents)
    assert MappedStore(tmp_path, contents, verify=False).array("a", np.int64).tolist() == [0, 1, 3]
