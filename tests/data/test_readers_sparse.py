"""The sparse formats: what is written is what is read, and the fast parser says only what the careful one does."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

from energynets.data.readers import mulan_arff, source, svmlight, xmc, xmc_pair
from energynets.data.readers.rows import Limits
from energynets.data.readers.source import Block
from energynets.data.readers.sparse_fast import parse_fast
from energynets.data.readers.sparse_rows import parse_block, parse_lines
from energynets.errors import DataError

NUMBERS = st.one_of(
    st.just(0.0), st.integers(-1000, 1000).map(float), st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.integers(1, 6))
    features = draw(arrays(np.float32, (rows, draw(st.integers(1, 7))), elements=NUMBERS))
    labels = draw(arrays(np.float32, (rows, draw(st.integers(1, 5))), elements=st.sampled_from([0.0, 1.0])))
    return features, labels


def pairs(row: np.ndarray) -> str:
    return " ".join(f"{i}:{float(row[i])!r}" for i in np.flatnonzero(row))


def xmc_text(features: np.ndarray, labels: np.ndarray) -> str:
    lines = [f"{len(features)} {features.shape[1]} {labels.shape[1]}"]
    for row, marks in zip(features, labels, strict=True):
        lines.append(",".join(map(str, np.flatnonzero(marks))) + " " + pairs(row))
    return "\n".join(lines) + "\n"


def check(documents: object, features: np.ndarray, labels: np.ndarray) -> None:
    np.testing.assert_array_equal(documents.inputs.toarray(), features)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(documents.labels.toarray(), labels)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sparse")


@given(tables())
def test_xmc_round_trip(folder: Path, table: tuple[np.ndarray, np.ndarray]) -> None:
    (folder / "a.txt").write_text(xmc_text(*table))
    check(xmc.read(folder / "a.txt"), *table)


@given(tables())
def test_svmlight_round_trip(folder: Path, table: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = table
    (folder / "a.svm").write_text(xmc_text(features, labels).partition("\n")[2])
    check(svmlight.read(folder / "a.svm", num_features=features.shape[1], num_labels=labels.shape[1]), features, labels)
    small = svmlight.read(folder / "a.svm")
    assert small.labels.shape[1] == 1 + max(np.flatnonzero(labels.any(axis=0)), default=-1)
    assert small.inputs.shape[1] == 1 + max(np.flatnonzero(features.any(axis=0)), default=-1)  # type: ignore[union-attr]


@given(tables())
def test_pair_round_trip(folder: Path, table: tuple[np.ndarray, np.ndarray]) -> None:
    for name, matrix in zip(("t_X_Xf.txt", "t_X_Y.txt"), table, strict=True):
        rows = "\n".join(pairs(row) for row in matrix)
        (folder / name).write_text(f"{matrix.shape[0]} {matrix.shape[1]}\n{rows}\n")
    check(xmc_pair.read(folder / "t_X_Xf.txt"), *table)


@given(tables(), st.booleans(), st.randoms(use_true_random=False))
def test_arff_round_trip(folder: Path, table: tuple[np.ndarray, np.ndarray], dense: bool, random: object) -> None:
    features, labels = table
    columns = [f"f{i}" for i in range(features.shape[1])] + [f"l{i}" for i in range(labels.shape[1])]
    whole = np.concatenate([features, labels], axis=1)
    order = list(range(len(columns)))
    random.shuffle(order)  # type: ignore[attr-defined]
    header = "".join(f"@attribute {columns[i]} {'{0,1}' if columns[i][0] == 'l' else 'numeric'}\n" for i in order)
    if dense:
        rows = [",".join(repr(float(value)).removesuffix(".0") for value in row) for row in whole[:, order]]
    else:
        rows = [
            "{" + pairs(row).replace(" ", ",").replace(":", " ").replace(".0,", ",") + "}" for row in whole[:, order]
        ]
    (folder / "a.arff").write_text("@relation r\n" + header + "@data\n" + "\n".join(rows) + "\n")
    names = "".join(f'<label name="l{i}"/>' for i in range(labels.shape[1]))
    (folder / "a.xml").write_text(f"<labels>{names}</labels>")
    documents = mulan_arff.read(folder / "a.arff", labels=folder / "a.xml")
    kept = [int(name[1:]) for name in documents.feature_names or ()]
    assert sorted(kept) == list(range(features.shape[1]))
    check(documents, features[:, kept], labels)


# ----------------------------------------------------------------------------- the fast parser against the careful one

PLAIN = "0|1|7|12|3:1|0:0.5|2:-1e-3|5:+2.|4:.5|:|,|1,2|2,1|1,,2| |  |\n|\t"
ODD = "-1|1:nan|1:1e39|9:1_0|1:2:3|e|.|1:.|1:-|3:12345678901234567890|99999999999999999999:1|a:1|1:0x1|\r"
PIECES = st.sampled_from([*PLAIN.split("|"), *ODD.split("|")])


@settings(max_examples=600)
@given(st.lists(PIECES, min_size=1, max_size=12), st.sampled_from([None, 8]), st.sampled_from([None, 3, 0]))
def test_fast_and_careful_agree(pieces: list[str], columns: int | None, labels: int | None) -> None:
    block = Block("".join(pieces).encode() + b"\n", 1, 0)
    limits = Limits(columns, labels)
    fast = parse_fast(block.data, limits)
    if fast is None:
        return
    careful = parse_lines(block, Path("x"), limits)
    for part in ("columns", "values", "column_offsets", "labels", "label_offsets"):
        ours, theirs = getattr(fast, part), getattr(careful, part)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@given(tables())
def test_fast_takes_what_is_plain(table: tuple[np.ndarray, np.ndarray]) -> None:
    lines = xmc_text(*table).partition("\n")[2].encode()
    assert parse_fast(lines, Limits(table[0].shape[1], table[1].shape[1])) is not None


@pytest.mark.parametrize("number", ["1", "0.1", "1e-3", "-2.5E+2", ".5", "5.", "+3", "16777217", "0.30000001192092896"])
def test_numbers_are_rounded_correctly(number: str) -> None:
    block = Block(f"0 0:{number}\n".encode(), 1, 0)
    for rows in (parse_block(block, Path("x"), Limits()), parse_lines(block, Path("x"), Limits())):
        assert rows.values[0] == np.float32(float(number))


NUMERALS = st.from_regex(r"[-+]?([0-9]{1,18}|[0-9]{0,12}\.[0-9]{0,12})([eE][-+]?[0-9]{1,2})?", fullmatch=True)


@settings(max_examples=600)
@given(st.lists(NUMERALS, min_size=1, max_size=6))
def test_numerals_are_rounded_correctly(numerals: list[str]) -> None:
    """As Python reads them; what is no number the fast parser leaves to the careful one."""
    line = "0 " + " ".join(f"{i}:{text}" for i, text in enumerate(numerals)) + "\n"
    rows = parse_fast(line.encode(), Limits())
    with np.errstate(over="ignore"):
        expected = [
            np.float32(float(text)) for text in numerals if any(map(str.isdigit, text.lower().partition("e")[0]))
        ]
    if len(expected) < len(numerals) or not np.isfinite(expected).all():
        assert rows is None
    elif rows is not None:
        assert rows.values.tobytes() == np.array(expected, np.float32).tobytes()
    else:
        assert any(not text[0].isdigit() or not text[-1].isdigit() for text in numerals), "plain numerals are taken"


@given(st.lists(st.integers(0, 10**16 - 1), min_size=1, max_size=5, unique=True))
def test_indices_of_many_digits(indices: list[int]) -> None:
    line = ",".join(map(str, indices)) + " " + " ".join(f"{index:017d}:1"[1:] for index in indices) + "\n"
    rows = parse_fast(line.encode(), Limits())
    assert rows is not None
    assert rows.columns.tolist() == rows.labels.tolist() == sorted(indices)


def test_unsorted_rows_are_sorted() -> None:
    rows = parse_block(Block(b"2,0 3:3 1:1\n1 0:5\n", 1, 0), Path("x"), Limits())
    assert rows.labels.tolist() == [0, 2, 1]
    assert rows.columns.tolist() == [1, 3, 0]
    assert rows.values.tolist() == [1, 3, 5]


def test_a_row_that_starts_with_a_pair_has_no_labels() -> None:
    for parse in (parse_block, parse_lines):
        rows = parse(Block(b"3:1 4:1\n", 1, 0), Path("x"), Limits())
        assert rows.label_offsets.tolist() == [0, 0]
        assert rows.columns.tolist() == [3, 4]


def test_blocks_do_not_show(tmp_path: Path) -> None:
    """Small blocks, small reads: the same documents, and the same line in an error."""
    rng = np.random.default_rng(0)
    features = (rng.random((50, 30)) * (rng.random((50, 30)) < 0.2)).astype(np.float32)
    labels = (rng.random((50, 9)) < 0.2).astype(np.float32)
    text = xmc_text(features, labels)
    (tmp_path / "a.txt").write_text(text)
    lines = text.split("\n")
    lines[40] += " 30:1"
    (tmp_path / "b.txt").write_text("\n".join(lines))
    original = source.blocks
    for size in (7, 100, 1000):
        with mock.patch.object(xmc, "blocks", lambda path, progress=None, size=size: original(path, progress, size)):
            check(xmc.read(tmp_path / "a.txt"), features, labels)
            with pytest.raises(DataError, match="line 41: feature index 30 is out of range"):
                xmc.read(tmp_path / "b.txt")


@given(tables(), st.integers(1, 60), st.booleans(), st.sampled_from(["xmc", "svmlight", "pair"]))
def test_blocks_of_any_size(
    folder: Path, table: tuple[np.ndarray, np.ndarray], size: int, packed: bool, format: str
) -> None:
    original = source.blocks
    features, labels = table
    write = gzip.compress if packed else bytes

    def small(path: Path, progress: object = None) -> object:
        return original(path, progress, size)  # type: ignore[arg-type]

    with mock.patch.object(xmc, "blocks", small), mock.patch.object(svmlight, "blocks", small):
        if format == "pair":
            for name, matrix in zip(("t_X_Xf.txt", "t_X_Y.txt"), table, strict=True):
                rows = "\n".join(pairs(row) for row in matrix)
                (folder / name).write_bytes(write(f"{matrix.shape[0]} {matrix.shape[1]}\n{rows}\n".encode()))
            check(xmc_pair.read(folder / "t_X_Xf.txt"), *table)
        elif format == "xmc":
            (folder / "a.txt").write_bytes(write(xmc_text(*table).encode()))
            check(xmc.read(folder / "a.txt"), *table)
        else:
            (folder / "a.svm").write_bytes(write(xmc_text(*table).partition("\n")[2].encode()))
            check(
                svmlight.read(folder / "a.svm", num_features=features.shape[1], num_labels=labels.shape[1]),
                features,
                labels,
            )


@given(tables())
def test_as_scikit_learn_reads_them(folder: Path, table: tuple[np.ndarray, np.ndarray]) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    assume((table[0].any(1) | table[1].any(1)).all())  # it leaves out documents with neither features nor labels
    (folder / "a.txt").write_text(xmc_text(*table))
    with open(folder / "a.txt", "rb") as file:
        _, num_features, num_labels = map(int, file.readline().split())
        expected, rows = datasets.load_svmlight_file(
            file, n_features=num_features, dtype=np.float32, multilabel=True, zero_based=True
        )
    documents = xmc.read(folder / "a.txt")
    np.testing.assert_array_equal(documents.inputs.toarray(), expected.toarray())  # type: ignore[union-attr]
    assert documents.labels.shape[1] == num_labels
    found = [documents.labels.indices[a:b].tolist() for a, b in pairwise(documents.labels.indptr)]
    assert found == [sorted(map(int, row)) for row in rows]


def test_what_is_kept_takes_half_the_room(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 3 3\n0,2 0:1 2:0.5\n")
    documents = xmc.read(tmp_path / "a.txt")
    for matrix in (documents.inputs, documents.labels):
        assert matrix.indices.dtype == matrix.indptr.dtype == np.int32  # type: ignore[union-attr]
        assert matrix.data.dtype == np.float32  # type: ignore[union-attr]


def test_one_based_svmlight(tmp_path: Path) -> None:
    (tmp_path / "a.svm").write_text("1,2 1:0.5 3:1\n")
    documents = svmlight.read(tmp_path / "a.svm", first_feature=1, first_label=1)
    check(documents, np.array([[0.5, 0, 1]]), np.array([[1, 1]]))
    (tmp_path / "a.svm").write_text("1 0:0.5\n")
    with pytest.raises(DataError, match="index 0 is out of range: expected 1 or more"):
        svmlight.read(tmp_path / "a.svm", first_feature=1, num_features=None)


def test_comments_of_svmlight_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.svm").write_text("# one\n0 0:1\n  # two\n1 1:1 # three\n \n# four")
    check(svmlight.read(tmp_path / "a.svm"), np.array([[1, 0], [0, 1], [0, 0]]), np.array([[1, 0], [0, 1], [0, 0]]))


def test_stored_zeros_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2 3 1\n0 0:0 1:1\n0 2:0.0\n")
    documents = xmc.read(tmp_path / "a.txt")
    assert isinstance(documents.inputs, csr_array)
    assert documents.inputs.nnz == 1
    assert documents.notes == {"documents without features": 1}


@pytest.mark.parametrize(
    ("features", "labels"),
    [("trn_X_Xf.txt", "trn_X_Y.txt"), ("tst_X_Xf.txt.gz", "tst_X_Y.txt"), ("x_Xf.txt", "x_Y.txt.gz")],
)
def test_the_label_file_of_a_pair_is_found(features: str, labels: str, tmp_path: Path) -> None:
    for name in (features, labels):
        (tmp_path / name).write_text("1 2\n0:1\n")
    check(xmc_pair.read(tmp_path / features), np.array([[1, 0]]), np.array([[1, 0]]))


def test_a_pair_without_a_telling_name(tmp_path: Path) -> None:
    for name in ("features.txt", "labels.txt"):
        (tmp_path / name).write_text("1 2\n0:1\n")
    with pytest.raises(DataError, match=r"trn_X_Xf.txt"):
        xmc_pair.read(tmp_path / "features.txt")
    documents = xmc_pair.read(tmp_path / "features.txt", label_matrix=tmp_path / "labels.txt")
    check(documents, np.array([[1, 0]]), np.array([[1, 0]]))
