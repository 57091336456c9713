"""The catalogue: what it says, what it loads, and what it tells where it cannot."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from energynets.data.catalogue import CATALOGUE, Entry, available, find, info
from energynets.data.catalogue_entries import DataFile, Facts
from energynets.data.load import load_dataset
from energynets.data.readers import READERS
from energynets.errors import DataError

NAMES = [
    "bibtex",
    "delicious",
    "tmc2007-500",
    "corel5k",
    "medical",
    "yeast",
    "scene",
    "emotions",
    "reuters",
    "goemotions",
    "citeulike-t",
    "EURLex-4K",
    "Wiki10-31K",
    "AmazonCat-13K",
    "Amazon-670K",
]
ROOT = os.environ.get("ENERGYNETS_DATA")


def test_names():
    assert list(CATALOGUE) == NAMES
    assert find("eurlex-4k").name == find("EURLEX-4K").name == "EURLex-4K"
    assert "Bibtex" in CATALOGUE
    assert 3 not in CATALOGUE
    with pytest.raises(DataError, match=r"no data set 'bibtx' in the catalogue \(did you mean 'bibtex'\?"):
        find("bibtx")


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete(name, tmp_path):
    entry = CATALOGUE[name]
    facts = entry.facts
    assert facts.format in READERS
    assert {"train", "test"} <= set(facts.documents)
    assert facts.source.startswith("http")
    assert facts.citation
    assert facts.terms
    for file in facts.files:
        assert re.fullmatch(r"[\w-]+/[\w.-]+", file.path)
        assert all(url.startswith("http") for url in file.urls)
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in file.sha256)
        assert not file.urls or file.sha256
    assert entry.fetchable != bool(facts.get)
    told = info(name.upper(), tmp_path)
    assert told["name"] == name
    assert not told["present"]
    assert "documents" in told
    assert told["files"][0]["found"] is None


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"bibtex-train.arff \(or .*\): `energynets data fetch bibtex` downloads it"):
        find("bibtex").load(tmp_path)
    for attempt in (find("Amazon-670K").load, find("Amazon-670K").fetch):
        with pytest.raises(DataError, match=r"Google Drive.*XMLRepository.html.*Amazon-670K.train.txt"):
            attempt(tmp_path)
    with pytest.raises(DataError, match=r"remainder 4 when divided by 5"):
        find("citeulike-t").load(tmp_path)
    assert available(tmp_path) == []


def tiny(**changes) -> Entry:
    files = {split: DataFile(f"tiny/{split}.txt", other_names=(f"old_{split}.txt",)) for split in ("train", "test")}
    facts = {
        "name": "tiny",
        "task": "",
        "format": "xmc",
        "splits": files,
        "documents": {"train": 2, "test": 1},
        "features": 4,
        "num_labels": 3,
        "source": "http://example.org",
        "citation": "",
        "terms": "",
    }
    return Entry(Facts(**{**facts, **changes}))  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "train.txt").write_text("2 4 3\n0,2 0:1 3:2\n 1:1\n")
    (folder / "old_test.txt.gz").write_bytes(gzip.compress(b"1 4 3\n1 2:0.5\n"))
    return tmp_path


def test_splits_are_put_together(root):
    dataset = tiny().load(root)
    assert dataset.name == "tiny"
    assert dataset.fingerprint.sizes == {"train": 2, "test": 1}
    np.testing.assert_array_equal(dataset.split("test").inputs.toarray(), [[0, 0, 0.5, 0]])
    np.testing.assert_array_equal(dataset.split("train").labels.toarray(), [[1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": {"train": 3, "test": 1}}, "train.txt: expected 3 documents as published for tiny, got 2"),
        ({"features": 5}, "expected 5 features"),
        ({"num_labels": 4}, "expected 4 labels"),
    ],
)
def test_other_sizes_than_published_are_refused(root, changes, message):
    with pytest.raises(DataError, match=message):
        tiny(**changes).load(root)


def test_fetch_gets_what_is_missing(root, tmp_path):
    content = (root / "tiny/train.txt").read_bytes()
    (root / "tiny/train.txt").unlink()
    site = tmp_path / "site"
    site.mkdir()
    (site / "train.txt").write_bytes(content)
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/train.txt"
        train = DataFile("tiny/train.txt", (url,), (hashlib.sha256(content).hexdigest(),))
        test = DataFile("tiny/test.txt", (url + "-never-asked-for",), other_names=("old_test.txt",))
        entry = tiny(splits={"train": train, "test": test})
        with pytest.raises(DataError, match="data fetch tiny"):
            entry.load(root)
        paths = entry.fetch(root)
        server.shutdown()
        thread.join()
    assert [path.name for path in paths] == ["train.txt", "old_test.txt.gz"]
    assert len(entry.load(root).documents) == 3
    (root / "tiny/train.txt").write_bytes(content + b"\n")
    with pytest.raises(DataError, match=r"train\.txt: exists with another checksum: move or delete it"):
        entry.fetch(root)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


def needs(name: str) -> Path:
    if ROOT is None:
        pytest.skip("ENERGYNETS_DATA is not set")
    if not CATALOGUE[name].present(ROOT):
        pytest.skip(f"{name} is not in ENERGYNETS_DATA")
    return Path(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_real_sets_have_their_published_sizes(name):
    root = needs(name)
    dataset = load_dataset(name.upper(), root=root)
    facts = CATALOGUE[name].facts
    assert dataset.name == name
    assert len(dataset.documents) == sum(facts.documents.values())
    assert len(dataset.split("test")) == facts.documents["test"]
    held = len(dataset.split("validation"))
    assert len(dataset.split("train")) + held == len(dataset.documents) - facts.documents["test"]
    assert dataset.num_labels == facts.num_labels
    assert (dataset.label_names is not None) == (facts.format != "xmc" or facts.labels is not None)


@pytest.mark.parametrize("name", NAMES)
def test_checksums_are_those_of_the_files(name):
    root = needs(name)
    if name == "reuters":
        pytest.skip("the archive here may be packed anew: its checksum is that of the address")
    for file in CATALOGUE[name].facts.files:
        found = file.find(root)
        content = found.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        assert hashlib.sha256(content).hexdigest() in file.sha256
