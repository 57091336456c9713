"""The exact posterior of planted data: P(y_i = 1 | document) for every label, by message passing in the trees.

A document is, through its phrase counts n, as informative as independent Poisson numbers:
log P(n_i | y_i = 1) / P(n_i | y_i = 0) = n_i log(1 + evidence / off_i) - evidence, all else cancels. So labels depend
on each other only through their trees, one upward and one downward pass give the marginals, and a block has one
posterior, computed once, in all the documents that do not mention it. That every document has a label divides by
1 - P(y = 0 | document).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import expit

from energynets.data.dataset import TokenSequences
from energynets.data.planted.model import FIRST_WORD, PlantedModel
from energynets.data.planted.spec import PlantedSpec
from energynets.errors import DataError


def phrase_counts(model: PlantedModel, tokens: TokenSequences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each document tells of each label: (documents, labels, counts), sorted, counts above 0.

    Raises:
        DataError: the documents are not of this distribution.
    """
    spec, lexicon = model.spec, model.lexicon
    ids = tokens.ids.astype(np.int64)
    foreign = (ids < FIRST_WORD) | (ids >= spec.vocabulary_size)
    if tokens.vocabulary_size != spec.vocabulary_size or foreign.any():
        raise DataError(
            f"expected planted documents over {spec.vocabulary_size} words with ids from {FIRST_WORD} on, got "
            f"{tokens.vocabulary_size} words" + (f" and id {ids[foreign][0]}" if foreign.any() else "")
        )
    rank_of_word = np.empty(spec.vocabulary_size, dtype=np.int64)
    rank_of_word[lexicon.word_of_rank] = np.arange(len(lexicon.word_of_rank))
    digit = rank_of_word[ids] - lexicon.num_background
    document = np.repeat(np.arange(len(tokens)), tokens.lengths)
    heads = np.flatnonzero((digit >= 0) & (digit < lexicon.base))
    code = digit[heads]
    if len(heads) and heads[-1] + lexicon.length > len(ids):
        raise DataError(f"document {document[-1]} ends within a phrase: not a planted document of this spec")
    for position in range(1, lexicon.length):
        tail = digit[heads + position] - lexicon.base
        broken = (tail < 0) | (document[heads + position] != document[heads])
        if broken.any():
            raise DataError(
                f"document {document[heads][broken][0]} breaks off a phrase: not a planted document of this spec"
            )
        code = code * lexicon.base + tail
    # The inverse of phrase -> phrase * multiplier mod codes.
    phrases = code * pow(lexicon.multiplier, -1, lexicon.num_codes) % lexicon.num_codes if lexicon.length > 1 else code
    labels = phrases // spec.phrases_per_label
    if len(labels) and labels.max() >= spec.num_labels:
        raise DataError("a phrase belongs to no label: not a planted document of this spec")
    keys, counts = np.unique(document[heads] * spec.num_labels + labels, return_counts=True)
    return keys // spec.num_labels, keys % spec.num_labels, counts


