"""Token embedding that looks up each distinct word of a batch once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.data.batches import TokenBatch
from energynets.errors import ConfigError, ShapeError
from energynets.features.dropout import dropout
from energynets.parallel import draws

PADDING = 0
_DEFAULT_STD = 0.1


@dataclass(frozen=True)
class PackedTokens:
    """The documents of a batch end to end, as positions in the list of the batch's distinct words.

    Args:
        words: (U,) int64, distinct token ids, ascending.
        index: (T,) int64, word t of the packed batch is `words[index[t]]`.
        starts: (B,) int64, where each document begins in `index`.
        lengths: (B,) int64, its length there, padding to the shortest allowed length included.
    """

    words: Tensor
    index: Tensor
    starts: Tensor
    lengths: Tensor


def pack(batch: TokenBatch, shortest: int = 1) -> PackedTokens:
    """Drop a batch's padding; documents shorter than `shortest` are padded with id 0 up to it.

    What a document becomes depends on nothing but itself, however far its batch was padded.
    """
    lengths = batch.lengths.clamp(min=shortest)
    tokens = _cleared(batch, max(batch.tokens.shape[1], shortest))
    inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    words, index = torch.unique(tokens[inside], return_inverse=True)
    return PackedTokens(words, index, lengths.cumsum(0) - lengths, lengths)


def distinct_words(batch: TokenBatch, max_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the first `max_tokens` positions: distinct words (U,), their place at each position (B, S), lengths (B,)."""
    tokens = _cleared(batch, min(batch.tokens.shape[1], max_tokens))
    words, index = torch.unique(tokens, return_inverse=True)
    return words, index, batch.lengths.clamp(max=max_tokens)


def _cleared(batch: TokenBatch, width: int) -> Tensor:
    """(B, width), id 0 wherever a document has ended."""
    tokens = batch.tokens[:, :width]
    tokens = F.pad(tokens, (0, width - tokens.shape[1]), value=PADDING)
    return tokens.masked_fill(torch.arange(width, device=tokens.device) >= batch.lengths[:, None], PADDING)


class WordEmbedding(nn.Module):
    """Rows of a (V, D) table; the row of id 0, padding, is zero and stays zero.

    Args:
        vocabulary_size: V.
        embedding_dim: D.
        dropout: probability that an entry of a word's vector is dropped; one mask for a word in a whole batch.
        vectors: (V, D) initial rows, a tensor or numpy's as of `read_vectors`; a row holding NaN is not covered and is
            drawn at the scale of those that are.

    Without vectors rows start normal with standard deviation 0.1.

    Raises:
        ConfigError: vectors of another dimension than D.
        ShapeError: vectors of another number of rows than V.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        *,
        dropout: float = 0.0,
        vectors: Tensor | np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(vocabulary_size, embedding_dim))
        self.reset_parameters(vectors)

    @torch.no_grad()
    def reset_parameters(self, vectors: Tensor | np.ndarray | None = None) -> None:
        num_words, dim = self.weight.shape
        self.weight.normal_(std=_DEFAULT_STD)
        if vectors is not None:
            vectors = torch.as_tensor(vectors)
            if vectors.ndim != 2 or vectors.shape[0] != num_words:
                raise ShapeError(f"vectors: expected one row for each of {num_words} words, got {tuple(vectors.shape)}")
            if vectors.shape[1] != dim:
                raise ConfigError(
                    f"embedding_dim is {dim}, but the word vectors have {vectors.shape[1]} dimensions: "
                    f"set embedding_dim: {vectors.shape[1]}"
                )
            vectors = vectors.to(self.weight)
            covered = ~vectors.isnan().any(1)
            covered[PADDING] = False
            if covered.any():
                self.weight.mul_(vectors[covered].square().mean().sqrt() / _DEFAULT_STD)
                self.weight[covered] = vectors[covered]
        self.weight[PADDING] = 0

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, dropout={self.dropout}"

    def forward(self, words: Tensor, places: draws.Places | None = None) -> Tensor:
        """(U,) ascending distinct ids -> (U, D), dropped out in training.

        Args:
            words: of a batch, or of a share of one.
            places: of these words among those of the whole batch.

        Raises:
            ShapeError: an id outside the vocabulary.
        """
        if len(words) and (int(words[-1]) >= self.weight.shape[0] or int(words[0]) < 0):
            worst = int(words[-1]) if int(words[0]) >= 0 else int(words[0])
            raise ShapeError(f"token id {worst} is outside the vocabulary of {self.weight.shape[0]} words")
        vectors_UD = F.embedding(words, self.weight, padding_idx=PADDING)
        return dropout(vectors_UD, self.dropout, self.training, places)
