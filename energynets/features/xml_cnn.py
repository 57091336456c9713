"""XML-CNN: convolutions, dynamic max pooling, and a bottleneck layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.data.batches import SparseBatch, TokenBatch
from energynets.errors import ConfigError, nearest
from energynets.features.dropout import dropout
from energynets.features.embedding import WordEmbedding, distinct_words, pack
from energynets.features.network import FeatureNetwork, check_settings, expect_tokens
from energynets.features.pooling import size_classes
from energynets.features.position_convolution import PositionConvolution
from energynets.features.word_convolution import WordConvolution
from energynets.linear import Linear
from energynets.parallel import draws

_AXES = ("words", "embedding")


class XMLCNN(FeatureNetwork):
    """f = bottleneck of the largest values of each filter in p chunks of a document, for every window.

        P = [ relu(max_{t in chunk j} (W * e)_t + b) for each window and chunk j ],   f = dropout(relu(V P + v))

    Two networks go by this name. `conv_axis="words"` is the paper's: filters slide over words, chunks are cut over
    each document's own length. `conv_axis="embedding"` is the released code's: the first `max_tokens` positions are
    channels, filters slide along the embedding axis with a stride, chunks are cut over that axis.

    Args:
        vocabulary_size: V; id 0 is padding.
        embedding_dim: D.
        windows: widths of filters, one set of filters for each.
        num_filters: filters of each window.
        pooling_chunks: p.
        hidden: F, width of the bottleneck.
        conv_axis: words or embedding.
        max_tokens: S, positions read with `conv_axis="embedding"`; not used with words.
        stride: of filters with `conv_axis="embedding"`; over words it is 1.
        embedding_dropout: of the entries of word vectors; one mask for a word in a whole batch.
        dropout: of the features.
        bias: whether filters and the bottleneck have one.
        vectors: (V, D) initial word vectors; rows of NaN are drawn at random at the scale of the others.

    Over words, a document shorter than the widest window is padded up to it with the zero vector of id 0; an empty
    document is all padding. Features do not depend on the batch a document comes in.

    Raises:
        ConfigError: unknown `conv_axis`; a window wider than the embedding where filters slide along it; sizes that are
            no whole numbers from 1 on, no window, or a probability outside [0, 1].

    Source: Liu, Chang, Wu & Yang, "Deep learning for extreme multi-label text classification", SIGIR 2017, section 3.

    Example:
        >>> import torch
        >>> from energynets import XMLCNN
        >>> from energynets.data.batches import TokenBatch
        >>> features = XMLCNN(vocabulary_size=100, embedding_dim=8, num_filters=4, hidden=16)
        >>> tokens = TokenBatch(torch.tensor([[5, 7, 9], [3, 0, 0]]), lengths=torch.tensor([3, 1]))  # two documents
        >>> features(tokens).shape
        torch.Size([2, 16])
    """

    input_kind = "tokens"

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_dim: int = 300,
        windows: Sequence[int] = (2, 4, 8),
        num_filters: int = 128,
        pooling_chunks: int = 8,
        hidden: int = 512,
        conv_axis: Literal["words", "embedding"] = "words",
        max_tokens: int = 500,
        stride: int = 2,
        embedding_dropout: float = 0.2,
        dropout: float = 0.4,
        bias: bool = True,
        vectors: Tensor | np.ndarray | None = None,
    ) -> None:
        super().__init__()
        if conv_axis not in _AXES:
            raise ConfigError(f"XMLCNN: unknown conv_axis {conv_axis!r}{nearest(conv_axis, _AXES)}")
        widths = {"vocabulary_size": vocabulary_size, "embedding_dim": embedding_dim, "num_filters": num_filters}
        widths |= {"pooling_chunks": pooling_chunks, "hidden": hidden, "max_tokens": max_tokens, "stride": stride}
        dropouts = {"embedding_dropout": embedding_dropout, "dropout": dropout}
        check_settings(self, widths=widths, sequences={"windows": windows}, shares=dropouts)
        if not windows:
            raise ConfigError("XMLCNN: expected one window or more, got none")
        self.embedding = WordEmbedding(vocabulary_size, embedding_dim, dropout=embedding_dropout, vectors=vectors)
        self.convolutions = nn.ModuleList(
            WordConvolution(embedding_dim, num_filters, window, pooling_chunks=pooling_chunks, bias=bias)
            if conv_axis == "words"
            else PositionConvolution(
                max_tokens,
                embedding_dim,
                num_filters,
                window,
                stride=stride,
                pooling_chunks=pooling_chunks,
                bias=bias,
            )
            for window in windows
        )
        self.bottleneck = Linear(len(windows) * num_filters * pooling_chunks, hidden, bias=bias)
        self.known_width = hidden
        self.conv_axis = conv_axis
        self.max_tokens = max_tokens
        self.widest = max(windows)
        self.dropout = dropout

    @property
    def num_features(self) -> int:
        return self.bottleneck.out_features

    def extra_repr(self) -> str:
        return f"conv_axis={self.conv_axis}, dropout={self.dropout}"

    def forward(self, inputs: SparseBatch | TokenBatch, known: Tensor | None = None) -> Tensor:
        """(B, S) tokens -> (B, F).

        Args:
            inputs: x.
            known: added to the bottleneck before its activation, (B, known_width).

        Raises:
            ConfigError: the input is not token sequences.
        """
        batch = expect_tokens(self, inputs)
        pooled_BP = self._over_words(batch) if self.conv_axis == "words" else self._over_embedding(batch)
        bottleneck_BF = self.bottleneck(F.relu(pooled_BP))
        features_BF = F.relu(bottleneck_BF if known is None else bottleneck_BF + known)
        return dropout(features_BF, self.dropout, self.training)

    def _over_words(self, batch: TokenBatch) -> Tensor:
        packed = pack(batch, shortest=self.widest)
        places = draws.among(packed.words, lambda whole: pack(expect_tokens(self, whole), shortest=self.widest).words)
        vectors_UD = self.embedding(packed.words, places)
        return torch.cat([convolution(vectors_UD, packed).flatten(1) for convolution in self.convolutions], 1)

    def _over_embedding(self, batch: TokenBatch) -> Tensor:
        """Padding adds zero to each sum over positions, so documents of like length go together, with little of it."""
        words, index_BS, lengths = distinct_words(batch, self.max_tokens)
        places = draws.among(words, lambda whole: distinct_words(expect_tokens(self, whole), self.max_tokens)[0])
        vectors_UD = self.embedding(words, places)
        groups = size_classes(lengths, smallest=32)
        parts = []
        for rows in groups:
            longest = max(1, int(lengths[rows].max()))
            embedded_BSD = F.embedding(index_BS[rows, :longest], vectors_UD)
            parts.append(torch.cat([convolution(embedded_BSD).flatten(1) for convolution in self.convolutions], 1))
        if not groups:
            return vectors_UD.new_zeros(0, self.bottleneck.in_features)
        return torch.cat(parts)[torch.cat(groups).argsort()]
