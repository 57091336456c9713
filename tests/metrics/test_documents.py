"""Metrics document by document are what the metrics are means of."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from energynets.metrics import TopScores, document_values, evaluate_scores, inverse_propensity


@pytest.mark.parametrize("kept", [3, 12])
def test_metrics_are_their_means(kept: int) -> None:
    rng = np.random.default_rng(kept)
    labels = rng.random((40, 12)) < 0.2
    labels[::7] = False
    weights = inverse_propensity(csr_array((rng.random((50, 12)) < 0.2).astype(np.float32)))
    scores = TopScores.from_dense(np.round(rng.random((40, 12)) * 0.7 + 0.3 * labels, 2), kept)
    true = csr_array(labels.astype(np.float32))
    values = document_values(scores, true, threshold=0.4, inverse_propensity=weights)
    metrics = evaluate_scores(scores, true, threshold=0.4, inverse_propensity=weights)
    left_out = {f"{name}{at}" for name in ("f1_micro", "f1_macro", "hamming_loss") for at in ("", "_at_0.5")}
    assert values.keys() == metrics.keys() - left_out
    for name, value in values.items():
        assert value.shape == (40,)
        assert value.mean(dtype=np.float64) == pytest.approx(metrics[name], abs=1e-7), name
    assert values["psp@1"].max() > 1, "a document may weigh more than its share"


def test_without_labels_or_threshold() -> None:
    scores = TopScores.from_dense(np.eye(3), 2)
    values = document_values(scores, csr_array((3, 3), dtype=np.float32), inverse_propensity=np.ones(3), ks=(1,))
    assert all((value == 0).all() for value in values.values())
    assert "f1_example" not in values
