"""f -> logits over very many labels, and their loss, a chunk of labels at a time; what neighbours add to logits."""

from energynets.output.linear import ChunkedLinear
from energynets.output.loss import CHUNKED_LOSSES
from energynets.output.neighbours import NeighbourLogits
from energynets.output.sgd import ChunkedSGD

__all__ = ["CHUNKED_LOSSES", "ChunkedLinear", "ChunkedSGD", "NeighbourLogits"]
