"""Raw text: which column is which, which labels are known, and the stories of Reuters-21578."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from energynets.data.dataset import Documents, TextDocuments
from energynets.data.readers import reuters, tsv, xmc_raw
from energynets.errors import DataError

LONG = "a text that is clearly longer than the rest of its line"


def write(folder: Path, rows: Sequence[Sequence[str]], name: str = "a.tsv") -> Path:
    (folder / name).write_bytes("".join("\t".join(row) + "\n" for row in rows).encode())
    return folder / name


def labels_of(documents: Documents) -> list[list[str]]:
    assert documents.label_names is not None
    return [
        [documents.label_names[j] for j in documents.labels.indices[a:b]]
        for a, b in zip(documents.labels.indptr, documents.labels.indptr[1:], strict=False)
    ]


LAYOUTS = {
    ("id", "labels", "text"): [("d1", "x,y", LONG + "1"), ("d2", "x", LONG + "2"), ("d3", "", LONG + "3")],
    ("labels", "text"): [("x,y", LONG + "1"), ("x", LONG + "2"), ("", LONG + "3")],
    ("text", "labels"): [(LONG + "1", "x,y"), (LONG + "2", "x"), (LONG + "3", "")],
    ("text", "labels", "id"): [(LONG + "1", "x,y", "d1"), (LONG + "2", "x", "d2"), (LONG + "3", "", "d3")],
    ("id", "text", "labels"): [("d1", LONG + "1", "x,y"), ("d2", LONG + "2", "x"), ("d3", LONG + "3", "")],
}


@pytest.mark.parametrize("how", ["cells", "asked", "header", "asked and header"])
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_columns(layout: tuple[str, ...], how: str, tmp_path: Path) -> None:
    rows = [*([layout] if "header" in how else []), *LAYOUTS[layout]]
    documents = tsv.read(write(tmp_path, rows), columns=layout if "asked" in how else None)
    assert documents.inputs == TextDocuments((LONG + "1", LONG + "2", LONG + "3"))
    assert labels_of(documents) == [["x", "y"], ["x"], []]
    assert documents.label_names == ("x", "y")
    assert documents.notes == {"documents without labels": 1}


def test_known_labels_settle_what_lengths_do_not(tmp_path: Path) -> None:
    path = write(tmp_path, [("politics,economy", "short text"), ("economy", "brief")])
    with pytest.raises(DataError, match=r"cannot tell which column is the text.*data.columns"):
        tsv.read(path)
    documents = tsv.read(path, label_names=("economy", "politics"))
    assert documents.inputs == TextDocuments(("short text", "brief"))
    (tmp_path / "names.txt").write_text("economy\npolitics\n")
    assert labels_of(tsv.read(path, labels=tmp_path / "names.txt")) == [["economy", "politics"], ["economy"]]


def test_swapped_id_and_labels_are_not_taken_silently(tmp_path: Path) -> None:
    path = write(tmp_path, [("x", "d1", LONG + "1"), ("x", "d2", LONG + "2")])
    with pytest.raises(DataError, match="the ids repeat and the labels do not"):
        tsv.read(path)


def test_long_labels_and_short_texts_are_not_swapped_silently(tmp_path: Path) -> None:
    path = write(tmp_path, [("a very long name of a label", "yes"), ("a very long name of a label", "no")])
    with pytest.raises(DataError, match="the texts repeat more often than the labels"):
        tsv.read(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("id", "labls", "text"), "did you mean 'labels'"),
        (("id", "labels"), "expected columns with `text`"),
        (("text", "text"), "at most once"),
        (("labels", "text"), r"line 1: expected 2 columns \(labels, text\), got 3"),
    ],
)
def test_columns_that_do_not_fit(columns: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, LAYOUTS["id", "labels", "text"])
    with pytest.raises(DataError, match=message):
        tsv.read(path, columns=columns)


def test_text_alone(tmp_path: Path) -> None:
    documents = tsv.read(write(tmp_path, [("one",), ("two",)]), columns=("text",), label_names=("x",))
    assert documents.labels.shape == (2, 1)
    assert documents.notes == {"documents without labels": 2}


def test_header_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="documents after the header"):
        tsv.read(write(tmp_path, [("labels", "text")]))


@pytest.mark.parametrize(
    ("cells", "known", "expected"),
    [
        (("2,10", "1"), None, [["2", "10"], ["1"]]),
        (("b a", "c"), None, [["a", "b"], ["c"]]),
        (("New York,Rome", "New York"), None, [["New York", "Rome"], ["New York"]]),
        (("New York", "Rome"), ("New York", "Rome"), [["New York"], ["Rome"]]),
        (("0,1", "1"), ("x", "y"), [["x", "y"], ["y"]]),
        (("2001", "13"), ("13", "2001"), [["2001"], ["13"]]),
        (("x , y", ""), ("y", "x"), [["y", "x"], []]),
    ],
)
def test_labels_as_written(
    cells: tuple[str, str], known: tuple[str, ...] | None, expected: list[list[str]], tmp_path: Path
) -> None:
    path = write(tmp_path, [(cell, f"{LONG} {i}") for i, cell in enumerate(cells)])
    assert labels_of(tsv.read(path, label_names=known)) == expected


def test_collected_labels_are_sorted(tmp_path: Path) -> None:
    assert tsv.read(write(tmp_path, [("10,9,2", LONG)])).label_names == ("2", "9", "10")
    assert tsv.read(write(tmp_path, [("10,9,b", LONG)])).label_names == ("10", "9", "b")


@pytest.mark.parametrize(
    ("cell", "message"), [("2", "unknown label '2': expected 0 to 1"), ("0,x", "unknown label '0'")]
)
def test_labels_outside_the_known_set(cell: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line 1: {message}.*data.labels"):
        tsv.read(write(tmp_path, [(cell, LONG)]), label_names=("x", "y"))


def test_nothing_but_tabs_and_newlines_separates(tmp_path: Path) -> None:
    texts = (
        '"quoted ""twice"" here", and on and on',
        "line\x0bseparators\u2028and\x85controls\x1c stay",
        " blank ends ",
    )
    documents = tsv.read(write(tmp_path, [("x", text) for text in texts]))
    assert documents.inputs == TextDocuments(texts)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, [("x", LONG)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert tsv.read(path).label_names == ("x",)


# ------------------------------------------------------------------------------------------------------ XMC raw text


def raw(folder: Path, *records: dict[str, object]) -> Path:
    (folder / "trn.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "trn.json"


def test_title_and_content(tmp_path: Path) -> None:
    path = raw(
        tmp_path,
        {"title": "T", "content": "C", "target_ind": [2, 0], "target_rel": [1.0, 1.0]},
        {"title": "T", "target_ind": []},
        {"content": "C", "title": "", "target_ind": [1]},
    )
    documents = xmc_raw.read(path)
    assert documents.inputs == TextDocuments(("T\nC", "T", "C"))
    assert documents.labels.toarray().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert xmc_raw.read(path, num_labels=5).num_labels == 5
    with pytest.raises(DataError, match=r"label 2 .* at most 1"):
        xmc_raw.read(path, num_labels=2)


def test_label_file_of_objects(tmp_path: Path) -> None:
    path = raw(tmp_path, {"title": "T", "target_ind": [1]})
    (tmp_path / "lbl.json").write_text('{"uid": "a", "title": "same"}\n{"uid": "b", "title": "same"}\n')
    assert xmc_raw.read(path, labels=tmp_path / "lbl.json").label_names == ("same", "same")
    (tmp_path / "lbl.json").write_text('{"uid": "a"}\n')
    with pytest.raises(DataError, match=r"lbl.json: line 1: expected the label's name"):
        xmc_raw.read(path, labels=tmp_path / "lbl.json")


# ----------------------------------------------------------------------------------------------------------- Reuters


def archive(folder: Path) -> Path:
    import test_readers_contract as contract

    (folder / "reuters.tar").write_bytes(contract.tar_of({"reut2-000.sgm": contract.SGML}))
    return folder / "reuters.tar"


def test_reuters_sides(tmp_path: Path) -> None:
    path = archive(tmp_path)
    train, test = reuters.read(path), reuters.read(path, split="test")
    assert train.label_names == test.label_names == ("corn", "wheat")
    assert labels_of(train) == [["corn", "wheat"]]
    assert labels_of(test) == [["corn"], ["wheat"]]
    assert train.inputs == TextDocuments(("T1 <A&B>\none",))
    assert test.inputs.texts[1] == "T3 <A&B>\ncaf\xe9"  # type: ignore[union-attr]
    with pytest.raises(DataError, match="did you mean 'train'"):
        reuters.read(path, split="trian")


def test_reuters_with_a_label_file(tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text("wheat\nrare\n")
    train = reuters.read(archive(tmp_path), labels=tmp_path / "topics.txt")
    assert labels_of(train) == [["wheat"], ["rare"]]
