"""The output layer solved for: one-vs-rest linear classifiers of features that stay as they are.

Each label's classifier is a convex problem, and scikit-learn's liblinear solves it to the end, where epochs of an
optimiser stop somewhere on the way. With no hidden layer, f = x, this is the linear baseline as a network: an energy on
top of it learns from its held-out scores like from any other's (docs/cross-fitting.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array

from energynets.baselines.linear import LinearOneVsRest
from energynets.data.dataset import Documents
from energynets.features import BagOfWords, FeatureCache

if TYPE_CHECKING:
    from energynets.config import LinearFit


def fit_unary(
    model: Any,
    documents: Documents,
    settings: LinearFit,
    *,
    batch_size: int,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Set U and u0 of a classifier to

        min over u_l, b_l of  |u_l|^2 / 2 + b_l^2 / 2 + C sum_n loss(s_nl (u_l . f_n + b_l)),   s = +1 or -1

    with f in evaluation mode, where a label is known. Nothing is drawn: the result is the same for every seed.

    Args:
        model: with `unary` (a linear layer with a bias) and `features`, on `device`.
        documents: N training documents.
        settings: loss and C.
        batch_size: documents a pass through the features.
        device: where the model is.
        progress: called with (labels done, L).

    Returns:
        How many labels' solvers stopped at their step limit.

    Source: Fan et al., LIBLINEAR, JMLR 2008, equations 1 and 2.
    """
    rows = _frozen_features(model, documents, batch_size, device)
    fitted = LinearOneVsRest(settings.loss, settings.C, threads=torch.get_num_threads())
    fitted.fit(replace(documents, inputs=rows, feature_names=None), progress=progress)
    weights: Any = fitted.weights
    bias: Any = fitted.bias
    weights = weights.toarray() if isinstance(weights, csr_array) else weights
    with torch.no_grad():
        model.unary.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights.T)))
        model.unary.bias.copy_(torch.from_numpy(bias))
    return fitted.unconverged


def _frozen_features(model: Any, documents: Documents, batch_size: int, device: torch.device | str) -> csr_array:
    """f of the documents, (N, F); of a network without hidden layers the sparse rows as they are."""
    if isinstance(model.features, BagOfWords) and model.features.first is None:
        assert isinstance(documents.inputs, csr_array)
        return documents.inputs
    features = FeatureCache(model.features).get(documents, key="train", batch_size=batch_size, device=device)
    return csr_array(features.float().numpy())
