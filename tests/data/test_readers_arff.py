"""What ARFF files say in more than one way: names in quotes, categories, blanks, comments, the order of the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from energynets.data.dataset import Documents
from energynets.data.readers import mulan_arff
from energynets.data.readers.arff_header import parse_attribute, split_quoted, unquote
from energynets.errors import DataError

PATH = Path("a.arff")


def read(folder: Path, header: str, rows: str, labels: tuple[str, ...] = ("l",)) -> Documents:
    (folder / "a.arff").write_text(f"@relation r\n{header}\n@data\n{rows}\n", encoding="utf-8")
    names = "".join(f'<label name="{name}"/>' for name in labels)
    (folder / "a.xml").write_text(
        f"<labels xmlns='http://mulan.sourceforge.net/labels'>{names}</labels>", encoding="utf-8"
    )
    return mulan_arff.read(folder / "a.arff", labels=folder / "a.xml")


@pytest.mark.parametrize(
    ("declaration", "name"),
    [
        ("plain numeric", "plain"),
        ("plain{0,1} {0,1}", "plain{0,1}"),
        ("'two words' numeric", "two words"),
        ('"two words" numeric', "two words"),
        (r"'it\'s' numeric", "it's"),
        (r'"say \"x\"" numeric', 'say "x"'),
        (r"'back\\slash' numeric", r"back\slash"),
        ("'a \"b\"' numeric", 'a "b"'),
        ("\"a 'b'\"\tnumeric", "a 'b'"),
        (r"TAG_m\'usica {0,1}", r"TAG_m\'usica"),
        (r"TAG_dise\~no {0,1}", r"TAG_dise\~no"),
        ("0; {0,1}", "0;"),
        ("%odd {0,1}", "%odd"),
        ("ünï numeric", "ünï"),
        ("tab\tREAL", "tab"),
        ("  padded   Integer ", "padded"),
    ],
)
def test_names(declaration: str, name: str) -> None:
    assert parse_attribute(declaration, PATH, 1).name == name


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("{0,1}", {"0": 0, "1": 1}),
        ("{ 0 , 1 }", {"0": 0, "1": 1}),
        ("{'0','1'}", {"0": 0, "1": 1}),
        ("{0,2,5.5}", {"0": 0, "2": 2, "5.5": 5.5}),
        ("{no,yes}", {"no": 0, "yes": 1}),
        ("{low,'very high',\"a,b\"}", {"low": 0, "very high": 1, "a,b": 2}),
        ("{1,1.0}", {"1": 0, "1.0": 1}),
    ],
)
def test_categories(kind: str, values: dict[str, float]) -> None:
    assert parse_attribute(f"a {kind}", PATH, 1).values == values


def test_quotes_inside_values() -> None:
    assert split_quoted("a,'b,c',d") == ["a", "'b,c'", "d"]
    assert split_quoted("it's,b") == ["it's", "b"]
    assert unquote(r"'a\'b'") == "a'b"
    assert unquote("it's") == "it's"


def test_labels_follow_the_xml_by_name(tmp_path: Path) -> None:
    header = "@attribute b {0,1}\n@attribute x numeric\n@attribute a {0,1}"
    documents = read(tmp_path, header, "1,0.5,0\n0,2,1", labels=("a", "b"))
    assert documents.label_names == ("a", "b")
    np.testing.assert_array_equal(documents.labels.toarray(), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(documents.inputs.toarray(), [[0.5], [2]])  # type: ignore[union-attr]


def test_labels_may_be_nested(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text("@attribute a {0,1}\n@attribute b {0,1}\n@attribute x real\n@data\n1,0,3\n")
    (tmp_path / "a.xml").write_text('<labels><label name="b"><label name="a"/></label></labels>')
    assert mulan_arff.read(tmp_path / "a.arff", labels=tmp_path / "a.xml").label_names == ("b", "a")


HEADER = "@attribute 'x y' numeric\n@attribute colour {red,green,'dark blue'}\n@attribute n {1,2}\n@attribute l {0,1}"


def test_categories_in_dense_rows(tmp_path: Path) -> None:
    documents = read(tmp_path, HEADER, "1.5,green,2,1\n0,'dark blue',1.0,0\n-1e-2 , red , \"2\" , 1")
    expected = [[1.5, 1, 2], [0, 2, 1], [np.float32(-1e-2), 0, 2]]
    np.testing.assert_array_equal(documents.inputs.toarray(), np.array(expected, np.float32))  # type: ignore[union-attr]
    np.testing.assert_array_equal(documents.labels.toarray(), [[1], [0], [1]])


def test_categories_in_sparse_rows(tmp_path: Path) -> None:
    header = HEADER.replace("n {1,2}", "n {0,2}")
    documents = read(tmp_path, header, "{0 1.5, 1 green, 3 1}\n{ 1 'dark blue' ,2 2 }\n{}\n{\t3 1}")
    np.testing.assert_array_equal(documents.inputs.toarray(), [[1.5, 1, 0], [0, 2, 2], [0, 0, 0], [0, 0, 0]])  # type: ignore[union-attr]
    np.testing.assert_array_equal(documents.labels.toarray(), [[1], [0], [0], [1]])


def test_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 8: attribute 'colour': expected one of red, green, dark blue, got 'blue'"
    ):
        read(tmp_path, HEADER, "0,red,1,0\n1,blue,2,1")


def test_comments_and_blank_lines(tmp_path: Path) -> None:
    header = "% c\n\n@attribute x numeric\n  % d\n@attribute l {0,1}"
    for rows in ("1,0\n% e\n\n2,1\n\n", "{0 1}\n% e\n\n{0 2,1 1}\n\n"):
        documents = read(tmp_path, header, rows)
        np.testing.assert_array_equal(documents.inputs.toarray(), [[1], [2]])  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"line 10: .*'z'"):
        read(tmp_path, header, "1,0\n% e\nz,1")


def test_sparse_and_dense_rows_in_one_file(tmp_path: Path) -> None:
    header = "@attribute x numeric\n@attribute l {0,1}"
    documents = read(tmp_path, header, "{0 3}\n4,1\n{1 1}")
    np.testing.assert_array_equal(documents.inputs.toarray(), [[3], [4], [0]])  # type: ignore[union-attr]


def test_numeric_labels(tmp_path: Path) -> None:
    header = "@attribute x numeric\n@attribute l numeric"
    np.testing.assert_array_equal(read(tmp_path, header, "3,1\n4,0").labels.toarray(), [[1], [0]])
    with pytest.raises(DataError, match="document 2: label 'l': expected 0 or 1, got 2"):
        read(tmp_path, header, "3,1\n4,2")


@pytest.mark.parametrize("kind", ["{no,yes}", "{yes,no}", "{YES,NO}", "{True,false}", "{-1,1}", "{1,-1}", "{'1','0'}"])
def test_label_categories_mean_what_they_say_in_any_order(tmp_path: Path, kind: str) -> None:
    first, second = kind.strip("{}").replace("'", "").split(",")
    header = f"@attribute x numeric\n@attribute l {kind}"
    on = 1.0 if first.lower() in ("yes", "true", "1") else 0.0
    documents = read(tmp_path, header, f"3,{first}\n4,{second}\n5,{first}")
    np.testing.assert_array_equal(documents.labels.toarray(), [[on], [1 - on], [on]])


def test_sparse_rows_leave_out_the_first_category_of_a_label(tmp_path: Path) -> None:
    header = "@attribute x numeric\n@attribute l {no,yes}"
    np.testing.assert_array_equal(read(tmp_path, header, "{0 3}\n{1 yes}").labels.toarray(), [[0], [1]])
    with pytest.raises(DataError, match=r"got a sparse one: what it leaves out would not be 0.*'l' \(line 3\)"):
        read(tmp_path, header.replace("no,yes", "yes,no"), "{0 3}\n{1 yes}")


@pytest.mark.parametrize("kind", ["{red,green}", "{no,maybe,yes}", "{yes,true}", "{1,2}", "{0,1,2}"])
def test_label_categories_that_do_not_say_are_refused(tmp_path: Path, kind: str) -> None:
    header = f"@attribute x numeric\n@attribute l {kind}"
    value = kind.strip("{}").split(",")[0]
    with pytest.raises(DataError, match=r"line 3: label 'l': expected categories \{0,1\}, or two words") as error:
        read(tmp_path, header, f"3,{value}")
    assert kind in str(error.value)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    documents = read(tmp_path, "@attribute x numeric\n@attribute l {0,1}", "3,1")
    path = tmp_path / "a.arff"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    again = mulan_arff.read(path, labels=tmp_path / "a.xml")
    np.testing.assert_array_equal(again.inputs.toarray(), documents.inputs.toarray())  # type: ignore[union-attr]


def test_the_xml_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs `labels`, the XML"):
        mulan_arff.read(tmp_path / "a.arff")