def _pass(model: PlantedModel, blocks: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marginals of some blocks given their labels' log likelihood ratios.

    With l_j = ratio_j + sum over children of log m_c(1) / m_c(0), the evidence at and below j,
    m_j(u) = P(y_j = 0 | parent u) + P(y_j = 1 | parent u) exp(l_j).

    Args:
        blocks: (P,) block numbers.
        ratio: (block_size, P), overwritten with l.

    Returns:
        (block_size, P) marginals, and (P,) the log probability that no label of the block is on.
    """
    off = model.spontaneous[:, blocks]  # P(y_j = 1 | parent off)
    on = 1 - (1 - off) * (1 - model.edge[:, blocks])
    with np.errstate(divide="ignore"):
        log_off, log_not_off = np.log(off), np.log1p(-off)
        log_on, log_not_on = np.log(on), np.log1p(-on)
    for node in range(model.spec.block_size - 1, 0, -1):
        given_on = np.logaddexp(log_not_on[node], log_on[node] + ratio[node])
        given_off = np.logaddexp(log_not_off[node], log_off[node] + ratio[node])
        ratio[model.parent(node)] += given_on - given_off
    marginal = expit(log_off - log_not_off + ratio)  # given that the parent is off
    log_none = -np.logaddexp(0, log_off - log_not_off + ratio).sum(0)
    for node in range(1, model.spec.block_size):
        parent = marginal[model.parent(node)]
        given_on = expit(log_on[node] - log_not_on[node] + ratio[node])
        marginal[node] = parent * given_on + (1 - parent) * marginal[node]
    return marginal, log_none


class Posterior:
    """The posterior of one model: what does not depend on a document is computed here, once."""

    def __init__(self, model: PlantedModel, *, chunk: int = 1024) -> None:
        self.model = model
        self.chunk = chunk
        # A label that is never on (no leak, no edge) is never told either: its gain is not used.
        with np.errstate(divide="ignore", invalid="ignore"):
            self.gain = np.log1p(model.spec.evidence / model.by_label(model.noise_rate))
        blocks = np.arange(model.num_blocks)
        silent = np.full((model.spec.block_size, model.num_blocks), -model.spec.evidence)
        marginal, self.log_none = _pass(model, blocks, silent)
        self.unmentioned = model.by_label(marginal)
        self.by_value = np.argsort(-self.unmentioned, kind="stable")

    def _mentioned(self, tokens: TokenSequences) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(document, block) pairs with their marginals (pairs, block_size), and 1 - P(y = 0 | document) of all."""
        spec, model = self.model.spec, self.model
        documents, labels, counts = phrase_counts(model, tokens)
        keys, position = np.unique(documents * model.num_blocks + labels // spec.block_size, return_inverse=True)
        rows, blocks = keys // model.num_blocks, keys % model.num_blocks
        ratio = np.full((spec.block_size, len(keys)), -spec.evidence)
        ratio[labels % spec.block_size, position] += counts * self.gain[labels]
        marginal, log_none = _pass(model, blocks, ratio)
        if spec.allow_empty:
            return rows, blocks, marginal.T, np.ones(len(tokens))
        difference = np.bincount(rows, log_none - self.log_none[blocks], len(tokens))
        return rows, blocks, marginal.T, -np.expm1(self.log_none.sum() + difference)

    def dense(self, tokens: TokenSequences) -> np.ndarray:
        """(N, L) float64 marginals."""
        spec = self.model.spec
        width = self.model.num_blocks * spec.block_size
        out = np.empty((len(tokens), spec.num_labels))
        for begin, part in self._chunks(tokens):
            rows, blocks, marginal, some = self._mentioned(part)
            full = np.zeros((len(part), self.model.num_blocks, spec.block_size))
            full.reshape(len(part), width)[:, : spec.num_labels] = self.unmentioned
            full[rows, blocks] = marginal
            full /= some[:, None, None]
            out[begin : begin + len(part)] = full.reshape(len(part), width)[:, : spec.num_labels]
        return np.minimum(out, 1.0, out=out)

    def top(self, tokens: TokenSequences, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k largest marginals of each document: mentioned blocks, and the best of the rest."""
        spec = self.model.spec
        k = min(k, spec.num_labels)
        indices = np.empty((len(tokens), k), dtype=np.int32)
        values = np.empty((len(tokens), k))
        for begin, part in self._chunks(tokens):
            rows, blocks, marginal, some = self._mentioned(part)
            mentions = np.bincount(rows, minlength=len(part))
            most = int(mentions.max(initial=0))
            slot = np.arange(len(rows)) - np.repeat(np.cumsum(mentions) - mentions, mentions)
            shape = (len(part), most, spec.block_size)
            own_labels = np.full(shape, spec.num_labels, dtype=np.int64)
            own_values = np.full(shape, -1.0)
            own_labels[rows, slot] = blocks[:, None] * spec.block_size + np.arange(spec.block_size)
            own_values[rows, slot] = marginal
            own_values[own_labels >= spec.num_labels] = -1.0
            # Mentioned blocks may hold that many of the best unmentioned labels; k of the others suffice.
            rest = self.by_value[: min(spec.num_labels, k + most * spec.block_size)]
            rest_values = np.broadcast_to(self.unmentioned[rest], (len(part), len(rest))).copy()
            place = np.full(self.model.num_blocks, -1)
            candidates = np.unique(rest // spec.block_size)
            place[candidates] = np.arange(len(candidates))
            mask = np.zeros((len(part), len(candidates)), dtype=bool)
            seen = place[blocks] >= 0
            mask[rows[seen], place[blocks[seen]]] = True
            rest_values[mask[:, place[rest // spec.block_size]]] = -1.0
            all_labels = np.concatenate(
                [own_labels.reshape(len(part), -1), np.broadcast_to(rest, rest_values.shape)], 1
            )
            all_values = np.concatenate([own_values.reshape(len(part), -1), rest_values], 1) / some[:, None]
            best = np.lexsort((all_labels, -all_values), axis=-1)[:, :k]
            indices[begin : begin + len(part)] = np.take_along_axis(all_labels, best, 1)
            values[begin : begin + len(part)] = np.take_along_axis(all_values, best, 1)
        return indices, np.minimum(values, 1.0, out=values)

    def _chunks(self, tokens: TokenSequences) -> Iterator[tuple[int, TokenSequences]]:
        for begin in range(0, len(tokens), self.chunk):
            yield begin, tokens[np.arange(begin, min(begin + self.chunk, len(tokens)))]


def posterior(spec: PlantedSpec, tokens: TokenSequences) -> np.ndarray:
    """P(y_i = 1 | document), exactly, for every label.

    Args:
        spec: the distribution that the documents were drawn from.
        tokens: N documents of it, whole (not cut).

    Returns:
        (N, L) float64; for large L use `posterior_top`.

    Raises:
        DataError: the documents cannot have come from this spec.

    Example:
        >>> from energynets.data.planted import PlantedSpec, generate, posterior
        >>> spec = PlantedSpec(num_documents=10)
        >>> posterior(spec, generate(spec).split("test").inputs).shape
        (1000, 64)
    """
    return Posterior(PlantedModel.build(spec)).dense(tokens)


def posterior_top(spec: PlantedSpec, tokens: TokenSequences, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k labels of largest P(y_i = 1 | document): (N, k) int32 labels, (N, k) float64 values, descending.

    Memory and time go with the labels a document mentions and with L once, never with N x L; ties go to the smaller
    label.

    Raises:
        DataError: as `posterior`.
    """
    return Posterior(PlantedModel.build(spec)).top(tokens, k)
