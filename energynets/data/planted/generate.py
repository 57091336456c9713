"""Draw documents of a planted distribution, in chunks, touching only labels that are on.

Spontaneous events of all labels together are one Poisson number, shared out by rate (a label fires when it gets one
or more: exactly Bernoulli(1 - exp(-rate)), independently); then edges fire down the trees, level by level, from labels
that are on. The work of a document is its labels and words, whatever L is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, MultiLabelDataset, TokenSequences, csr
from energynets.data.planted.model import PlantedModel, zipf
from energynets.data.planted.spec import PlantedSpec
from energynets.data.readers.collect import add_labels, label_matrix, offsets_of
from energynets.data.store import MemoryStore

CHUNK = 1024  # documents drawn from one random stream; part of what a seed means

Progress = Callable[[int, int], None]


class Sampler:
    """Draws chunk after chunk of one model's documents."""

    def __init__(self, model: PlantedModel) -> None:
        spec = model.spec
        self.model = model
        self.event_total = float(model.rate.sum())
        self.event_cdf = np.cumsum(model.by_label(model.rate)) / self.event_total
        self.noise_cdf = np.cumsum(model.by_label(model.noise_rate)) / spec.noise
        self.edge = model.by_label(model.edge)
        self.background_cdf = np.cumsum(zipf(model.lexicon.num_background, spec.word_zipf))
        self.phrase_cdf = np.cumsum(zipf(spec.phrases_per_label, spec.word_zipf))

    def chunk(self, split: int, number: int) -> tuple[TokenSequences, csr_array]:
        """Chunk `number` of split 0 (train) or 1 (test): `CHUNK` documents and their labels."""
        spec = self.model.spec
        random = np.random.default_rng([spec.seed, split, number])
        documents, labels = self._labels(random)
        tokens = self._tokens(random, documents, labels)
        indptr = np.searchsorted(documents, np.arange(CHUNK + 1))
        ones = np.ones(len(labels), dtype=np.float32)
        return tokens, csr(ones, labels, indptr, (CHUNK, spec.num_labels))

    def _labels(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(document, label) pairs that are on, sorted."""
        spec = self.model.spec
        if spec.allow_empty:
            events = random.poisson(self.event_total, CHUNK)
        else:
            # Given one event or more, the first arrival of a unit-time Poisson process is a truncated exponential.
            first = -np.log1p(random.random(CHUNK) * np.expm1(-self.event_total))
            events = 1 + random.poisson(np.maximum(self.event_total - first, 0))
        drawn = _draw(random, self.event_cdf, int(events.sum()))
        stride = spec.num_labels
        on = np.unique(np.repeat(np.arange(CHUNK), events) * stride + drawn)
        # Nodes of one depth follow each other: [first, last) is level d, and its children are level d + 1.
        first_node, last_node = 0, 1
        while last_node < spec.block_size:
            node = on % stride % spec.block_size
            parents = on[(node >= first_node) & (node < last_node)]
            child = (parents % stride % spec.block_size)[:, None] * spec.branching + 1 + np.arange(spec.branching)
            label = (parents % stride // spec.block_size * spec.block_size)[:, None] + child
            exists = (child < spec.block_size) & (label < spec.num_labels)
            key = ((parents // stride * stride)[:, None] + label)[exists]
            fired = random.random(len(key)) < self.edge[label[exists]]
            on = np.union1d(on, key[fired])
            first_node, last_node = last_node, last_node * spec.branching + 1
        return on // stride, on % stride

    def _tokens(self, random: np.random.Generator, documents: np.ndarray, labels: np.ndarray) -> TokenSequences:
        spec, lexicon = self.model.spec, self.model.lexicon
        told = random.poisson(spec.evidence, len(labels))
        noise = random.poisson(spec.noise, CHUNK)
        about = np.concatenate([np.repeat(labels, told), _draw(random, self.noise_cdf, int(noise.sum()))])
        phrases = about * spec.phrases_per_label + _draw(random, self.phrase_cdf, len(about))
        filler = random.poisson(self.model.background_length, CHUNK)
        words = lexicon.word_of_rank[_draw(random, self.background_cdf, int(filler.sum()))]

        rows = np.arange(CHUNK)
        document = np.concatenate([np.repeat(documents, told), np.repeat(rows, noise), np.repeat(rows, filler)])
        # Every unit (a phrase or a background word) stands at a random place of its document.
        order = np.lexsort((random.random(len(document)), document))
        table = np.zeros((len(document), lexicon.length), dtype=np.int32)
        table[: len(phrases)] = lexicon.phrase_words(phrases)
        table[len(phrases) :, 0] = words
        table = table[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(document[order], (table != 0).sum(1), CHUNK))])
        return TokenSequences(table[table != 0], offsets.astype(np.int64), spec.vocabulary_size)


def _draw(random: np.random.Generator, cdf: np.ndarray, count: int) -> np.ndarray:
    """`count` positions distributed as a cumulative distribution says."""
    return np.minimum(np.searchsorted(cdf, random.random(count), side="right"), len(cdf) - 1)


def chunks(model: PlantedModel, split: int, num_documents: int) -> Iterator[tuple[TokenSequences, csr_array]]:
    """The first `num_documents` documents of split 0 (train) or 1 (test), at most `CHUNK` at a time."""
    sampler = Sampler(model)
    for begin in range(0, num_documents, CHUNK):
        tokens, labels = sampler.chunk(split, begin // CHUNK)
        rows = np.arange(min(CHUNK, num_documents - begin))
        yield (tokens, labels) if len(rows) == CHUNK else (tokens[rows], labels[rows])


def label_names(num_labels: int) -> tuple[str, ...]:
    """label-00000, label-00001, ..."""
    return tuple(f"label-{label:05d}" for label in range(num_labels))


def generate(
    spec: PlantedSpec | None = None, /, *, progress: Progress | None = None, **fields: Any
) -> MultiLabelDataset:
    """Draw the training and test documents of a planted distribution.

    Args:
        spec: the distribution; or give its fields by name.
        progress: called with (documents done, documents in all).

    Returns:
        Token sequences (ids from 2 on), labels and names, split into train and test. Equal specs give equal bits.

    Raises:
        DataError: fields that contradict each other.

    Example:
        >>> from energynets.data.planted import generate
        >>> data = generate(num_documents=10, num_test_documents=5)
        >>> data.documents.labels.shape
        (15, 64)
    """
    spec = PlantedSpec.from_dict(fields) if spec is None else spec
    model = PlantedModel.build(spec)
    total = spec.num_documents + spec.num_test_documents
    store = MemoryStore()
    done = 0
    for split, wanted in enumerate((spec.num_documents, spec.num_test_documents)):
        for tokens, labels in chunks(model, split, wanted):
            store.append("ids", tokens.ids)
            store.append("lengths", tokens.lengths)
            add_labels(store, labels.indices, np.diff(labels.indptr), spec.num_labels)
            done += len(tokens)
            if progress is not None:
                progress(done, total)
    inputs = TokenSequences(
        store.array("ids", np.int32), offsets_of(store.array("lengths", np.int64)), spec.vocabulary_size
    )
    return MultiLabelDataset(
        name="planted",
        documents=Documents(inputs, label_matrix(store, spec.num_labels), label_names=label_names(spec.num_labels)),
        splits={
            "train": np.arange(spec.num_documents),
            "test": np.arange(spec.num_documents, total),
        },
        split_rule="drawn independently from one planted distribution",
    )
