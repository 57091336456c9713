"""Features that see which labels are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from energynets.data.batches import SparseBatch, TokenBatch
from energynets.eager import eager
from energynets.features.network import FeatureNetwork, InputKind
from energynets.features.sparse import DENSE_FROM, sparse_product
from energynets.linear import product
from energynets.masks import without


class Observing(FeatureNetwork):
    """Two more inputs a label, known to be true and known to be false, added to a hidden layer of another network.

        f = network(x, t P + (g - mean g) Q / sqrt(L)),   t = m y,  g = m - t

    The sum joins the network's layer before its activation, as so many more columns of its input would: for a bag of
    words the first hidden layer, for the convolutional networks their last; networks without such a layer have it
    added to f. Without known labels it is 0, and P and Q start at 0, so that the network starts as if it were alone.
    Where labels are many, thousands are known to be false at a time: every document pulls their rows of Q the same
    way, and the sum drowns x. Less their mean and over sqrt(L) they weigh about as much as one known to be true.

    Args:
        network: x -> (B, F).
        num_labels: L.

    Example:
        >>> from energynets import BagOfWords, Classifier
        >>> from energynets.features import Observing
        >>> model = Classifier(Observing(BagOfWords(num_inputs=100, hidden=(16,)), num_labels=5), num_labels=5)
    """

    def __init__(self, network: FeatureNetwork, num_labels: int) -> None:
        super().__init__()
        self.network = network
        width = getattr(network, "known_width", None) or network.num_features
        self.known_true = nn.Parameter(torch.zeros(num_labels, width))
        self.known_false = nn.Parameter(torch.zeros(num_labels, width))

    @property
    def input_kind(self) -> InputKind:  # type: ignore[override]
        return self.network.input_kind

    @property
    def num_features(self) -> int:
        return self.network.num_features

    def forward(
        self, inputs: SparseBatch | TokenBatch, known: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, F).

        Args:
            inputs: x.
            known: y (B, L), read where the mask is True.
            mask: which labels are known, (B, L) bool.
        """
        if known is None or mask is None:
            return self.network(inputs)
        true = without(known, ~mask).to(self.known_true.dtype)
        false = mask.to(true.dtype) - true
        false = (false - false.mean(1, keepdim=True)) * false.shape[1] ** -0.5
        term = self._of_true(true) + product(false, self.known_false)
        if getattr(self.network, "known_width", None) is None:
            return self.network(inputs) + term
        return self.network(inputs, term)

    def _of_true(self, true: Tensor) -> Tensor:
        """t P; of a few true labels among thousands a sparse product, where to count them makes nobody wait."""
        few = true.device.type == "cpu" and eager() and int(true.count_nonzero()) <= DENSE_FROM * true.numel()
        return sparse_product(SparseBatch.of(true), self.known_true) if few else product(true, self.known_true)
