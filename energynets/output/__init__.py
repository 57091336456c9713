"""f -> logits over very many labels, and their loss, a chunk of labels at a time: knows tensors only."""

from energynets.output.linear import ChunkedLinear
from energynets.output.loss import CHUNKED_LOSSES
from energynets.output.sgd import ChunkedSGD

__all__ = ["CHUNKED_LOSSES", "ChunkedLinear", "ChunkedSGD"]
