"""Kim-CNN: convolutions over words, max over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.data.batches import SparseBatch, TokenBatch
from energynets.errors import ConfigError
from energynets.features.dropout import dropout
from energynets.features.embedding import WordEmbedding, pack
from energynets.features.network import FeatureNetwork, check_settings, expect_tokens
from energynets.features.word_convolution import WordConvolution
from energynets.parallel import draws


class KimCNN(FeatureNetwork):
    """f = dropout of each filter's largest value over a document, for every window.

        f = [ relu(max_t (W * e)_t + b) for each window ]

    Args:
        vocabulary_size: V; id 0 is padding.
        embedding_dim: D.
        windows: words that a filter sees, one set of filters for each.
        num_filters: filters of each window.
        embedding_dropout: of the entries of word vectors; one mask for a word in a whole batch.
        dropout: of the features.
        bias: whether filters have one.
        vectors: (V, D) initial word vectors; rows of NaN are drawn at random at the scale of the others.

    A document shorter than the widest window is padded up to it with the zero vector of id 0; an empty document is
    all padding. Features do not depend on the batch a document comes in.

    Raises:
        ConfigError: sizes that are no whole numbers from 1 on, no window, or a probability outside [0, 1].

    Source: Kim, "Convolutional neural networks for sentence classification", EMNLP 2014.

    Example:
        >>> import torch
        >>> from energynets import KimCNN
        >>> from energynets.data.batches import TokenBatch
        >>> features = KimCNN(vocabulary_size=100, embedding_dim=8, num_filters=4)
        >>> tokens = TokenBatch(torch.tensor([[5, 7, 9], [3, 0, 0]]), lengths=torch.tensor([3, 1]))  # two documents
        >>> features(tokens).shape
        torch.Size([2, 12])
    """

    input_kind = "tokens"

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_dim: int = 300,
        windows: Sequence[int] = (3, 4, 5),
        num_filters: int = 100,
        embedding_dropout: float = 0.2,
        dropout: float = 0.5,
        bias: bool = True,
        vectors: Tensor | np.ndarray | None = None,
    ) -> None:
        super().__init__()
        widths = {"vocabulary_size": vocabulary_size, "embedding_dim": embedding_dim, "num_filters": num_filters}
        dropouts = {"embedding_dropout": embedding_dropout, "dropout": dropout}
        check_settings(self, widths=widths, sequences={"windows": windows}, shares=dropouts)
        if not windows:
            raise ConfigError("KimCNN: expected one window or more, got none")
        self.embedding = WordEmbedding(vocabulary_size, embedding_dim, dropout=embedding_dropout, vectors=vectors)
        self.convolutions = nn.ModuleList(
            WordConvolution(embedding_dim, num_filters, window, bias=bias) for window in windows
        )
        self.widest = max(windows)
        self.dropout = dropout
        self._num_features = self.known_width = num_filters * len(windows)

    @property
    def num_features(self) -> int:
        return self._num_features

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"

    def forward(self, inputs: SparseBatch | TokenBatch, known: Tensor | None = None) -> Tensor:
        """(B, S) tokens -> (B, F).

        Args:
            inputs: x.
            known: added to the features before their activation, (B, known_width).

        Raises:
            ConfigError: the input is not token sequences.
        """
        packed = pack(expect_tokens(self, inputs), shortest=self.widest)
        places = draws.among(packed.words, lambda whole: pack(expect_tokens(self, whole), shortest=self.widest).words)
        vectors_UD = self.embedding(packed.words, places)
        features_BF = torch.cat([convolution(vectors_UD, packed)[:, 0] for convolution in self.convolutions], 1)
        features_BF = features_BF if known is None else features_BF + known
        return dropout(F.relu(features_BF), self.dropout, self.training)
