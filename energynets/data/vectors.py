"""Pretrained word vectors for a vocabulary, from GloVe or word2vec text files (plain or gzip).

    the 0.418 0.24968 -0.41242 ...       a word and its D numbers, separated by blanks
    400000 300                           word2vec writes this line first: words, D

A word may hold blanks: the last D fields of a line are its numbers. Of two lines for one word the first counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from energynets.data.readers.source import Progress, blocks, shown
from energynets.data.readers.sparse_rows import number_of
from energynets.errors import DataError


@dataclass(frozen=True)
class Coverage:
    """How much of a vocabulary has a vector.

    `words` of `vocabulary` words were found (reserved entries like [PAD] left out), `ignoring_case` of them only when
    case is ignored; `running` is the share of the running words of training that they make, None without counts.
    """

    words: int
    vocabulary: int
    ignoring_case: int
    running: float | None

    @property
    def share(self) -> float:
        return self.words / self.vocabulary if self.vocabulary else 0.0

    def __str__(self) -> str:
        running = "" if self.running is None else f", {self.running:.1%} of the running words"
        return f"vectors for {self.words} of {self.vocabulary} words ({self.share:.1%}{running})"


def read_vectors(
    path: str | Path,
    words: Sequence[str],
    *,
    counts: np.ndarray | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, Coverage]:
    """The vectors of these words.

    A word is looked up as it is written, then ignoring case (the first such line of the file, the most frequent word in
    the published files).

    Args:
        path: GloVe or word2vec text file.
        words: V words; entries in square brackets ([PAD], [UNK]) are reserved and get no vector.
        counts: (V,) how often each occurs in training, for the coverage of running words.
        progress: called with (bytes done, bytes in all).

    Returns:
        Matrix (V, D) float32, rows of NaN for words without a vector, and the coverage.

    Raises:
        DataError: naming file and line: a number of fields other than D + 1, or a value that is not a number.
    """
    path = Path(path)
    real = np.array([not (word.startswith("[") and word.endswith("]")) for word in words], bool)
    exact: dict[bytes, int] = {}
    folded: dict[str, list[int]] = {}
    for i, word in enumerate(words):
        if real[i]:
            exact[word.encode("utf-8", "surrogatepass")] = i
            folded.setdefault(word.lower(), []).append(i)

    found: dict[int, np.ndarray] = {}
    alike: dict[str, np.ndarray] = {}
    dimension, expected, lines = 0, None, 0
    for block in blocks(path, progress):
        for number, line in enumerate(block.data[:-1].split(b"\n"), block.line):
            where = f"{path}: line {number}"
            if not dimension:
                fields = line.split()
                if len(fields) == 2 and all(field.isdigit() for field in fields):
                    expected, dimension = int(fields[0]), int(fields[1])
                    continue
                dimension = len(fields) - 1
            lines += 1
            name, vector = _split(line, dimension, where)
            wanted = exact.get(name)
            key = name.decode("utf-8", "replace").lower()
            # Most lines are words that nobody asked for: their numbers are not read.
            if (wanted is None or wanted in found) and (key not in folded or key in alike):
                continue
            numbers = np.array([number_of(field, where) for field in _fields(vector, dimension, where)], np.float32)
            if wanted is not None:
                found.setdefault(wanted, numbers)
            alike.setdefault(key, numbers)
    if not lines:
        raise DataError(f"{path}: expected word vectors, got a header alone")
    if expected is not None and lines != expected:
        raise DataError(f"{path}: line 1: the header says {expected} words, got {lines}")
    return _matrix(words, dimension, found, alike, folded, real, counts)


def _split(line: bytes, dimension: int, where: str) -> tuple[bytes, bytes]:
    """A line's word and the rest."""
    line = line.strip()
    if dimension >= 1 and line.count(b" ") == dimension:
        name, _, rest = line.partition(b" ")
        return name, rest
    # A longer line is a word with blanks in it, unless what is left over is a number too: one value too many.
    fields = line.split()
    surplus = fields[1 : len(fields) - dimension]
    if dimension < 1 or len(fields) < dimension + 1 or (surplus and all(map(_is_number, surplus))):
        came = f"{len(fields) - 1} in {shown(line)}" if fields else "an empty line"
        raise DataError(f"{where}: expected a word and {max(dimension, 1)} numbers, got {came}")
    name, *numbers = line.rsplit(None, dimension)
    return name, b" ".join(numbers)


def _fields(numbers: bytes, dimension: int, where: str) -> list[bytes]:
    fields = numbers.split()
    if len(fields) != dimension:
        raise DataError(f"{where}: expected {dimension} numbers after the word, got {len(fields)}")
    return fields


def _is_number(field: bytes) -> bool:
    try:
        number_of(field, "")
    except DataError:
        return False
    return True


def _matrix(
    words: Sequence[str],
    dimension: int,
    found: dict[int, np.ndarray],
    alike: dict[str, np.ndarray],
    folded: dict[str, list[int]],
    real: np.ndarray,
    counts: np.ndarray | None,
) -> tuple[np.ndarray, Coverage]:
    matrix = np.full((len(words), dimension), np.nan, np.float32)
    ignoring_case = 0
    for key, vector in alike.items():
        for i in folded[key]:
            ignoring_case += i not in found
            matrix[i] = vector
    for i, vector in found.items():
        matrix[i] = vector
    known = ~np.isnan(matrix[:, 0])
    running = None
    if counts is not None:
        total = int(counts.sum())
        running = float(counts[known].sum() / total) if total else 0.0
    return matrix, Coverage(int(known.sum()), int(real.sum()), ignoring_case, running)
