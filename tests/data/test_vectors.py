"""Word vectors: which words are found and how, what is reported, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from energynets.data.load import load_dataset
from energynets.data.prepare import Preparation
from energynets.data.vectors import Coverage, read_vectors
from energynets.errors import DataError

WORDS = ("[PAD]", "[UNK]", "the", "king", "Paris", "absent")
GLOVE = "the 1 2 3\nKing 4 5 6\nKING 7 8 9\nparis -1e-1 .5 0\nother 0 0 0\n"


def write(folder: Path, text: str | bytes, packed: bool = False) -> Path:
    data = text.encode() if isinstance(text, str) else text
    (folder / "v.txt").write_bytes(gzip.compress(data) if packed else data)
    return folder / "v.txt"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("header", ["", "5 3\n"])
def test_words_are_found(header: str, packed: bool, tmp_path: Path) -> None:
    matrix, coverage = read_vectors(
        write(tmp_path, header + GLOVE, packed), WORDS, counts=np.array([0, 10, 50, 20, 10, 10])
    )
    nan = [np.nan] * 3
    expected = np.array([nan, nan, [1, 2, 3], [4, 5, 6], [-0.1, 0.5, 0], nan], np.float32)
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.float32
    assert coverage == Coverage(words=3, vocabulary=4, ignoring_case=2, running=0.8)
    assert coverage.share == 0.75
    assert str(coverage) == "vectors for 3 of 4 words (75.0%, 80.0% of the running words)"


def test_a_word_as_written_comes_before_its_likeness(tmp_path: Path) -> None:
    matrix, coverage = read_vectors(write(tmp_path, "King 1\nking 2\nking 3\n"), ("king", "KING"))
    assert matrix.tolist() == [[2], [1]]
    assert coverage.ignoring_case == 1
    assert coverage.running is None
    assert "running" not in str(coverage)


def test_words_with_blanks_and_odd_bytes(tmp_path: Path) -> None:
    text = ". . . 1 2\nat name@x.com 3 4\n\xe9t\xe9 5 6\n".encode() + b"\xff\xfe 7 8\nlast  9 10 \n"
    matrix, _ = read_vectors(write(tmp_path, b"first 0 0\n" + text), (". . .", "at name@x.com", "\xe9t\xe9", "last"))
    assert matrix.tolist() == [[1, 2], [3, 4], [5, 6], [9, 10]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 1 2 3\nking 1 2\n", "line 2: expected a word and 3 numbers, got 2"),
        ("the 1 2 3\nking 1 2 3 4\n", "line 2: expected a word and 3 numbers, got 4"),
        ("the 1 2 3\n\nking 1 2 3\n", "line 2: expected a word and 3 numbers, got an empty line"),
        ("the 1 2 3\nking 1 x 3\n", "line 2: expected a number, got 'x'"),
        ("the 1 nan 3\n", "line 1: expected a finite number, got 'nan'"),
        ("the 1 2 3\nking 1  3\n", "line 2: expected 3 numbers after the word, got 2"),
        ("the\n", "line 1: expected a word and 1 numbers, got 0"),
        ("3 2\nthe 1 2\nking 1 2\n", "line 1: the header says 3 words, got 2"),
        ("2 2\n", "a header alone"),
        ("", "empty"),
    ],
)
def test_faults(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_vectors(write(tmp_path, text), WORDS)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    for text in ("the 1 2\nking 3 4\n", "2 2\nthe 1 2\nking 3 4\n"):
        matrix, _ = read_vectors(write(tmp_path, b"\xef\xbb\xbf" + text.encode()), ("the", "king"))
        assert matrix.tolist() == [[1, 2], [3, 4]]


def test_truncated_and_missing(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress((GLOVE * 100).encode())[:-20])
    with pytest.raises(DataError, match="truncated gzip"):
        read_vectors(path, WORDS)
    with pytest.raises(DataError, match="no such file"):
        read_vectors(tmp_path / "none.txt", WORDS)


def test_published_vectors_cover_reuters(data_root: Path) -> None:
    raw = load_dataset(format="reuters", train="reuters21578/reuters21578.tar.gz", root=data_root)
    preparation = Preparation.fit(raw)
    assert preparation.words is not None
    counts = preparation.word_counts
    folder = data_root / "word-vectors"
    glove, coverage = read_vectors(folder / "glove.twitter.27B.25d.common12k.txt.gz", preparation.words, counts=counts)
    assert glove.shape == (len(preparation.words), 25)
    assert coverage.running is not None
    assert 0.78 < coverage.running < 0.85  # numbers are words here, and have no vectors
    _, coverage = read_vectors(folder / "word2vec.GoogleNews.300d.common8k.txt.gz", preparation.words, counts=counts)
    assert coverage.ignoring_case > 100
    assert coverage.running is not None
    assert 0.6 < coverage.running < 0.8
