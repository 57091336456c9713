"""What every reader promises: the same small data set from every format, and a DataError for everything wrong with it.

A format joins by a line in GOOD; the faults that all formats share then run over it. FAULTS holds the rest, one line
for each pair of a format and a fault.
"""

# ruff: noqa: E501

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers import READERS, npz
from energynets.errors import DataError

# Four documents: the third has no labels, the fourth no features (no text).
FEATURES = np.array([[1, 0, 0.5, 0], [0, 2, 0, 0], [0, 0, 0, -3], [0, 0, 0, 0]], np.float32)
LABELS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
NAMES = ("red", "green", "blue")
TEXTS = ("The first, and best.", "A second text.", "Third text.", "")


@dataclass
class Files:
    """One data set as files: the main one's name and bytes, others beside it, and options of the reader."""

    name: str
    main: bytes
    others: dict[str, bytes] = field(default_factory=dict)
    labels: str | None = None
    options: dict[str, object] = field(default_factory=dict)

    def write(self, folder: Path, main: bytes | None = None, **replaced: bytes) -> dict[str, object]:
        for name, content in (self.others | replaced).items():
            (folder / name).write_bytes(content)
        (folder / self.name).write_bytes(self.main if main is None else main)
        options = dict(self.options)
        if self.labels is not None:
            options["labels"] = folder / self.labels
        return options


NAME_FILE = "\n".join(NAMES).encode() + b"\n"
XMC = b"4 4 3\n0,2 0:1 2:0.5\n1 1:2\n 3:-3\n0 \n"
SVM = b"# header comment\n0,2 0:1 2:0.5\n1 1:2 # a note\n 3:-3\n0 \n"
ARFF = b"""@relation toy
% the labels come before the features, in another order than in the XML
@attribute blue {0,1}
@attribute green {0,1}
@ATTRIBUTE 'a name' numeric
@attribute b real
@attribute "c" integer
@attribute d NUMERIC
@attribute red {0,1}

@DATA
{0 1,2 1,4 0.5,6 1}
{1 1,3 2}
{5 -3}
{6 1}
"""
XML = b"""<?xml version="1.0" encoding="utf-8"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="red"></label><label name="green"></label><label name="blue"></label>
</labels>
"""
DENSE = ARFF.partition(b"{0 1,")[0] + b"1,0,1,0,0.5,0,1\n0,1,0,2,0,0,0\n0,0,0,0,0,-3,0\n0,0,0,0,0,0,1\n"
PAIR_X = b"4 4\n0:1 2:0.5\n1:2\n3:-3\n\n"
PAIR_Y = b"4 3\n0:1.00000 2:1.00000\n1:1.00000\n\n0:1.00000\n"
TSV = "".join(
    f"{i}\t{labels}\t{text}\n"
    for i, (labels, text) in enumerate(zip(("red,blue", "green", "", "red"), TEXTS, strict=True))
).encode()
RAW = "".join(
    json.dumps({"uid": i, "title": text[:3], "content": text[3:], "target_ind": np.flatnonzero(row).tolist()}) + "\n"
    for i, (text, row) in enumerate(zip(TEXTS, LABELS, strict=True))
).encode()


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def story(number: int, split: str, topics: str, body: str) -> str:
    listed = "".join(f"<D>{topic}</D>" for topic in topics.split())
    return (
        f'<REUTERS TOPICS="YES" LEWISSPLIT="{split}" NEWID="{number}">\n<TOPICS>{listed}</TOPICS>\n'
        f"<TEXT>&#2;\n<TITLE>T{number} &lt;A&amp;B></TITLE><BODY>{body}\n&#3;</BODY></TEXT>\n</REUTERS>\n"
    )


SGML = (
    story(1, "TRAIN", "corn wheat", "one")
    + story(2, "TEST", "corn", "two")
    + story(3, "TEST", "wheat", "caf\xe9")
    + story(4, "TRAIN", "rare", "four")
).encode("iso-8859-1")


def npz_of(**changed: np.ndarray | None) -> bytes:
    x, y = csr_array(FEATURES), csr_array(LABELS)
    arrays: dict[str, np.ndarray | None] = {
        "X_data": x.data,
        "X_indices": x.indices,
        "X_indptr": x.indptr,
        "X_shape": np.array(x.shape),
        "Y_indices": y.indices,
        "Y_indptr": y.indptr,
        "Y_shape": np.array(y.shape),
        "label_names": np.array(NAMES),
        **changed,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: array for key, array in arrays.items() if array is not None})
    return buffer.getvalue()


