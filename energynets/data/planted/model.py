"""The distribution behind planted data: label trees, emission rates, and which words tell which label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from energynets.data.planted.spec import PlantedSpec
from energynets.errors import DataError

FIRST_WORD = 2  # ids 0 and 1 are padding and unknown


@dataclass(frozen=True)
class Lexicon:
    """Which words belong to labels: phrase k = label * phrases_per_label + j is a fixed sequence of word ids.

    A phrase opens with a *head* word, which occurs nowhere else, and goes on with *tail* words, which occur nowhere
    else either: every document falls apart into phrases and background words in one way, so counts of phrases are
    known exactly. With one-word phrases every phrase is a word of its own.

    Args:
        length: words of a phrase.
        base: number of head words, and for length > 1 of tail words.
        num_background: words that tell no label.
        multiplier: phrase k has the code k * multiplier mod base^length, written in base `base`.
        word_of_rank: (V - 2,) int32 word ids: background by frequency, then heads, then tails.
    """

    length: int
    base: int
    num_background: int
    multiplier: int
    word_of_rank: np.ndarray

    @property
    def num_codes(self) -> int:
        return self.base**self.length

    def phrase_words(self, phrases: np.ndarray) -> np.ndarray:
        """(n,) phrase numbers -> (n, length) word ids."""
        code = phrases.astype(np.int64) * self.multiplier % self.num_codes
        ranks = np.empty((len(code), self.length), dtype=np.int64)
        for position in range(self.length - 1, -1, -1):
            ranks[:, position] = code % self.base + self.num_background + (self.base if position else 0)
            code //= self.base
        return self.word_of_rank[ranks]


def build_lexicon(spec: PlantedSpec) -> Lexicon:
    """Give every label its phrases out of V words, at least half of which stay background.

    Raises:
        DataError: V is too small for phrases of the length asked for.
    """
    words = spec.vocabulary_size - FIRST_WORD
    room = words // 2
    phrases = spec.num_labels * spec.phrases_per_label
    if phrases > 10**9:
        raise DataError(f"planted: num_labels x phrases_per_label = {phrases:,} is more than 1,000,000,000")
    length = spec.phrase_length or next((n for n in range(1, 65) if _words_needed(phrases, n) <= room), 64)
    if _words_needed(phrases, length) > room:
        raise DataError(
            f"planted: {spec.num_labels:,} labels with {spec.phrases_per_label} phrases of {length} words need "
            f"{_words_needed(phrases, length):,} words, half of vocabulary_size={spec.vocabulary_size:,} is {room:,}: "
            "raise vocabulary_size or phrase_length, or lower phrases_per_label"
        )
    base = _base(phrases, length)
    used = _words_needed(phrases, length)
    codes = base**length
    multiplier = 1
    if length > 1:
        # Golden-ratio steps scatter the phrases of one label over different heads; coprime makes them distinct.
        multiplier = max(1, int(codes * 0.6180339887498949))
        while math.gcd(multiplier, codes) != 1:
            multiplier += 1
    order = np.random.default_rng([spec.seed, 101]).permutation(words)
    return Lexicon(length, base, words - used, multiplier, (order + FIRST_WORD).astype(np.int32))


def _base(phrases: int, length: int) -> int:
    base = max(2 if length > 1 else 1, round(phrases ** (1 / length)))
    while base**length < phrases:
        base += 1
    while base > 2 and (base - 1) ** length >= phrases:
        base -= 1
    return base


def _words_needed(phrases: int, length: int) -> int:
    return phrases if length == 1 else 2 * _base(phrases, length)


def zipf(count: int, exponent: float) -> np.ndarray:
    """(count,) probabilities proportional to rank^-exponent."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


