"""The published data sets: counts as their description states them, and every format of one set the same."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from energynets.data.dataset import Documents
from energynets.data.readers import mulan_arff, reuters, tsv, xmc

# files, XML; train, test, features, labels, cardinality, features a row, rows without features
MULAN = {
    "bibtex": ("bibtex-{}.arff.gz", "bibtex.xml", 4880, 2515, 1836, 159, 2.402, 68.66, 0),
    "delicious": ("delicious-{}.arff.gz", "delicious.xml", 12920, 3185, 500, 983, 19.020, 18.29, 0),
    "tmc2007-500": ("tmc2007-500-{}.arff.gz", "tmc2007-500.xml", 21519, 7077, 500, 22, 2.158, 22.68, 11),
    "corel5k": ("Corel5k-{}-sparse.arff", "Corel5k.xml", 4500, 500, 499, 374, 3.522, 8.27, 0),
    "medical": ("medical-{}.arff", "medical.xml", 333, 645, 1449, 45, 1.245, 13.40, 0),
    "yeast": ("yeast-{}.arff.gz", "yeast.xml", 1500, 917, 103, 14, 4.237, 103.00, 0),
    "scene": ("scene-{}.arff.gz", "scene.xml", 1211, 1196, 294, 6, 1.074, 290.62, 0),
    "emotions": ("emotions-{}.arff", "emotions.xml", 391, 202, 72, 6, 1.869, 71.76, 0),
}


def sides(root: Path, name: str) -> list[Documents]:
    files, xml = MULAN[name][:2]
    return [mulan_arff.read(root / name / files.format(side), labels=root / name / xml) for side in ("train", "test")]


@pytest.mark.parametrize("name", MULAN)
def test_mulan_sets(name: str, data_root: Path) -> None:
    _, _, num_train, num_test, features, num_labels, cardinality, density, empty = MULAN[name]
    train, test = sides(data_root, name)
    whole = Documents.concatenate([train, test])
    assert (len(train), len(test)) == (num_train, num_test)
    assert whole.inputs.shape[1] == features  # type: ignore[union-attr]
    assert whole.num_labels == num_labels
    assert whole.labels.nnz / len(whole) == pytest.approx(cardinality, abs=1e-3)
    assert whole.inputs.nnz / len(whole) == pytest.approx(density, abs=0.01)  # type: ignore[union-attr]
    assert whole.notes.get("documents without features", 0) == empty
    assert whole.notes.get("documents without labels", 0) == (14 if name == "delicious" else 0)


def test_label_order_of_yeast_is_that_of_its_xml(data_root: Path) -> None:
    train, _ = sides(data_root, "yeast")
    order = (1, 2, 3, 6, 4, 10, 11, 5, 7, 8, 9, 12, 13, 14)
    assert train.label_names == tuple(f"Class{number}" for number in order)
    with gzip.open(data_root / "yeast" / "yeast-train.arff.gz", "rt") as stream:
        first = next(line for line in stream if line[0] in "-0123456789").strip().split(",")
    in_file = np.array([float(value) for value in first[103:]])  # Class1 to Class14
    np.testing.assert_array_equal(train.labels[[0]].toarray()[0], in_file[np.array(order) - 1])


@pytest.mark.parametrize("name", ["bibtex", "delicious"])
def test_arff_and_xmc_hold_the_same(name: str, data_root: Path) -> None:
    for side, arff in zip(("train", "test"), sides(data_root, name), strict=True):
        ours = xmc.read(data_root / name / f"{name}-{side}-xmc.txt.gz")
        assert (arff.inputs != ours.inputs).nnz == 0
        assert (arff.labels != ours.labels).nnz == 0


def test_citeulike(data_root: Path) -> None:
    folder = data_root / "citeulike-t"
    train, test = (
        xmc.read(folder / f"xmc-{side}.txt.gz", labels=folder / "xmc-labels.txt.gz") for side in ("train", "test")
    )
    assert (len(train), len(test), train.num_labels, train.input_size) == (20780, 5195, 8311, 20000)
    assert (train.labels.nnz + test.labels.nnz) / 25975 == pytest.approx(8.678, abs=1e-3)
    assert train.notes == {"documents without features": 22}
    assert test.notes == {"documents without features": 9}


def test_reuters_is_the_modapte_split(data_root: Path) -> None:
    folder = data_root / "reuters21578"
    splits = reuters.read_splits(folder / "reuters21578.tar.gz")
    names = tuple((folder / "modapte90-labels.txt").read_text().split())
    with gzip.open(folder / "modapte90-split.tsv.gz", "rt") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream]
    for side, count in (("train", 7770), ("test", 3019)):
        documents = splits[side]
        assert documents.label_names == names
        assert len(documents) == count
        expected = [sorted(topics.split()) for _, split, topics in rows if split == side]
        labels = documents.labels
        found = [
            [names[j] for j in labels.indices[a:b]] for a, b in zip(labels.indptr, labels.indptr[1:], strict=False)
        ]
        assert found == expected
        assert "documents without text" not in documents.notes
    earn, acq = names.index("earn"), names.index("acq")
    assert splits["train"].labels[:, [earn, acq]].sum(axis=0).tolist() == [2877, 1650]
    assert splits["test"].labels[:, [earn, acq]].sum(axis=0).tolist() == [1087, 719]
    first = splits["train"].inputs.texts[0]  # type: ignore[union-attr]
    assert first.startswith("BAHIA COCOA REVIEW\nShowers continued throughout the week")
    assert not any(
        ("<" in text and "</" in text) or "&lt;" in text or "\x03" in text for text in splits["test"].inputs.texts
    )  # type: ignore[union-attr]


def test_goemotions(data_root: Path) -> None:
    folder = data_root / "goemotions"
    sizes = {"train": (43410, 1.177), "dev": (5426, 1.176), "test": (5427, 1.166)}
    for side, (count, cardinality) in sizes.items():
        documents = tsv.read(folder / f"{side}.tsv.gz", labels=folder / "emotions.txt")
        assert len(documents) == count
        assert documents.labels.nnz / count == pytest.approx(cardinality, abs=1e-3)
        assert documents.label_names is not None
        assert documents.label_names[27] == "neutral"
    numbers = tsv.read(folder / "test.tsv.gz")
    assert numbers.label_names == tuple(map(str, range(28)))