GOOD: dict[str, tuple[str, Files]] = {
    "xmc": ("xmc", Files("train.txt", XMC, {"names.txt": NAME_FILE}, "names.txt")),
    "xmc_pair": (
        "xmc_pair",
        Files("trn_X_Xf.txt", PAIR_X, {"trn_X_Y.txt": PAIR_Y, "names.txt": NAME_FILE}, "names.txt"),
    ),
    "svmlight": (
        "svmlight",
        Files("train.svm", SVM, {"names.txt": NAME_FILE}, "names.txt", {"num_features": 4, "num_labels": 3}),
    ),
    "mulan_arff sparse": ("mulan_arff", Files("train.arff", ARFF, {"labels.xml": XML}, "labels.xml")),
    "mulan_arff dense": ("mulan_arff", Files("train.arff", DENSE, {"labels.xml": XML}, "labels.xml")),
    "npz": ("npz", Files("train.npz", npz_of())),
    "tsv": ("tsv", Files("train.tsv", TSV, {"names.txt": NAME_FILE}, "names.txt")),
    "xmc_raw": ("xmc_raw", Files("trn.json", RAW, {"names.txt": NAME_FILE}, "names.txt")),
    "reuters": ("reuters", Files("reuters.tar", tar_of({"README.txt": b"", "reut2-000.sgm": SGML}))),
}
TABLES = [key for key in GOOD if key not in ("tsv", "xmc_raw", "reuters")]


def read(key: str, folder: Path, main: bytes | None = None, **replaced: bytes) -> Documents:
    format, files = GOOD[key]
    return READERS[format](folder / files.name, **files.write(folder, main, **replaced))


def same(a: Documents, b: Documents) -> bool:
    if isinstance(a.inputs, csr_array):
        equal = np.array_equal(a.inputs.toarray(), b.inputs.toarray())
    else:
        equal = a.inputs == b.inputs
    return equal and np.array_equal(a.labels.toarray(), b.labels.toarray()) and a.label_names == b.label_names


def test_every_format_is_covered() -> None:
    assert {format for format, _ in GOOD.values()} == set(READERS)


@pytest.mark.parametrize("key", TABLES)
def test_tables_are_read(key: str, tmp_path: Path) -> None:
    documents = read(key, tmp_path)
    assert isinstance(documents.inputs, csr_array)
    assert documents.inputs.dtype == np.float32
    assert documents.labels.dtype == np.float32
    assert documents.inputs.indices.dtype == np.int32
    np.testing.assert_array_equal(documents.inputs.toarray(), FEATURES)
    np.testing.assert_array_equal(documents.labels.toarray(), LABELS)
    assert documents.inputs.has_canonical_format
    assert documents.labels.has_canonical_format
    assert documents.label_names == NAMES
    assert documents.notes == {"documents without labels": 1, "documents without features": 1}
    if key.startswith("mulan"):
        assert documents.feature_names == ("a name", "b", "c", "d")


@pytest.mark.parametrize("key", ["tsv", "xmc_raw"])
def test_texts_are_read(key: str, tmp_path: Path) -> None:
    documents = read(key, tmp_path)
    separator = "\n" if key == "xmc_raw" else ""
    assert documents.inputs == TextDocuments(tuple(t[:3] + separator * (t != "") + t[3:] for t in TEXTS))
    np.testing.assert_array_equal(documents.labels.toarray(), LABELS)
    assert documents.label_names == NAMES
    assert documents.notes == {"documents without labels": 1, "documents without text": 1}


@pytest.mark.parametrize("key", GOOD)
def test_gzip_and_plain_are_the_same(key: str, tmp_path: Path) -> None:
    files = GOOD[key][1]
    assert same(read(key, tmp_path), read(key, tmp_path, gzip.compress(files.main)))


@pytest.mark.parametrize("key", [key for key in GOOD if key not in ("npz", "reuters")])
def test_windows_line_ends_are_the_same(key: str, tmp_path: Path) -> None:
    files = GOOD[key][1]
    assert same(read(key, tmp_path), read(key, tmp_path, files.main.replace(b"\n", b"\r\n")))


