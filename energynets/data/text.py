"""Raw text -> token ids, with a vocabulary of training words.

A token is a word (letters, with an apostrophe inside: `don't`), a number (`1,234.5` is one), or a single `!`, `?`,
currency sign or pictograph, which carry meaning in comments and news; other punctuation is dropped. Text is brought to
Unicode form NFKC and, if asked, lower case. The vocabulary is ordered by frequency, then alphabet, after the two
reserved entries, so that equal training texts give equal ids on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from energynets.data.cache import cache_folder, entry
from energynets.data.dataset import TextDocuments, TokenSequences
from energynets.data.readers.collect import offsets_of
from energynets.data.readers.source import Progress
from energynets.data.store import FolderStore, MemoryStore, Store
from energynets.data.texts import Texts
from energynets.errors import CheckpointError, DataError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN = "[PAD]", "[UNK]"  # ids 0 and 1; brackets are dropped from text, so no word can spell them
_TOKEN = r"\p{L}[\p{L}\p{M}]*(?:'\p{L}[\p{L}\p{M}]*)*|\p{N}+(?:[.,]\p{N}+)*|[!?]|\p{Sc}|\p{So}"
_BATCH = 1_000  # texts that are Python objects at once


@dataclass(frozen=True)
class TextOptions:
    """How raw text becomes tokens.

    Args:
        vocabulary_size: V, the two reserved ids included.
        min_count: a word must occur this often in training.
        max_tokens: S; longer documents are cut.
        lowercase: whether case is ignored.
    """

    vocabulary_size: int = 30_000
    min_count: int = 2
    max_tokens: int = 500
    lowercase: bool = True


class Vocabulary:
    """A tokenizer and the words it knows.

    Args:
        tokenizer: what `fit` or `from_json` made; it does not cut documents, `tokens` does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.words: tuple[str, ...] = _words(tokenizer.get_vocab())

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def fit(cls, documents: TextDocuments, options: TextOptions) -> Vocabulary:
        """The words of these documents that occur `min_count` times, the most frequent `vocabulary_size - 2` of them.

        Raises:
            DataError: no word is left.
            MissingExtraError: `tokenizers` is not installed.
        """
        tokenizers = _library()
        normalize = tokenizers.normalizers
        steps = [normalize.NFKC(), normalize.Replace("\u2019", "'")]  # typeset and typed apostrophes are one
        if options.lowercase:
            steps.append(normalize.Lowercase())

        def blank(vocabulary: dict[str, int] | None) -> Tokenizer:
            model = tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN)
            tokenizer = tokenizers.Tokenizer(model)
            tokenizer.normalizer = normalize.Sequence(steps)
            tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(_TOKEN), behavior="removed", invert=True
            )
            return tokenizer

        counter = blank(None)
        trainer = tokenizers.trainers.WordLevelTrainer(
            vocab_size=options.vocabulary_size,
            min_frequency=options.min_count,
            show_progress=False,
            special_tokens=[PAD, UNKNOWN],
        )
        counter.train_from_iterator(documents.texts, trainer, length=len(documents))
        vocabulary = counter.get_vocab()
        if len(vocabulary) <= 2:
            raise DataError(
                f"no word occurs {options.min_count} times in the {len(documents)} training documents: "
                "lower text.min_count, or check that the documents hold text"
            )
        # A tokenizer made anew has no special tokens: the trainer's would match a literal "[PAD]" in a document.
        return cls(blank(vocabulary))

    def tokens(
        self, documents: TextDocuments, max_tokens: int | None = None, progress: Progress | None = None
    ) -> TokenSequences:
        """Token ids of each document, 1 where the word is unknown, cut to `max_tokens`.

        The tokenizer's own threads share the work, as many as there are cores (TOKENIZERS_PARALLELISM=false: one).
        Texts out of a mapped file become a mapped file of tokens, kept for the next time (`energynets.data.cache`).

        Args:
            documents: N texts.
            max_tokens: most ids of each; None keeps all.
            progress: called with (documents done, documents in all).
        """
        if isinstance(documents.texts, Texts) and (kept := self._kept(documents.texts, progress)) is not None:
            return kept if max_tokens is None else cut(kept, max_tokens)
        store = MemoryStore()
        self._fill(store, documents.texts, max_tokens, progress)
        return TokenSequences(store.array("ids", np.int32), offsets_of(store.array("lengths", np.int32)), len(self))

    def _fill(
        self, store: Store, texts: Sequence[str], max_tokens: int | None = None, progress: Progress | None = None
    ) -> None:
        for begin in range(0, len(texts), _BATCH):
            batch = list(texts[begin : begin + _BATCH])
            rows = [encoding.ids[:max_tokens] for encoding in self._tokenizer.encode_batch_fast(batch)]
            store.append("ids", np.concatenate([np.array(row, np.int32) for row in rows]))
            store.append("lengths", np.array([len(row) for row in rows], np.int32))
            if progress is not None:
                progress(begin + len(batch), len(texts))

    def _kept(self, texts: Texts, progress: Progress | None) -> TokenSequences | None:
        """All tokens of mapped texts, mapped themselves; None where nothing can be kept."""
        folder = cache_folder()
        if folder is None:
            return None

        def make(store: FolderStore) -> dict[str, Any]:
            self._fill(store, texts, progress=progress)
            return {}

        key = {"texts": texts.identity, "tokenizer": hashlib.sha256(self.to_json().encode()).hexdigest()}
        found = entry(folder, f"tokens-{key['texts'][:8]}-{key['tokenizer'][:8]}", key, make)
        if found is None:
            return None
        offsets = offsets_of(found[0].array("lengths", np.int32))
        return TokenSequences(found[0].array("ids", np.int32), offsets, len(self), starts=offsets[:-1])

    def to_json(self) -> str:
        """What `tokenizer.json` holds: the format of Hugging Face `tokenizers`."""
        return self._tokenizer.to_str(pretty=True)

    @classmethod
    def from_json(cls, text: str, source: str = "tokenizer") -> Vocabulary:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: not a word-level tokenizer of ours.
            MissingExtraError: `tokenizers` is not installed.
        """
        tokenizers = _library()
        try:
            vocabulary = cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{source}: not a tokenizer: {error}") from None
        if vocabulary.words[:2] != (PAD, UNKNOWN):
            raise CheckpointError(
                f"{source}: expected {PAD} and {UNKNOWN} as ids 0 and 1, got {list(vocabulary.words[:2])}"
            )
        return vocabulary


def cut(tokens: TokenSequences, max_tokens: int) -> TokenSequences:
    """Each document's first `max_tokens` tokens."""
    lengths = tokens.lengths
    if (lengths <= max_tokens).all():
        return tokens
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, max_tokens))]).astype(np.int64)
    if tokens.starts is not None:
        return replace(tokens, offsets=offsets)
    position = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], lengths)
    return TokenSequences(tokens.ids[position < max_tokens], offsets, tokens.vocabulary_size)


def _words(ids: dict[str, int]) -> tuple[str, ...]:
    ordered: Sequence[str] = sorted(ids, key=ids.__getitem__)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"expected ids 0 to {len(ids) - 1}, each once")
    return tuple(ordered)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers", "text", "reading raw text") from None
    return tokenizers
