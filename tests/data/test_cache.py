"""What is kept of large files: the same documents, and never anything that is damaged, out of date or half there."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from energynets.data import cache
from energynets.data.dataset import Documents, TextDocuments
from energynets.data.load import load_dataset, read_file
from energynets.data.readers import READERS, STORED
from energynets.data.texts import Texts
from energynets.errors import DataError

FILES: dict[str, tuple[str, bytes, dict[str, bytes]]] = {
    "xmc": ("a.txt", b"3 4 3\n0,2 0:1 2:0.5\n 3:-3\n1 \n", {}),
    "svmlight": ("a.svm", b"0,2 0:1 2:0.5\n 3:-3\n1 \n", {}),
    "xmc_pair": ("a_X_Xf.txt", b"3 4\n0:1 2:0.5\n3:-3\n\n", {"a_X_Y.txt": b"3 3\n0:1 2:1\n\n1:1\n"}),
    "xmc_raw": (
        "trn.json.gz",
        gzip.compress(
            b'{"title": "One", "content": "more \\u00e9\\ud800", "target_ind": [0, 2]}\n'
            b'{"content": "", "target_ind": []}\n{"title": "two", "target_ind": [1]}\n'
        ),
        {},
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ENERGYNETS_CACHE", raising=False)
    monkeypatch.setattr(cache, "WORTH_BYTES", 1)
    return tmp_path / "home" / "energynets" / "read"


def write(folder: Path, format: str) -> Path:
    name, main, others = FILES[format]
    for other, content in others.items():
        (folder / other).write_bytes(content)
    (folder / name).write_bytes(main)
    return folder / name


def same(a: Documents, b: Documents) -> None:
    if isinstance(a.inputs, TextDocuments):
        assert isinstance(b.inputs, TextDocuments)
        assert list(a.inputs.texts) == list(b.inputs.texts)
    else:
        assert a.inputs.shape == b.inputs.shape  # type: ignore[union-attr]
        np.testing.assert_array_equal(a.inputs.toarray(), b.inputs.toarray())  # type: ignore[union-attr]
    assert a.labels.shape == b.labels.shape
    np.testing.assert_array_equal(a.labels.toarray(), b.labels.toarray())
    assert a.notes == b.notes
    assert a.label_names == b.label_names


def unread(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """From here on the reader may not be asked."""

    def fail(*args: Any, **options: Any) -> Documents:
        raise AssertionError("read again")

    monkeypatch.setitem(READERS, format, fail)


def test_every_stored_format_is_tried() -> None:
    assert sorted(FILES) == sorted(STORED)


@pytest.mark.parametrize("format", STORED)
def test_second_reading_is_the_first(format: str, tmp_path: Path, folder: Path, monkeypatch: Any) -> None:
    path = write(tmp_path, format)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    options = {"labels": tmp_path / "names.txt"}
    plain = READERS[format](path, **options)
    same(read_file(format, path, **options), plain)
    (entry,) = folder.iterdir()
    assert sorted(file.suffix for file in entry.iterdir())[-1] == ".json"
    unread(monkeypatch, format)
    again = read_file(format, path, **options)
    same(again, plain)
    rows = np.array([2, 0])
    same(again[rows], plain[rows])


def test_mapped_not_copied(tmp_path: Path) -> None:
    documents = read_file("xmc", write(tmp_path, "xmc"))
    matrix: Any = documents.inputs
    for array in (matrix.data, matrix.indices, documents.labels.indices):
        base = array
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
    raw: Any = read_file("xmc_raw", write(tmp_path, "xmc_raw")).inputs
    assert isinstance(raw.texts, Texts)
    assert raw.texts[0] == "One\nmore \u00e9\ud800"
    assert raw.texts[1:] == ("", "two")


def test_changed_source_is_read_anew_and_the_old_entry_goes(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path, "xmc")
    before = os.stat(path)
    read_file("xmc", path)
    path.write_bytes(path.read_bytes().replace(b"2:0.5", b"1:0.5"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # neither size nor time tells
    same(read_file("xmc", path), READERS["xmc"](path))
    assert len(list(folder.iterdir())) == 1
    label_names = tmp_path / "names.txt"
    for names in ("a\nb\nc\n", "a\nb\nd\n"):
        label_names.write_text(names)
        assert read_file("xmc", path, labels=label_names).label_names == tuple(names.split())


def test_options_make_other_entries(tmp_path: Path) -> None:
    path = write(tmp_path, "svmlight")
    assert read_file("svmlight", path).input_size == 4
    assert read_file("svmlight", path, num_features=9).input_size == 9
    assert read_file("svmlight", path).input_size == 4


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bit in an array": lambda entry: _flip(entry / "values.bin"),
    "array cut": lambda entry: (entry / "columns.bin").write_bytes(b""),
    "array gone": lambda entry: (entry / "label_counts.bin").unlink(),
    "bit in entry.json": lambda entry: _flip(entry / "entry.json"),
    "entry.json cut": lambda entry: (entry / "entry.json").write_text("["),
    "entry.json gone": lambda entry: (entry / "entry.json").unlink(),
    "entry.json of another kind": lambda entry: (entry / "entry.json").write_text("{}"),
    "facts changed": lambda entry: (entry / "entry.json").write_text(
        (entry / "entry.json").read_text().replace('\\"features\\": 4', '\\"features\\": 9')
    ),
    "a file": lambda entry: (shutil.rmtree(entry), entry.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_never_trusted(
    damage: Callable[[Path], object], tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "xmc")
    read_file("xmc", path)
    (entry,) = folder.iterdir()
    before = {file.name: file.read_bytes() for file in entry.iterdir()}
    damage(entry)
    same(read_file("xmc", path), READERS["xmc"](path))
    assert {file.name: file.read_bytes() for file in entry.iterdir()} == before, "made anew"
    unread(monkeypatch, "xmc")
    read_file("xmc", path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_writing_leaves_nothing(error: type[BaseException], tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path, "xmc")

    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        read_file("xmc", path, progress=stop)
    assert list(folder.iterdir()) == []
    same(read_file("xmc", path), READERS["xmc"](path))


def test_bad_file_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"2 4 3\n0 0:1\n0 0:x\n")
    with pytest.raises(DataError, match="line 3: expected a number, got 'x'"):
        read_file("xmc", path)
    assert list(folder.iterdir()) == []
    with pytest.raises(DataError, match="no such file"):
        read_file("xmc", tmp_path / "none.txt")


def test_ctrl_c_leaves_no_half_entry(tmp_path: Path, folder: Path) -> None:
    """A process that is told to stop in the middle of a large file, as a terminal would tell it."""
    rows = b"".join(b"%d 1:%d.25 7:1\n" % (i % 5, i) for i in range(200_000)) * 20
    path = tmp_path / "large.txt"
    path.write_bytes(b"4000000 9 5\n" + rows)
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom energynets.data.load import read_file\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell in the background has it ignored
        "def tell(done, total):\n    print('.', flush=True)\n"
        "read_file('xmc', Path(sys.argv[1]), progress=tell)"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        assert any(entry.suffix == ".part" for entry in folder.iterdir())
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode != 0
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path, "xmc")
    read_file("xmc", path)
    (entry,) = folder.iterdir()
    name = entry.name.rpartition("-")[0]
    old, fresh = folder / f"{name}-x.part", folder / f"{name}-y.part"
    for left in (old, fresh):
        left.mkdir()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    shutil.rmtree(entry)
    read_file("xmc", path)
    assert sorted(folder.iterdir()) == sorted([entry, fresh])


def test_the_entry_of_a_quicker_process_is_used(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path, "xmc")
    others: list[Documents] = []

    def other(done: int, total: int) -> None:
        if not others:
            others.append(read_file("xmc", path))
            made.extend((entry, entry.stat().st_ino) for entry in folder.iterdir() if entry.suffix != ".part")

    made: list[tuple[Path, int]] = []
    same(read_file("xmc", path, progress=other), others[0])
    assert [(entry, entry.stat().st_ino) for entry in folder.iterdir()] == made


def test_an_entry_that_is_open_outlives_its_folder(folder: Path) -> None:
    def make(store: Any) -> dict[str, Any]:
        store.append("a", np.arange(3))
        return {}

    made = cache.entry(folder, "a", {}, make)
    found = cache.entry(folder, "a", {}, make)
    shutil.rmtree(folder)
    for opened in (made, found):
        assert opened is not None
        assert opened[0].array("a", np.int64).tolist() == [0, 1, 2]


_RACE = """
import multiprocessing, shutil, sys, warnings
from pathlib import Path
import numpy as np
from energynets.data import cache

