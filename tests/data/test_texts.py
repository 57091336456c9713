"""Texts and tokens out of mapped files: the same as those in memory, one process or several, interrupted or not."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.sparse import csr_array

from energynets.data import cache
from energynets.data import text as texts_to_tokens
from energynets.data.batches import batches
from energynets.data.dataset import Documents, TextDocuments, TokenSequences
from energynets.data.load import load_dataset
from energynets.data.prepare import Preparation
from energynets.data.readers.collect import add_texts, texts
from energynets.data.store import MemoryStore
from energynets.data.text import TextOptions, Vocabulary, cut
from energynets.data.texts import Texts

ANY = st.text(max_size=5)
WORDS = ("one", "two", "three", "é", "don't", "")


def mapped(strings: list[str], identity: str = "x") -> Texts:
    store = MemoryStore()
    add_texts(store, strings)
    return texts(store, identity)


@given(st.lists(st.lists(ANY, max_size=4), min_size=1, max_size=4), st.data())
def test_texts_are_a_sequence(parts: list[list[str]], data: st.DataObject) -> None:
    whole = Texts.concatenate([mapped(part, str(i)) for i, part in enumerate(parts)])
    expected = [text for part in parts for text in part]
    assert list(whole) == expected
    assert whole[:] == tuple(expected)
    rows = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=6)) if expected else []
    chosen = whole.select(np.array(rows, np.int64))
    assert [chosen[i] for i in range(len(chosen))] == [expected[row] for row in rows]
    again = Texts.concatenate([chosen, whole])
    assert list(again) == [expected[row] for row in rows] + expected


def test_identity_tells_texts_apart() -> None:
    a, b = mapped(["x", "y"], "a"), mapped(["x", "y"], "b")
    rows = np.array([1, 0])
    found = {a.identity, b.identity, a.select(rows).identity, Texts.concatenate([a, b]).identity}
    assert len(found) == 4
    assert a.identity == mapped(["x", "y"], "a").identity


def tokens_of(lists: list[list[int]]) -> tuple[TokenSequences, TokenSequences]:
    """In memory, and as from a mapped file that holds them backwards with something in between."""
    whole = TokenSequences.from_lists(lists, 10)
    ids = np.concatenate([np.array([*row, 9], np.int32) for row in reversed(lists)])
    lengths = np.array([len(row) + 1 for row in reversed(lists)])
    starts = (np.cumsum(lengths) - lengths)[::-1].copy()
    return whole, TokenSequences(ids, whole.offsets, 10, starts)


LISTS = st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=6)


@given(LISTS, st.integers(0, 7), st.data())
def test_mapped_tokens_are_the_tokens(lists: list[list[int]], most: int, data: st.DataObject) -> None:
    whole, view = tokens_of(lists)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8)), np.int64)
    for a, b in ((whole, view), (whole[rows], view[rows]), (cut(whole, most)[rows], cut(view, most)[rows])):
        np.testing.assert_array_equal(a.ids, b.packed().ids)
        np.testing.assert_array_equal(a.lengths, b.lengths)
        np.testing.assert_array_equal(a.counts().toarray(), b.counts().toarray())
        np.testing.assert_array_equal(a.word_counts(), b.word_counts())
        assert len(a) == len(b)
    labels = csr_array(np.eye(len(lists), 3, dtype=np.float32))
    for one, two in zip(batches(Documents(whole, labels), 2), batches(Documents(view, labels), 2), strict=True):
        np.testing.assert_array_equal(one.inputs.tokens, two.inputs.tokens)  # type: ignore[union-attr]
        np.testing.assert_array_equal(one.inputs.lengths, two.inputs.lengths)  # type: ignore[union-attr]


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 60 documents, large enough to be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ENERGYNETS_CACHE", raising=False)
    monkeypatch.setattr(cache, "WORTH_BYTES", 1)
    monkeypatch.setattr(texts_to_tokens, "_BATCH", 7)
    random = np.random.default_rng(0)
    with open(tmp_path / "trn.json", "w", encoding="utf-8") as file:
        for i in range(60):
            words = " ".join(random.choice(WORDS, random.integers(0, 12)))
            file.write(json.dumps({"title": f"Number {i}", "content": words, "target_ind": [i % 5]}) + "\n")
    return tmp_path / "trn.json"


def prepared(path: Path, inputs: str = "auto") -> tuple[Preparation, Documents]:
    dataset = load_dataset(format="xmc_raw", train=path)
    preparation = Preparation.fit(dataset, inputs=inputs, text=TextOptions(max_tokens=6))
    return preparation, preparation.prepare(dataset).documents


@pytest.mark.parametrize("inputs", ["tokens", "counts", "tfidf"])
def test_prepared_from_the_map_as_from_memory(inputs: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation, documents = prepared(raw, inputs)
    monkeypatch.setenv("ENERGYNETS_CACHE", "0")
    plain, expected = prepared(raw, inputs)
    assert preparation.report() == plain.report()
    assert preparation.words == plain.words
    np.testing.assert_array_equal(preparation.word_counts, plain.word_counts)
    if inputs == "tokens":
        assert isinstance(documents.inputs, TokenSequences)
        assert isinstance(documents.inputs.ids, np.memmap)
        assert isinstance(documents[np.array([3, 1])].inputs.ids, np.memmap)  # type: ignore[union-attr]
        np.testing.assert_array_equal(documents.inputs.packed().ids, expected.inputs.ids)  # type: ignore[union-attr]
        np.testing.assert_array_equal(documents.inputs.offsets, expected.inputs.offsets)  # type: ignore[union-attr]
    else:
        np.testing.assert_array_equal(documents.inputs.toarray(), expected.inputs.toarray())  # type: ignore[union-attr]


def test_tokens_are_kept_for_texts_vocabulary_and_settings(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = load_dataset(format="xmc_raw", train=raw).documents.inputs
    assert isinstance(documents, TextDocuments)
    vocabulary, other = (
        Vocabulary.fit(documents, TextOptions(min_count=1, lowercase=lowercase)) for lowercase in (True, False)
    )
    first = vocabulary.tokens(documents)
    calls = []
    monkeypatch.setattr(Vocabulary, "_fill", lambda *args, **options: calls.append(args))
    np.testing.assert_array_equal(vocabulary.tokens(documents).ids, first.ids)
    assert calls == []
    other.tokens(documents)
    vocabulary.tokens(documents[np.arange(5)])
    raw.write_bytes(raw.read_bytes().replace(b"Number 7", b"number 8"))
    changed = load_dataset(format="xmc_raw", train=raw).documents.inputs
    vocabulary.tokens(changed)  # type: ignore[arg-type]
    assert len(calls) == 3


def test_interrupted_tokenising_leaves_no_half_entry(raw: Path, tmp_path: Path) -> None:
    documents = load_dataset(format="xmc_raw", train=raw).documents.inputs
    assert isinstance(documents, TextDocuments)
    vocabulary = Vocabulary.fit(documents, TextOptions())
    folder = tmp_path / "home" / "energynets" / "read"
    before = sorted(folder.iterdir())
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done >= 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vocabulary.tokens(documents, progress=stop)
    assert seen == [(7, 60), (14, 60)]
    assert sorted(folder.iterdir()) == before
    assert len(vocabulary.tokens(documents)) == 60


@pytest.mark.parametrize("kept", ["1", "0"])
def test_threads_give_the_tokens_of_one(kept: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = load_dataset(format="xmc_raw", train=raw).documents.inputs
    assert isinstance(documents, TextDocuments)
    vocabulary = Vocabulary.fit(documents, TextOptions())
    monkeypatch.setenv("ENERGYNETS_CACHE", "0")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    each = [vocabulary.tokens(documents[np.array([row])], 5).ids for row in range(len(documents))]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setenv("ENERGYNETS_CACHE", kept)
    together = vocabulary.tokens(documents, 5)
    np.testing.assert_array_equal(together.packed().ids, np.concatenate(each))
    assert together.lengths.tolist() == [len(ids) for ids in each]
