"""Vocabulary and tokens: what counts as a word, in which order, and the same after a round over disk."""

from __future__ import annotations

import builtins
import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from energynets.data.dataset import TextDocuments, TokenSequences
from energynets.data.text import TextOptions, Vocabulary, cut
from energynets.errors import CheckpointError, DataError, MissingExtraError

ALL = TextOptions(min_count=1)


def words_of(vocabulary: Vocabulary, *texts: str, max_tokens: int | None = None) -> list[list[str]]:
    tokens = vocabulary.tokens(TextDocuments(texts), max_tokens)
    return [
        [vocabulary.words[i] for i in tokens.ids[a:b]] for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Oil prices rose 1.5 pct.", ["oil", "prices", "rose", "1.5", "pct"]),
        ("1,234.5 mln dlrs (net), vs 12", ["1,234.5", "mln", "dlrs", "net", "vs", "12"]),
        ("I don't; rock 'n' roll's", ["i", "don't", "rock", "n", "roll's"]),
        ("typeset don\u2019t", ["typeset", "don't"]),
        ("What?! No...", ["what", "?", "!", "no"]),
        ("$5 or \u20ac6 \U0001f600", ["$", "5", "or", "\u20ac", "6", "\U0001f600"]),
        ("[NAME] and [RELIGION]", ["name", "and", "religion"]),
        ("[PAD] [UNK]", ["pad", "unk"]),
        ("well-known a/b x_y", ["well", "known", "a", "b", "x", "y"]),
        ("cafe\u0301 \ufb01ne \uff21", ["caf\u00e9", "fine", "a"]),
        ("naïve Ünï \u0441\u043b\u043e\u0432\u043e", ["naïve", "ünï", "\u0441\u043b\u043e\u0432\u043e"]),
        ("covid19 b2b", ["covid", "19", "b", "2", "b"]),
        ("", []),
        (" \t\n...", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    vocabulary = Vocabulary.fit(TextDocuments((text, "something")), ALL)
    assert words_of(vocabulary, text) == [words]


def test_vocabulary_is_ordered_by_frequency_then_alphabet() -> None:
    texts = TextDocuments(("c b b a", "a b d"))
    assert Vocabulary.fit(texts, ALL).words == ("[PAD]", "[UNK]", "b", "a", "c", "d")
    assert Vocabulary.fit(texts, TextOptions()).words == ("[PAD]", "[UNK]", "b", "a")
    assert Vocabulary.fit(texts, TextOptions(vocabulary_size=3, min_count=1)).words == ("[PAD]", "[UNK]", "b")
    assert Vocabulary.fit(TextDocuments(("A a",)), TextOptions(min_count=1, lowercase=False)).words[2:] == ("A", "a")


@given(st.lists(st.text(alphabet="ab c!", max_size=12), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_of_documents_does_not_matter(texts: list[str], random: Any) -> None:
    shuffled = texts.copy()
    random.shuffle(shuffled)
    extra = ("a a",)
    one, two = (Vocabulary.fit(TextDocuments((*order, *extra)), ALL) for order in (texts, shuffled))
    assert one.words == two.words
    assert one.to_json() == two.to_json()


def test_unknown_words_and_length() -> None:
    vocabulary = Vocabulary.fit(TextDocuments(("a b c",)), ALL)
    assert words_of(vocabulary, "a z b", "c c c c", "", max_tokens=2) == [["a", "[UNK]"], ["c", "c"], []]
    tokens = vocabulary.tokens(TextDocuments(("a z",)))
    assert tokens.ids.tolist() == [2, 1]
    assert (tokens.ids.dtype, tokens.offsets.dtype, tokens.vocabulary_size) == (np.int32, np.int64, 5)
    assert len(vocabulary.tokens(TextDocuments(()))) == 0


def test_many_documents_come_back_in_order() -> None:
    vocabulary = Vocabulary.fit(TextDocuments(("a b",)), ALL)
    texts = tuple("a" * (i % 2) + " b" * (i % 3) for i in range(4_500))
    assert words_of(vocabulary, *texts) == [["a"] * (i % 2) + ["b"] * (i % 3) for i in range(4_500)]


def test_no_words() -> None:
    with pytest.raises(DataError, match=r"no word occurs 2 times in the 1 training documents: lower text.min_count"):
        Vocabulary.fit(TextDocuments(("once only",)), TextOptions())


def test_json_round_trip() -> None:
    texts = TextDocuments(("It's 5 o'clock \u2019n all, caf\u00e9!", "B a b"))
    vocabulary = Vocabulary.fit(texts, ALL)
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again.words == vocabulary.words
    assert again.to_json() == vocabulary.to_json()
    np.testing.assert_array_equal(again.tokens(texts).ids, vocabulary.tokens(texts).ids)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_foreign_json(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"run/tokenizer.json: not a tokenizer"):
        Vocabulary.from_json(text, "run/tokenizer.json")


def test_json_of_another_vocabulary() -> None:
    tree = json.loads(Vocabulary.fit(TextDocuments(("a",)), ALL).to_json())
    tree["model"]["vocab"] = {"a": 0, "[UNK]": 1}
    with pytest.raises(CheckpointError, match=r"expected \[PAD\] and \[UNK\] as ids 0 and 1"):
        Vocabulary.from_json(json.dumps(tree))


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5), st.integers(1, 7))
def test_cut(lists: list[list[int]], most: int) -> None:
    shorter = cut(TokenSequences.from_lists(lists, 10), most)
    expected = TokenSequences.from_lists([row[:most] for row in lists], 10)
    np.testing.assert_array_equal(shorter.ids, expected.ids)
    np.testing.assert_array_equal(shorter.offsets, expected.offsets)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return original(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'energynets\[text\]'"):
        Vocabulary.fit(TextDocuments(("a a",)), TextOptions())
