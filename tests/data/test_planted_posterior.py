"""The posterior of planted data against enumeration of all label sets, and against what is drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import expit, gammaln, logsumexp
from scipy.stats import poisson

from energynets.data.dataset import TokenSequences
from energynets.data.planted import PlantedModel, PlantedSpec, generate, posterior, posterior_top
from energynets.data.planted.model import zipf
from energynets.data.planted.posterior import Posterior, phrase_counts
from energynets.errors import DataError


def label_set_probability(model, labels):
    """log P(y): the noisy-or of each tree, and the condition that a document has a label."""
    spec = model.spec
    if not any(labels) and not spec.allow_empty:
        return -np.inf
    total = 0.0
    for label, on in enumerate(labels):
        block, node = divmod(label, spec.block_size)
        off = model.spontaneous[node, block]
        if node:
            parent = labels[block * spec.block_size + (node - 1) // spec.branching]
            off = 1 - (1 - off) * (1 - model.edge[node, block] * parent)
        total += np.log(off if on else 1 - off)
    return total - (0 if spec.allow_empty else np.log1p(-np.exp(model.log_empty)))


def document_probability(model, words, labels):
    """log P(document | y), word by word: counts of every phrase and background word, and the order of the units."""
    spec, lexicon = model.spec, model.lexicon
    phrases = lexicon.phrase_words(np.arange(spec.num_labels * spec.phrases_per_label))
    number = {tuple(phrase): k for k, phrase in enumerate(phrases.tolist())}
    told, background, place = np.zeros(len(phrases)), {}, 0
    units = 0
    while place < len(words):
        units += 1
        phrase = tuple(words[place : place + lexicon.length])
        if phrase in number:
            told[number[phrase]] += 1
            place += lexicon.length
        else:
            background[words[place]] = background.get(words[place], 0) + 1
            place += 1
    rates = spec.noise * model.by_label(model.marginal) / model.marginal.sum() + spec.evidence * np.asarray(labels)
    rates = np.repeat(rates, spec.phrases_per_label) * np.tile(
        zipf(spec.phrases_per_label, spec.word_zipf), spec.num_labels
    )
    filler = np.array([background.pop(word, 0) for word in lexicon.word_of_rank[: lexicon.num_background].tolist()])
    assert not background
    filler_rates = model.background_length * zipf(lexicon.num_background, spec.word_zipf)
    order = gammaln(told + 1).sum() + gammaln(filler + 1).sum() - gammaln(units + 1)
    return poisson.logpmf(told, rates).sum() + poisson.logpmf(filler, filler_rates).sum() + order


CASES = [
    {"num_labels": 8, "mean_labels": 3.0},
    {"num_labels": 9, "block_size": 9, "branching": 2, "mean_labels": 3.5, "dependence": 0.5},
    {"num_labels": 7, "block_size": 5, "branching": 1, "mean_labels": 3.0, "phrase_length": 2},
    {"num_labels": 8, "block_size": 8, "branching": 7, "mean_labels": 2.0, "dependence": 0.3, "leak": 0.5},
    {"num_labels": 8, "mean_labels": 1.0, "allow_empty": True, "phrase_length": 3, "phrases_per_label": 3},
    {"num_labels": 6, "mean_labels": 2.0, "dependence": 0.0},
    {"num_labels": 6, "mean_labels": 3.9, "dependence": 1.0, "leak": 0.0},
    {"num_labels": 6, "mean_labels": 1.1, "dependence": 0.0, "leak": 0.0},
    {"num_labels": 6, "mean_labels": 3.5, "word_zipf": 0.0, "evidence": 0.0},
]


@pytest.mark.parametrize("fields", CASES)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_posterior_equals_enumeration(fields):
    spec = PlantedSpec(num_documents=12, num_test_documents=0, vocabulary_size=300, mean_length=25.0, noise=1.5, seed=4)
    spec = PlantedSpec(**{**spec.to_dict(), **fields})
    tokens = generate(spec).documents.inputs
    model = PlantedModel.build(spec)
    label_sets = np.array(list(itertools.product((0, 1), repeat=spec.num_labels)))
    prior = np.array([label_set_probability(model, labels) for labels in label_sets])
    assert logsumexp(prior) == pytest.approx(0, abs=1e-9)
    expected = np.empty((len(tokens), spec.num_labels))
    for row in range(len(tokens)):
        words = tokens[np.array([row])].ids.tolist()
        joint = prior + np.array([document_probability(model, words, labels) for labels in label_sets])
        expected[row] = np.exp(joint - logsumexp(joint)) @ label_sets
    np.testing.assert_allclose(posterior(spec, tokens), expected, rtol=1e-9, atol=1e-12)


def test_calibrated_and_better_than_independent_labels():
    spec = PlantedSpec(num_documents=1, num_test_documents=20_000)
    test = generate(spec).split("test")
    on = test.labels.toarray() > 0
    exact = posterior(spec, test.inputs)
    edges = np.linspace(0, 1, 11)
    for low, high in itertools.pairwise(edges):
        inside = (exact > low) & (exact <= high)
        spread = np.sqrt((exact[inside] * (1 - exact[inside])).sum()) / inside.sum()
        # Labels of one document depend on each other: the independent spread is an underestimate, hence 8.
        assert abs(exact[inside].mean() - on[inside].mean()) < 8 * spread

    model = PlantedModel.build(spec)
    frequency = model.label_frequencies()
    evidence = np.full(on.shape, -spec.evidence)
    documents, labels, counts = phrase_counts(model, test.inputs)
    evidence[documents, labels] += counts * np.log1p(spec.evidence / model.by_label(model.noise_rate))[labels]
    independent = expit(np.log(frequency / (1 - frequency)) + evidence)

    def precision_at_1(scores):
        return on[np.arange(len(on)), scores.argmax(1)].mean()

    def f1_example(scores):
        predictions = [scores > threshold for threshold in np.linspace(0.02, 0.98, 49)]
        return max((2 * (p & on).sum(1) / np.maximum(p.sum(1) + on.sum(1), 1)).mean() for p in predictions)

    assert precision_at_1(exact) == pytest.approx(0.866, abs=0.01)
    assert precision_at_1(independent) == pytest.approx(0.826, abs=0.01)
    assert f1_example(exact) == pytest.approx(0.753, abs=0.01)
    assert f1_example(independent) == pytest.approx(0.570, abs=0.01)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize(
    "fields",
    [{"num_labels": 203, "vocabulary_size": 5_000}, {"num_labels": 11}, {"num_labels": 50, "allow_empty": True}],
)
def test_top_equals_the_best_of_all(fields, chunk):
    spec = PlantedSpec(num_documents=1, num_test_documents=40, seed=7, **fields)
    tokens = generate(spec).split("test").inputs
    exact = Posterior(PlantedModel.build(spec), chunk=chunk)
    dense = exact.dense(tokens)
    for k in (1, 5, 20, spec.num_labels + 3):
        indices, values = exact.top(tokens, k)
        order = np.argsort(-dense, axis=1, kind="stable")[:, :k]
        np.testing.assert_allclose(values, np.take_along_axis(dense, order, 1), rtol=1e-12)
        np.testing.assert_allclose(np.take_along_axis(dense, indices.astype(int), 1), values, rtol=1e-12)
        assert all(len(set(row)) == len(row) for row in indices.tolist())
    assert indices.dtype == np.int32


def test_documents_without_words():
    spec = PlantedSpec(allow_empty=True, mean_labels=1.0)
    empty = TokenSequences(np.zeros(0, np.int32), np.zeros(4, np.int64), spec.vocabulary_size)
    dense = posterior(spec, empty)
    assert dense.shape == (3, 64)
    assert np.all(dense < PlantedModel.build(spec).label_frequencies())
    indices, values = posterior_top(spec, empty, 5)
    np.testing.assert_allclose(values, np.take_along_axis(dense, indices.astype(int), 1))
    assert posterior(spec, empty[np.zeros(0, int)]).shape == (0, 64)


def test_foreign_documents_are_refused():
    spec = PlantedSpec(phrase_length=2)
    tokens = generate(spec).split("test").inputs
    with pytest.raises(DataError, match="2000 words"):
        posterior(spec, TokenSequences(tokens.ids, tokens.offsets, 3_000))
    with pytest.raises(DataError, match="id 1"):
        posterior(spec, TokenSequences(np.ones(3, np.int32), np.array([0, 3]), 2_000))
    with pytest.raises(DataError, match="phrase"):
        posterior(PlantedSpec(phrase_length=2, seed=1), tokens)
    head = PlantedModel.build(spec).lexicon.phrase_words(np.array([0]))[0, :1]
    with pytest.raises(DataError, match="ends within a phrase"):
        posterior(spec, TokenSequences(head, np.array([0, 1]), 2_000))