@dataclass(frozen=True)
class PlantedModel:
    """Everything that follows from a spec but documents.

    Arrays over labels have shape (block_size, blocks): node j of every block, nodes in breadth-first order, so that
    node j's parent is node (j - 1) // branching; label = block * block_size + node. Nodes beyond L never fire.

    Args:
        spontaneous: P(s = 1); equal to 1 - exp(-rate).
        edge: P(t = 1); 0 at roots.
        rate: Poisson rate of spontaneous events.
        marginal: P(y = 1) before documents without labels are dropped.
        noise_rate: off_i.
        background_length: mean background words of a document.
        log_empty: log P(no label at all) = -sum of rates.
    """

    spec: PlantedSpec
    lexicon: Lexicon
    spontaneous: np.ndarray
    edge: np.ndarray
    rate: np.ndarray
    marginal: np.ndarray
    noise_rate: np.ndarray
    background_length: float
    log_empty: float

    @property
    def num_blocks(self) -> int:
        return self.rate.shape[1]

    def parent(self, node: int) -> int:
        return (node - 1) // self.spec.branching

    def by_label(self, nodes: np.ndarray) -> np.ndarray:
        """(block_size, blocks) -> (L,)."""
        return nodes.T.reshape(-1)[: self.spec.num_labels]

    def label_frequencies(self) -> np.ndarray:
        """(L,) P(y_i = 1) of the documents as drawn."""
        kept = 1.0 if self.spec.allow_empty else -math.expm1(self.log_empty)
        return self.by_label(self.marginal) / kept

    @classmethod
    def build(cls, spec: PlantedSpec) -> PlantedModel:
        """Solve the rates for the mean number of labels and the mean length asked for.

        Raises:
            DataError: no rates give that mean, or the document has no room for its phrases.
        """
        lexicon = build_lexicon(spec)
        size, blocks = spec.block_size, -(-spec.num_labels // spec.block_size)
        relative = np.arange(1, blocks + 1, dtype=np.float64)[None, :] ** -spec.label_zipf
        relative = np.where(np.arange(size)[:, None] == 0, 1.0, spec.leak) * relative
        # The same mix of strong and weak edges in every tree: its mean number of labels is then no matter of luck.
        spread = min(spec.dependence, 1 - spec.dependence) / 2
        mix = spec.dependence + spread * (np.linspace(-1, 1, size - 1) if size > 2 else np.zeros(size - 1))
        edge = np.zeros((size, blocks))
        edge[1:] = np.random.default_rng([spec.seed, 102]).permuted(np.tile(mix[:, None], blocks), axis=0)
        beyond = np.arange(size)[:, None] + size * np.arange(blocks)[None, :] >= spec.num_labels
        relative[beyond] = 0
        edge[beyond] = 0

        rate = _solve_scale(spec, relative, edge) * relative
        spontaneous = -np.expm1(-rate)
        marginal = _marginals(spec, spontaneous, edge)
        taken = lexicon.length * (spec.evidence * spec.mean_labels + spec.noise)
        background_length = spec.mean_length - taken
        if background_length < 0:
            raise DataError(
                f"planted.mean_length={spec.mean_length:g}: phrases alone take {taken:g} "
                "words, phrase_length x (evidence x mean_labels + noise): raise mean_length, or lower evidence or noise"
            )
        return cls(
            spec=spec,
            lexicon=lexicon,
            spontaneous=spontaneous,
            edge=edge,
            rate=rate,
            marginal=marginal,
            noise_rate=spec.noise * marginal / marginal.sum(),
            background_length=background_length,
            log_empty=-float(rate.sum()),
        )


def _marginals(spec: PlantedSpec, spontaneous: np.ndarray, edge: np.ndarray) -> np.ndarray:
    marginal = spontaneous.copy()
    for node in range(1, spec.block_size):
        parent = (node - 1) // spec.branching
        marginal[node] = 1 - (1 - spontaneous[node]) * (1 - edge[node] * marginal[parent])
    return marginal


def _solve_scale(spec: PlantedSpec, relative: np.ndarray, edge: np.ndarray) -> float:
    total = relative.sum()

    def mean_labels(log_scale: float) -> float:
        scale = math.exp(log_scale)
        mean = _marginals(spec, -np.expm1(-scale * relative), edge).sum()
        return float(mean if spec.allow_empty else mean / -math.expm1(-scale * total))

    # From one event in a million documents to a thousand events a document.
    low, high = math.log(1e-6 / total), math.log(1e3 / total)
    least, most = mean_labels(low), mean_labels(high)
    if not least <= spec.mean_labels <= most:
        raise DataError(
            f"planted.mean_labels: expected {least:.4g} to {most:.4g} with these {spec.num_labels:,} labels, "
            f"got {spec.mean_labels:g}: lower dependence or block_size, or set allow_empty, for fewer labels a "
            "document; raise dependence or num_labels for more"
        )
    return math.exp(brentq(lambda x: mean_labels(x) - spec.mean_labels, low, high, xtol=1e-12, rtol=1e-14))
