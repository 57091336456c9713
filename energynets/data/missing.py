"""Labels taken out of training documents: what is left is true, and what is not listed may be true too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from energynets.data.dataset import MultiLabelDataset
from energynets.data.reveal import RandomReveal, entry_rows, keep_entries
from energynets.errors import ConfigError


def take_out(dataset: MultiLabelDataset, fraction: float, seed: int = 0) -> MultiLabelDataset:
    """Each label of each training document taken out with this probability; validation and test stay whole.

    Args:
        dataset: with a split "train".
        fraction: in [0, 1).
        seed: of the draw.

    Returns:
        Another data set, with a fingerprint of its own.

    Raises:
        ConfigError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"data.missing.fraction: expected a share in [0, 1), got {fraction}")
    labels = dataset.documents.labels
    rows = entry_rows(labels)
    training = np.zeros(len(dataset.documents), bool)
    training[dataset.splits["train"]] = True
    gone = training[rows] & RandomReveal.missing(fraction, seed).at(rows, labels.indices)
    rule = f"{dataset.split_rule}; {gone.sum()} training labels taken out, {fraction:g} of them with seed {seed}"
    return MultiLabelDataset(
        dataset.name, replace(dataset.documents, labels=keep_entries(labels, ~gone)), dataset.splits, rule
    )
