"""u0 before the first step: each label's log odds among the training documents.

A sigmoid output whose logits start near 0 gives every label one half. Over 100,000 labels with ten of them true, the
summed bce then starts at 69,000, three orders of magnitude above what label frequencies alone have, and the first
epochs push all logits down through features that they destroy. Started at the log odds, the first step already learns
of documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from energynets.errors import ConfigError

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.data.dataset import MultiLabelDataset

SMOOTHING = 0.1  # documents with the label, and as many without, that nobody has seen


def log_odds(labels: csr_array, unknown: csr_array | None = None) -> Tensor:
    """log (n_l + a) / (N_l - n_l + a), (L,) float32: n_l of the N_l documents that know of label l have it, a = 0.1.

    Args:
        labels: (N, L), the label sets of training documents.
        unknown: (N, L), ones where nobody knows whether a label is true.

    Source: T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017, section 4.1, whose prior is one number.
    """
    true = np.bincount(labels.indices, minlength=labels.shape[1])
    known = np.full(labels.shape[1], labels.shape[0])
    if unknown is not None:
        known = known - np.bincount(unknown.indices, minlength=labels.shape[1])
    return torch.from_numpy(np.log(true + SMOOTHING) - np.log(known - true + SMOOTHING)).float()


@torch.no_grad()
def set_initial_bias(experiment: Experiment, model: Any, dataset: MultiLabelDataset) -> None:
    """u0 of a new network as `training.initial_bias` says; nothing of a baseline.

    Raises:
        ConfigError: the output layer has no bias.
    """
    if experiment.training.initial_bias != "frequencies" or not isinstance(model, nn.Module):
        return
    output: Any = getattr(model, "energy", model).unary
    if output.bias is None:
        raise ConfigError("training.initial_bias: frequencies needs an output layer with a bias")
    documents = dataset.split("train")
    output.bias.copy_(log_odds(documents.labels, documents.unknown))