@pytest.mark.parametrize("key", [key for key in GOOD if key not in ("npz", "reuters", "xmc_pair")])
def test_a_missing_last_newline_is_the_same(key: str, tmp_path: Path) -> None:
    files = GOOD[key][1]
    assert same(read(key, tmp_path), read(key, tmp_path, files.main.removesuffix(b"\n")))


@pytest.mark.parametrize("key", [key for key in GOOD if key not in ("npz", "reuters")])
def test_a_byte_order_mark_is_the_same(key: str, tmp_path: Path) -> None:
    files = GOOD[key][1]
    mark = b"\xef\xbb\xbf"
    others = {name: mark + content for name, content in files.others.items()}
    assert same(read(key, tmp_path), read(key, tmp_path, mark + files.main, **others))
    bad = mark + files.main + b"\xff\n"
    _fails(key, tmp_path, f"byte offset {len(bad) - 2} ", main=bad)


@pytest.mark.parametrize("key", GOOD)
def test_progress_runs_to_the_end(key: str, tmp_path: Path) -> None:
    format, files = GOOD[key]
    options = files.write(tmp_path)
    calls: list[tuple[int, int]] = []
    READERS[format](tmp_path / files.name, progress=lambda done, total: calls.append((done, total)), **options)
    assert calls
    assert calls[-1][0] == calls[-1][1] > 0