def race(number, barrier, said):
    warnings.simplefilter("error")
    folder = Path(sys.argv[1])
    for turn in range(150):
        version = turn % 2 * number % 2
        def make(store):
            store.append("a", np.full(1_000, version))
            store.append("b", np.full(10, version))
            return {}
        if barrier.wait() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        barrier.wait()
        try:
            found = cache.entry(folder, "a", {"version": version}, make)[0]
            said.put(str(all((found.array(name, int) == version).all() for name in "ab")))
        except Exception as error:
            said.put(repr(error))

context = multiprocessing.get_context("fork")
barrier, said = context.Barrier(3), context.SimpleQueue()
racers = [context.Process(target=race, args=(number, barrier, said)) for number in range(3)]
for racer in racers:
    racer.start()
for _ in range(3 * 150):
    print(said.get())
"""


def test_processes_that_make_an_entry_at_once(folder: Path) -> None:
    """The same one in even turns; in odd ones two versions of it, each out of date to the other."""
    done = subprocess.run([sys.executable, "-c", _RACE, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["True"] * 450, done.stderr


def test_without_a_place_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "xmc")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written"):
        same(read_file("xmc", path), READERS["xmc"](path))
    monkeypatch.setenv("ENERGYNETS_CACHE", "0")
    same(read_file("xmc", path), READERS["xmc"](path))


def test_full_disk_reads_into_memory(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.FolderStore, "append", full)
    path = write(tmp_path, "xmc")
    with pytest.warns(UserWarning, match="No space left"):
        same(read_file("xmc", path), READERS["xmc"](path))
    assert list(folder.iterdir()) == []


def test_small_files_and_read_only_folders(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data, "xmc")
    data.chmod(0o555)
    try:
        before = sorted(data.iterdir())
        load_dataset(format="xmc", train="a.txt", root=data)
        assert sorted(data.iterdir()) == before
        assert len(list(folder.iterdir())) == 1
        shutil.rmtree(folder)
        monkeypatch.setattr(cache, "WORTH_BYTES", 1 << 20)
        load_dataset(format="xmc", train="a.txt", root=data)
        assert not folder.exists()
    finally:
        data.chmod(0o755)


def test_two_splits_of_mapped_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "xmc_raw")
    test = tmp_path / "tst.json.gz"
    test.write_bytes(gzip.compress(json.dumps({"title": "three", "target_ind": [3]}).encode() + b"\n"))
    dataset = load_dataset(format="xmc_raw", train=path, test=test, validation_share=0.3)
    assert isinstance(dataset.documents.inputs, TextDocuments)
    assert isinstance(dataset.documents.inputs.texts, Texts)
    assert dataset.documents.labels.shape == (4, 4)
    assert list(dataset.split("test").inputs.texts) == ["three"]  # type: ignore[union-attr]
    os.environ["ENERGYNETS_CACHE"] = "0"
    try:
        plain = load_dataset(format="xmc_raw", train=path, test=test, validation_share=0.3)
    finally:
        del os.environ["ENERGYNETS_CACHE"]
    assert isinstance(plain.documents.inputs.texts, tuple)  # type: ignore[union-attr]
    assert plain.fingerprint == dataset.fingerprint
