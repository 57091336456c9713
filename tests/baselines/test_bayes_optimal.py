"""The exact posterior as a baseline: nothing that learns from the documents is above it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from energynets.baselines import BayesOptimal, LabelFrequency, LinearOneVsRest, load_baseline
from energynets.data.dataset import Documents
from energynets.data.planted import PlantedSpec, generate, posterior
from energynets.errors import DataError
from energynets.metrics import hamming_loss, precision_at_k, predict_above

SPEC = PlantedSpec(num_labels=12, num_documents=300, num_test_documents=400, vocabulary_size=400, seed=3)


def test_scores_are_the_posterior() -> None:
    test = generate(SPEC).split("test")
    top = BayesOptimal(SPEC).fit(test).scores(test, 5)
    marginals = posterior(SPEC, test.inputs)  # type: ignore[arg-type]
    assert (len(top), top.k, top.num_labels) == (400, 5, 12)
    np.testing.assert_allclose(top.values, -np.sort(-marginals, axis=1)[:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(marginals, top.indices.astype(int), axis=1), top.values, rtol=1e-5)
    assert BayesOptimal(SPEC).scores(test, 50).complete


def test_nothing_learned_is_above_it() -> None:
    dataset = generate(SPEC)
    train, test = dataset.split("train"), dataset.split("test")
    bayes = BayesOptimal(SPEC).scores(test, 12)
    for model in (LabelFrequency(), LinearOneVsRest()):
        learned = model.fit(train).scores(test, 12)
        assert precision_at_k(bayes, test.labels, 1) > precision_at_k(learned, test.labels, 1)
        wrong = hamming_loss(predict_above(learned, 0.5), test.labels)
        assert hamming_loss(predict_above(bayes, 0.5), test.labels) < wrong


def test_spec_as_fields_saved_and_loaded(tmp_path: Path) -> None:
    test = generate(SPEC).split("test")
    BayesOptimal(SPEC.to_dict()).save(tmp_path)
    again = load_baseline(tmp_path)
    assert isinstance(again, BayesOptimal)
    assert again.spec == SPEC
    assert again.num_parameters == 0
    np.testing.assert_array_equal(again.scores(test, 3).values, BayesOptimal(SPEC).scores(test, 3).values)


def test_other_documents_are_refused() -> None:
    test = generate(SPEC).split("test")
    table = Documents(csr_array((2, 400)), csr_array((2, 12)))
    with pytest.raises(DataError, match="token ids, got csr_array"):
        BayesOptimal(SPEC).fit(table)
    with pytest.raises(DataError, match="has 12 labels, got 3"):
        BayesOptimal(SPEC).scores(Documents(test.inputs, csr_array((400, 3))), 1)
