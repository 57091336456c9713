"""Texts -> token ids, batch after batch; long texts in as many processes as there are cores.

The tokenizer's own threads do not help here: its regular expressions run one at a time.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from energynets.data.texts import Texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 1_000  # documents
PARALLEL_SIZE = 1 << 25
"""Characters from which on processes are started: about ten seconds of work, against two to start them."""

Encoded = tuple[np.ndarray, np.ndarray]


def encoded(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int | None) -> Iterator[Encoded]:
    """(ids end to end, lengths) of each `BATCH` of texts in their order, int32; few batches are held at once."""
    batches = (list(texts[begin : begin + BATCH]) for begin in range(0, len(texts), BATCH))
    size = texts.size if isinstance(texts, Texts) else sum(map(len, texts))
    joblib = _joblib()
    if joblib is None or size < PARALLEL_SIZE or len(texts) <= BATCH:
        for batch in batches:
            yield _encode(tokenizer, batch, max_tokens)
        return
    written = tokenizer.to_str()
    work = joblib.Parallel(n_jobs=_processes(), batch_size=1, pre_dispatch="2*n_jobs", return_as="generator")
    yield from work(joblib.delayed(_encode_written)(written, batch, max_tokens) for batch in batches)


def _encode(tokenizer: Any, texts: list[str], max_tokens: int | None) -> Encoded:
    ids = [encoding.ids[:max_tokens] for encoding in tokenizer.encode_batch_fast(texts)]
    parts = [np.zeros(0, np.int32), *(np.array(row, np.int32) for row in ids)]
    return np.concatenate(parts), np.array([len(row) for row in ids], np.int32)


def _encode_written(written: str, texts: list[str], max_tokens: int | None) -> Encoded:
    return _encode(_read(written), texts, max_tokens)


@functools.lru_cache(maxsize=1)
def _read(written: str) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(written)


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _joblib() -> Any:
    """The library, or None: it comes with the extra `text`, but tokens are the same without."""
    try:
        import joblib
    except ImportError:
        return None
    return joblib if _processes() > 1 else None
