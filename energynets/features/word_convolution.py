"""Convolution over words followed by a max over chunks: the shared core of Kim-CNN and XML-CNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.features.embedding import PackedTokens
from energynets.features.pooling import argmax_over_chunks, chunk_bounds, take_along


class WordConvolution(nn.Module):
    """Filters over windows of w words, and each filter's largest value in each of p chunks of a document.

        c_t = sum_k W_k e_{t+k} + b,   out_j = max over t in chunk j of c_t

    Args:
        embedding_dim: D.
        num_filters: C.
        window: w.
        pooling_chunks: p; 1 is max over time.
        bias: whether b is there.

    `weight` is (C, D, w), as in `nn.Conv1d`.

    Three facts make it fast without changing its value. A batch has several times fewer distinct words than words, so
    W_k e is computed once for each distinct word and c_t is a sum of w gathered rows. Documents lie end to end, so no
    padding is convolved. Only the window that won a chunk has a gradient: the backward pass touches w rows for
    each (chunk, filter), not each position.
    """

    def __init__(
        self, embedding_dim: int, num_filters: int, window: int, *, pooling_chunks: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.window = window
        self.pooling_chunks = pooling_chunks
        self.weight = nn.Parameter(torch.empty(num_filters, embedding_dim, window))
        self.bias = nn.Parameter(torch.empty(num_filters)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        filters, dim, window = self.weight.shape
        return f"{dim}, {filters}, window={window}, pooling_chunks={self.pooling_chunks}, bias={self.bias is not None}"

    def forward(self, vectors_UD: Tensor, packed: PackedTokens) -> Tensor:
        """Vectors of the distinct words, and the documents over them, each at least w long -> (B, p, C)."""
        filters, dim, window = self.weight.shape
        weight_DwC = self.weight.permute(1, 2, 0).reshape(dim, window * filters)
        products = (vectors_UD @ weight_DwC).view(-1, filters)
        rows_Tw = packed.index.unfold(0, window, 1) * window + torch.arange(window, device=packed.index.device)
        starts_Bp, ends_Bp = chunk_bounds(packed.lengths - window + 1, self.pooling_chunks)
        starts, ends = (packed.starts[:, None] + starts_Bp).flatten(), (packed.starts[:, None] + ends_Bp).flatten()
        with torch.no_grad():
            winners_nC = argmax_over_chunks(F.embedding_bag(rows_Tw, products, mode="sum"), starts, ends)
        rows_wnC = rows_Tw[winners_nC].permute(2, 0, 1)
        out_nC = take_along(products, 0, rows_wnC.reshape(-1, filters)).view(rows_wnC.shape).sum(0)
        if self.bias is not None:
            out_nC = out_nC + self.bias
        return out_nC.view(-1, self.pooling_chunks, filters)
