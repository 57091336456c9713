"""What the labels of similar training documents add to the unary logits: a memory beside the weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from energynets.baselines.neighbours import NearestNeighbours
from energynets.data.batches import BatchInputs, documents_of
from energynets.errors import ConfigError


class NeighbourLogits(nn.Module):
    """w log(share_l(x) + eps), a term of phi_l(x): shares of the nearest neighbours' labels, w learned.

        share_l(x) = sum_{n in kNN(x)} c_n^p y_nl / sum_{n in kNN(x)} c_n^p,   c_n = max(0, cos(x, x_n))

    Shares are the scores of the baseline `NearestNeighbours`. In training mode a document's exact copies among the
    training documents, itself first of all, are no neighbours of it, or w would learn to trust a memory that knows the
    answer; in evaluation mode they are, so that metrics of the training split say little. With softmax and a network
    that says nothing, w = 1 gives the neighbours' own distribution of labels.

    Neighbours are looked up on the CPU, wherever the network is. The documents are no part of `state_dict`, which would
    repeat them in every checkpoint: a run keeps them once, as the baseline's file.

    Args:
        nearest: fitted on the training documents before the first call.
        smoothing: eps > 0, the share that a label counts as which no neighbour has.

    Raises:
        ConfigError: smoothing is not positive.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> from energynets import BagOfWords, Classifier
        >>> from energynets.baselines import NearestNeighbours
        >>> from energynets.data import Documents
        >>> from energynets.output import NeighbourLogits
        >>> training = Documents(csr_array(np.eye(4, dtype=np.float32)), csr_array(np.eye(4, 3, dtype=np.float32)))
        >>> neighbours = NeighbourLogits(NearestNeighbours(2).fit(training))
        >>> model = Classifier(BagOfWords(num_inputs=4, hidden=(16,)), num_labels=3, neighbours=neighbours)

    Source: after Khandelwal et al., Generalization through memorization: nearest neighbor language models (2020),
    equation 3, which mixes probabilities with a fixed weight; a sum of logits keeps phi linear in what is learned.
    """

    def __init__(self, nearest: NearestNeighbours, *, smoothing: float = 1e-3) -> None:
        super().__init__()
        if not smoothing > 0:
            raise ConfigError(f"smoothing: expected a share above 0 for labels that no neighbour has, got {smoothing}")
        self.nearest = nearest
        self.smoothing = smoothing
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: BatchInputs) -> Tensor:
        """(B, L), of the dtype and on the device of w.

        Raises:
            ShapeError: cached features, whose documents are gone.
            DataError: `nearest` is not fitted.
        """
        documents = documents_of(inputs, self.nearest.num_inputs)
        shares = self.nearest.shares(documents, leave_one_out=self.training)
        rows = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr))
        logs = torch.full(shares.shape, math.log(self.smoothing), dtype=self.weight.dtype)
        logs[rows, shares.indices] = torch.from_numpy(np.log(shares.data + self.smoothing)).to(logs.dtype)
        return self.weight * logs.to(self.weight.device)