def _fails(key: str, folder: Path, *parts: str, main: bytes | None = None, **replaced: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(key, folder, main, **replaced)
    message = str(caught.value)
    assert str(folder) in message, f"names the file: {message}"
    for part in parts:
        assert re.search(part, message), f"expected {part!r} in {message!r}"
    return message


@pytest.mark.parametrize("key", GOOD)
def test_missing_file(key: str, tmp_path: Path) -> None:
    format, files = GOOD[key]
    options = files.write(tmp_path)
    (tmp_path / files.name).unlink()
    with pytest.raises(DataError, match="no such file"):
        READERS[format](tmp_path / files.name, **options)


@pytest.mark.parametrize("key", GOOD)
def test_folder_instead_of_file(key: str, tmp_path: Path) -> None:
    format, files = GOOD[key]
    options = files.write(tmp_path)
    (tmp_path / files.name).unlink()
    (tmp_path / files.name).mkdir()
    with pytest.raises(DataError, match="expected a file, got a folder"):
        READERS[format](tmp_path / files.name, **options)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("key", GOOD)
def test_empty_file(key: str, packed: bool, tmp_path: Path) -> None:
    _fails(key, tmp_path, "the file is empty", main=gzip.compress(b"") if packed else b"")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("key", GOOD)
def test_truncated_gzip(key: str, keep: float, tmp_path: Path) -> None:
    packed = gzip.compress(GOOD[key][1].main)
    _fails(key, tmp_path, "truncated gzip", main=packed[: int(keep * len(packed))])


@pytest.mark.parametrize("key", GOOD)
def test_damaged_gzip(key: str, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(GOOD[key][1].main))
    packed[-5] ^= 0xFF
    _fails(key, tmp_path, "damaged gzip", main=bytes(packed))


@pytest.mark.parametrize("key", [key for key in GOOD if key not in ("npz", "reuters")])
def test_invalid_utf8_names_the_offset(key: str, tmp_path: Path) -> None:
    main = GOOD[key][1].main
    position = main.rindex(b"\n", 0, -1) + 1 if key != "tsv" else main.rindex(b"A second")
    line = main.count(b"\n", 0, position) + 1
    broken = main[:position] + b"\xff" + main[position:]
    expected = (rf"line {line}:", rf"byte offset {position}\b", "0xff")
    _fails(key, tmp_path, *expected, main=broken)
    _fails(key, tmp_path, *expected, main=gzip.compress(broken))


@pytest.mark.parametrize("key", ["xmc", "xmc_pair", "svmlight", "tsv", "xmc_raw"])
def test_label_file_faults(key: str, tmp_path: Path) -> None:
    _fails(key, tmp_path, "names.txt", "empty", **{"names.txt": b""})
    _fails(key, tmp_path, "names.txt: line 2", "empty line", **{"names.txt": b"red\n\nblue\n"})
    _fails(key, tmp_path, "names.txt: line 2", "UTF-8", "byte offset 6", **{"names.txt": b"red\ngr\xffen\nblue\n"})
    _fails(
        key,
        tmp_path,
        *{"tsv": ("unknown label 'blue'",), "xmc_raw": ("out of range",)}.get(key, ("3", "got 2")),
        **{"names.txt": b"red\ngreen\n"},
    )


def replaced(text: bytes, old: bytes, new: bytes) -> bytes:
    assert text.count(old) == 1, (old, text)
    return text.replace(old, new)


# fmt: off
# (format, fault) -> what to change in the main file, and what the message must say beside the file's name.
FAULTS: list[tuple[str, str, Callable[[], bytes], tuple[str, ...]]] = [
    ("xmc", "feature out of range", lambda: replaced(XMC, b"1:2", b"4:2"), ("line 3", "feature index 4 is out of range", "0 to 3")),
    ("xmc", "label out of range", lambda: replaced(XMC, b"0,2", b"0,3"), ("line 2", "label index 3 is out of range", "0 to 2")),
    ("xmc", "negative feature", lambda: replaced(XMC, b"1:2", b"-1:2"), ("line 3", "feature index", "'-1'")),
    ("xmc", "negative label", lambda: replaced(XMC, b"0,2", b"-1,2"), ("line 2", "label index", "'-1'")),
    ("xmc", "duplicate feature", lambda: replaced(XMC, b"2:0.5", b"0:0.5"), ("line 2", "duplicate feature index 0")),
    ("xmc", "duplicate label", lambda: replaced(XMC, b"0,2", b"2,2"), ("line 2", "duplicate label index 2")),
    ("xmc", "text for a value", lambda: replaced(XMC, b"2:0.5", b"2:half"), ("line 2", "a number, got 'half'")),
    ("xmc", "no value", lambda: replaced(XMC, b"2:0.5", b"2:"), ("line 2", "a number, got ''")),
    ("xmc", "no colon", lambda: replaced(XMC, b"2:0.5", b"2"), ("line 2", "index:value, got '2'")),
    ("xmc", "two colons", lambda: replaced(XMC, b"2:0.5", b"2:0:5"), ("line 2", "a number, got '0:5'")),
    ("xmc", "underscore", lambda: replaced(XMC, b"2:0.5", b"2:1_0"), ("line 2", "a number, got '1_0'")),
    ("xmc", "nan", lambda: replaced(XMC, b"2:0.5", b"2:nan"), ("line 2", "finite", "'nan'")),
    ("xmc", "infinite", lambda: replaced(XMC, b"2:0.5", b"2:-inf"), ("line 2", "finite", "'-inf'")),
    ("xmc", "overflow", lambda: replaced(XMC, b"2:0.5", b"2:1e39"), ("line 2", "finite float32", "'1e39'")),
    ("xmc", "text for a label", lambda: replaced(XMC, b"0,2", b"0,blue"), ("line 2", "label index", "'blue'")),
    ("xmc", "empty label", lambda: replaced(XMC, b"0,2", b"0,,2"), ("line 2", "label index", "''")),
    ("xmc", "fewer rows", lambda: replaced(XMC, b"4 4 3", b"5 4 3"), ("line 1", "5 documents", "got 4")),
    ("xmc", "more rows", lambda: replaced(XMC, b"4 4 3", b"3 4 3"), ("line 5", "3 documents", "got one more: '0 '")),
    ("xmc", "more rows than a block", lambda: b"70000 4 3\n" + b"0,2 0:1\n" * 70_001, ("line 70002", "70000 documents", "got one more: '0,2 0:1'")),
    ("xmc", "header of two", lambda: replaced(XMC, b"4 4 3", b"4 4"), ("line 1", "3 counts", "'4 4'")),
    ("xmc", "no header", lambda: XMC.partition(b"\n")[2], ("line 1", "header")),
    ("xmc", "header of zero", lambda: b"0 4 3\n", ("line 1", "at least one document")),
    ("xmc_pair", "feature out of range", lambda: replaced(PAIR_X, b"1:2", b"4:2"), ("line 3", "feature index 4 is out of range")),
    ("xmc_pair", "negative feature", lambda: replaced(PAIR_X, b"1:2", b"-1:2"), ("line 3", "feature index")),
    ("xmc_pair", "duplicate feature", lambda: replaced(PAIR_X, b"2:0.5", b"0:0.5"), ("line 2", "duplicate feature index 0")),
    ("xmc_pair", "text for a value", lambda: replaced(PAIR_X, b"2:0.5", b"2:x"), ("line 2", "a number, got 'x'")),
    ("xmc_pair", "nan", lambda: replaced(PAIR_X, b"2:0.5", b"2:NaN"), ("line 2", "finite")),
    ("xmc_pair", "labels in the feature file", lambda: replaced(PAIR_X, b"1:2", b"1 1:2"), ("line 3", "index:value, got '1'")),
    ("xmc_pair", "more rows", lambda: replaced(PAIR_X, b"4 4\n", b"2 4\n"), ("line 4", "2 documents", "got one more: '3:-3'")),
    ("xmc_pair", "fewer rows", lambda: replaced(PAIR_X, b"4 4\n", b"5 4\n"), ("line 1", "5 documents", "got 4")),
    ("xmc_pair", "other rows than labels", lambda: b"1 4\n0:1\n", ("trn_X_Y.txt", "expected 1 documents", "got 4")),
    ("svmlight", "feature out of range", lambda: replaced(SVM, b"1:2", b"4:2"), ("line 3", "feature index 4 is out of range")),
    ("svmlight", "label out of range", lambda: replaced(SVM, b"0,2", b"0,3"), ("line 2", "label index 3 is out of range")),
    ("svmlight", "negative feature", lambda: replaced(SVM, b"1:2", b"-1:2"), ("line 3", "feature index", "'-1'")),
    ("svmlight", "duplicate feature", lambda: replaced(SVM, b"2:0.5", b"0:0.5"), ("line 2", "duplicate feature index 0")),
    ("svmlight", "duplicate label", lambda: replaced(SVM, b"0,2", b"2,2"), ("line 2", "duplicate label index 2")),
    ("svmlight", "text for a value", lambda: replaced(SVM, b"2:0.5", b"2:x"), ("line 2", "a number, got 'x'")),
    ("svmlight", "infinite", lambda: replaced(SVM, b"2:0.5", b"2:inf"), ("line 2", "finite")),
    ("svmlight", "query id", lambda: replaced(SVM, b"1:2", b"qid:2"), ("line 3", "feature index", "'qid'")),
    ("svmlight", "empty line", lambda: replaced(SVM, b" 3:-3\n", b" 3:-3\n\n"), ("line 5", "empty line")),
    ("svmlight", "comments alone", lambda: b"# nothing\n# here\n", ("comments alone",)),
    ("mulan_arff sparse", "index out of range", lambda: replaced(ARFF, b"{5 -3}", b"{7 -3}"), ("line 14", "index 7 is out of range", "0 to 6")),
    ("mulan_arff sparse", "negative index", lambda: replaced(ARFF, b"{5 -3}", b"{-5 -3}"), ("line 14", "index value", "'-5 -3'")),
    ("mulan_arff sparse", "duplicate index", lambda: replaced(ARFF, b"4 0.5", b"2 0.5"), ("line 12", "duplicate index 2")),
    ("mulan_arff sparse", "text for a value", lambda: replaced(ARFF, b"4 0.5", b"4 half"), ("line 12", "attribute 'c'", "a number, got 'half'")),
    ("mulan_arff sparse", "nan", lambda: replaced(ARFF, b"4 0.5", b"4 NaN"), ("line 12", "finite")),
    ("mulan_arff sparse", "missing value", lambda: replaced(ARFF, b"4 0.5", b"4 ?"), ("line 12", "attribute 'c'", r"missing one \(\?\)")),
    ("mulan_arff sparse", "label not 0 or 1", lambda: replaced(ARFF, b"{6 1}", b"{6 2}"), ("line 15", "'red'", "one of 0, 1, got '2'")),
    ("mulan_arff sparse", "no value", lambda: replaced(ARFF, b"{5 -3}", b"{5}"), ("line 14", "index value")),
    ("mulan_arff sparse", "no brace", lambda: replaced(ARFF, b"{5 -3}", b"{5 -3"), ("line 14", "brace")),
    ("mulan_arff sparse", "weight after the row", lambda: replaced(ARFF, b"{5 -3}", b"{5 -3}, {2}"), ("line 14",)),
    ("mulan_arff sparse", "no data", lambda: ARFF.partition(b"@DATA")[0], ("@data",)),
    ("mulan_arff sparse", "no rows", lambda: ARFF.partition(b"{0 1")[0], ("rows after @data",)),
    ("mulan_arff sparse", "no attributes", lambda: b"@relation x\n@data\n{0 1}\n", ("expected @attribute",)),
    ("mulan_arff sparse", "unknown keyword", lambda: replaced(ARFF, b"@relation", b"@relatoin"), ("line 1", "expected @relation")),
    ("mulan_arff sparse", "string attribute", lambda: replaced(ARFF, b"b real", b"b string"), ("line 6", "'b'", "'string'")),
    ("mulan_arff sparse", "attribute without type", lambda: replaced(ARFF, b"b real", b"b"), ("line 6", "name type")),
    ("mulan_arff sparse", "attribute twice", lambda: replaced(ARFF, b"b real", b"d real"), ("line 8", "'d' again", "line 6")),
    ("mulan_arff sparse", "open quote", lambda: replaced(ARFF, b"'a name'", b"'a name"), ("line 5", "quote")),
    ("mulan_arff sparse", "open braces", lambda: replaced(ARFF, b"green {0,1}", b"green {0,1"), ("line 4", "closing brace")),
    ("mulan_arff sparse", "category twice", lambda: replaced(ARFF, b"green {0,1}", b"green {0,0}"), ("line 4", "distinct")),
    ("mulan_arff sparse", "first category not 0", lambda: replaced(ARFF, b"green {0,1}", b"green {1,0}"), ("line 12", "dense", "'green'")),
    ("mulan_arff sparse", "label not an attribute", lambda: replaced(ARFF, b"green", b"greene"), ("'green' is not an attribute", "'greene'")),
    ("mulan_arff dense", "too few values", lambda: replaced(DENSE, b"0,1,0,2,0,0,0\n", b"0,1,0,2,0,0\n"), ("line 13", "7 values", "got 6")),
    ("mulan_arff dense", "too many values", lambda: replaced(DENSE, b"0,1,0,2,0,0,0\n", b"0,1,0,2,0,0,0,0\n"), ("line 13", "7 values", "got 8")),
    ("mulan_arff dense", "text for a value", lambda: replaced(DENSE, b"0.5", b"half"), ("line 12", "'c'", "'half'")),
    ("mulan_arff dense", "empty value", lambda: replaced(DENSE, b"0.5", b""), ("line 12", "'c'", "''")),
    ("mulan_arff dense", "infinite", lambda: replaced(DENSE, b"0.5", b"-Infinity"), ("line 12", "finite")),
    ("mulan_arff dense", "overflow", lambda: replaced(DENSE, b"0.5", b"1e300"), ("line 12", "finite float32")),
    ("mulan_arff dense", "missing value", lambda: replaced(DENSE, b"0.5", b"?"), ("line 12", "missing one")),
    ("mulan_arff dense", "unknown category", lambda: replaced(DENSE, b"1,0,1,0,0.5", b"1,5,1,0,0.5"), ("line 12", "'green'", "one of 0, 1, got '5'")),
    ("npz", "not an archive", lambda: b"PK nonsense", ("npz",)),
    ("npz", "truncated archive", lambda: npz_of()[:-200], ("npz",)),
    ("npz", "array missing", lambda: npz_of(Y_indptr=None), ("got no Y_indptr",)),
    ("npz", "objects", lambda: npz_of(X_data=np.array([1, "x", None, 2], object)), ("npz",)),
    ("npz", "feature out of range", lambda: npz_of(X_indices=np.array([0, 9, 1, 3])), ("X_indices", "row 0", "index 9 is out of range", "0 to 3")),
    ("npz", "negative label", lambda: npz_of(Y_indices=np.array([0, -1, 1, 0])), ("Y_indices", "row 0", "index -1 is out of range")),
    ("npz", "duplicate feature", lambda: npz_of(X_indices=np.array([2, 2, 1, 3])), ("X_indices", "row 0", "duplicate index 2")),
    ("npz", "nan", lambda: npz_of(X_data=np.array([1, np.nan, 1, 1])), ("X_data", "row 0", "finite")),
    ("npz", "overflow", lambda: npz_of(X_data=np.array([1, 1, 1e300, 1])), ("X_data", "row 1", "finite")),
    ("npz", "labels not 1", lambda: npz_of(Y_data=np.array([1, 1, 3, 1.0])), ("Y_data", "got 3")),
    ("npz", "text for values", lambda: npz_of(X_data=np.array(["a", "b", "c", "d"])), ("X_data", "numbers")),
    ("npz", "offsets that do not fit", lambda: npz_of(X_indptr=np.array([0, 2, 3, 4])), ("X_indptr", "5")),
    ("npz", "falling offsets", lambda: npz_of(X_indptr=np.array([0, 3, 2, 4, 4])), ("X_indptr",)),
    ("npz", "other rows than labels", lambda: npz_of(Y_indptr=np.array([0, 2, 3, 4]), Y_shape=np.array([3, 3])), ("4", "got 3")),
    ("npz", "names that do not fit", lambda: npz_of(label_names=np.array(["a"])), ("label_names", "3 unicode strings")),
    ("tsv", "unknown label", lambda: replaced(TSV, b"\tgreen\t", b"\tgren\t"), ("line 2", "unknown label 'gren'", "did you mean 'green'")),
    ("tsv", "duplicate label", lambda: replaced(TSV, b"red,blue", b"red,red"), ("line 1", "duplicate label 'red'")),
    ("tsv", "empty label", lambda: replaced(TSV, b"red,blue", b"red,,blue"), ("line 1", "between commas")),
    ("tsv", "column missing", lambda: replaced(TSV, b"1\tgreen\t", b"green\t"), ("line 2", "expected 3 columns", "got 2")),
    ("tsv", "column too many", lambda: replaced(TSV, b"A second", b"A\tsecond"), ("line 2", "expected 3 columns", "got 4")),
    ("tsv", "empty line", lambda: TSV + b"\n", ("line 5", "expected 3 columns", "got 1")),
    ("tsv", "one column", lambda: b"just text\nmore text\n", ("got 1", r"data\.columns")),
    ("xmc_raw", "not JSON", lambda: replaced(RAW, b'{"uid": 1', b'{"uid" 1'), ("line 2", "JSON object")),
    ("xmc_raw", "not an object", lambda: RAW + b"[1]\n", ("line 5", "JSON object")),
    ("xmc_raw", "empty line", lambda: RAW + b"\n", ("line 5", "JSON object")),
    ("xmc_raw", "no text", lambda: RAW + b'{"target_ind": [0]}\n', ("line 5", "`title` or `content`")),
    ("xmc_raw", "text not text", lambda: RAW + b'{"title": 3, "target_ind": [0]}\n', ("line 5", "expected text", "'3'")),
    ("xmc_raw", "no labels", lambda: RAW + b'{"title": "a"}\n', ("line 5", "target_ind")),
    ("xmc_raw", "label out of range", lambda: replaced(RAW, b"[1]", b"[3]"), ("line 2", "label 3", "at most 2")),
    ("xmc_raw", "negative label", lambda: replaced(RAW, b"[1]", b"[-1]"), ("line 2", "label -1")),
    ("xmc_raw", "duplicate label", lambda: replaced(RAW, b"[1]", b"[1, 1]"), ("line 2", "duplicate label 1")),
    ("xmc_raw", "label not a number", lambda: replaced(RAW, b"[1]", b'["1"]'), ("line 2", "whole numbers")),
    ("xmc_raw", "label a fraction", lambda: replaced(RAW, b"[1]", b"[1.5]"), ("line 2", "whole numbers", "1.5")),
    ("xmc_raw", "label a truth value", lambda: replaced(RAW, b"[1]", b"[true]"), ("line 2", "whole numbers")),
    ("reuters", "not an archive", lambda: b"x" * 2000, ("tar archive",)),
    ("reuters", "archive of something else", lambda: tar_of({"README.txt": b"hello"}), ("reut2-",)),
    ("reuters", "archive cut off", lambda: tar_of({"reut2-000.sgm": SGML})[:700], ("reuters.tar",)),
    ("reuters", "no document number", lambda: tar_of({"reut2-000.sgm": replaced(SGML, b'NEWID="2"', b"")}), ("reut2-000.sgm: line 7", "NEWID")),
    ("reuters", "document cut off", lambda: tar_of({"reut2-000.sgm": SGML[:-20]}), ("reut2-000.sgm: line 19", "</REUTERS>")),
    ("reuters", "document twice", lambda: tar_of({"reut2-000.sgm": SGML, "reut2-001.sgm": SGML}), ("NEWID=1 again",)),
    ("reuters", "no topics element", lambda: tar_of({"reut2-000.sgm": replaced(SGML, b"<TOPICS><D>rare</D></TOPICS>", b"")}), ("NEWID=4", "<TOPICS>")),
    ("reuters", "one side alone", lambda: tar_of({"reut2-000.sgm": story(1, "TRAIN", "corn", "x").encode()}), ("got none for train",)),
]

# fmt: on


@pytest.mark.parametrize(
    ("key", "main", "parts"), [pytest.param(k, m, p, id=f"{k}-{fault}") for k, fault, m, p in FAULTS]
)
def test_faults(key: str, main: Callable[[], bytes], parts: tuple[str, ...], tmp_path: Path) -> None:
    _fails(key, tmp_path, *parts, main=main())


PAIR_FAULTS = [
    ("label out of range", b"1:1.00000\n", b"3:1.00000\n", ("line 3", "label index 3 is out of range")),
    ("negative label", b"1:1.00000\n", b"-1:1.00000\n", ("line 3", "label index")),
    ("duplicate label", b"0:1.00000 2:", b"2:1.00000 2:", ("line 2", "duplicate label index 2")),
    ("value not 1", b"1:1.00000\n", b"1:0.50000\n", ("line 3", "label values of 1, got 0.5")),
    ("text for a value", b"1:1.00000\n", b"1:yes\n", ("line 3", "a number, got 'yes'")),
    ("header disagrees", b"4 3\n", b"5 3\n", ("line 1", "5 documents", "got 4")),
    ("truncated gzip", None, gzip.compress(PAIR_Y)[:-9], ("truncated gzip",)),
]


@pytest.mark.parametrize(("old", "new", "parts"), [pytest.param(*f[1:], id=f[0]) for f in PAIR_FAULTS])
def test_faults_of_the_label_file_of_a_pair(
    old: bytes | None, new: bytes, parts: tuple[str, ...], tmp_path: Path
) -> None:
    content = new if old is None else replaced(PAIR_Y, old, new)
    _fails("xmc_pair", tmp_path, "trn_X_Y.txt", *parts, **{"trn_X_Y.txt": content})


XML_FAULTS = [
    ("not XML", b"<labels><label name='a'></labels>", ("line 1", "XML")),
    ("no labels", b"<labels></labels>", ("got none in <labels>",)),
    ("no name", b"<labels><label/></labels>", ("number 1", "`name`")),
    ("twice", b"<labels><label name='red'/><label name='red'/></labels>", ("number 2", "'red' occurs twice")),
    ("entities", b"<!DOCTYPE x [<!ENTITY a 'b'>]><labels><label name='red'/></labels>", ("entity",)),
    ("invalid UTF-8", XML.replace(b"red", b"r\xffd"), ("line 3", "XML")),
    ("empty", b"", ("empty",)),
]


@pytest.mark.parametrize(("xml", "parts"), [pytest.param(*f[1:], id=f[0]) for f in XML_FAULTS])
def test_faults_of_the_mulan_xml(xml: bytes, parts: tuple[str, ...], tmp_path: Path) -> None:
    _fails("mulan_arff sparse", tmp_path, "labels.xml", *parts, **{"labels.xml": xml})


def test_npz_writes_what_it_reads(tmp_path: Path) -> None:
    documents = read("mulan_arff sparse", tmp_path)
    npz.write(tmp_path / "again.npz", documents)
    again = npz.read(tmp_path / "again.npz")
    assert same(documents, again)
    assert again.feature_names == documents.feature_names
    with pytest.raises(DataError, match="table"):
        npz.write(tmp_path / "text.npz", read("tsv", tmp_path))
