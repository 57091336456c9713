"""Convolution over words followed by a max over chunks: the shared core of Kim-CNN and XML-CNN."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.eager import eager
from energynets.features.embedding import PackedTokens
from energynets.features.pooling import argmax_over_chunks, chunk_bounds, take_along
from energynets.features.sparse import rows_times, transposed

SPARSE_UP_TO = 1 / 4
"""Chunks for each distinct word of a batch up to which the sparse gradient is faster (measured on CPU, D = 300)."""


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
    each (chunk, filter), not each position. Where these are few beside the products of all words, as in long documents,
    a CPU's gradient is two sparse products.
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
        window = self.window
        if not len(packed.lengths):
            return vectors_UD.new_zeros(0, self.pooling_chunks, len(self.weight))
        starts_Bp, ends_Bp = chunk_bounds(packed.lengths - window + 1, self.pooling_chunks)
        starts, ends = (packed.starts[:, None] + starts_Bp).flatten(), (packed.starts[:, None] + ends_Bp).flatten()
        sparse = eager() and vectors_UD.device.type == "cpu" and len(starts) <= SPARSE_UP_TO * len(vectors_UD)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not sparse):
            products = _products(vectors_UD, self.weight)
        rows_Tw = packed.index.unfold(0, window, 1) * window + torch.arange(window, device=packed.index.device)
        with torch.no_grad():
            winners_nC = argmax_over_chunks(F.embedding_bag(rows_Tw, products, mode="sum"), starts, ends)
        rows_wnC = rows_Tw[winners_nC].permute(2, 0, 1)
        out_nC = _sums(products, rows_wnC)
        if sparse:
            out_nC = _AtWinners.apply(vectors_UD, self.weight, rows_wnC, out_nC)
        if self.bias is not None:
            out_nC = out_nC + self.bias
        return out_nC.view(-1, self.pooling_chunks, len(self.weight))


def _products(vectors_UD: Tensor, weight_CDw: Tensor) -> Tensor:
    """W_k e for each distinct word and k: (U w, C)."""
    filters, dim, window = weight_CDw.shape
    return (vectors_UD @ weight_CDw.permute(1, 2, 0).reshape(dim, window * filters)).view(-1, filters)


def _sums(products: Tensor, rows_wnC: Tensor) -> Tensor:
    """sum_k W_k e_k, of the filter in each column."""
    return take_along(products, 0, rows_wnC.reshape(-1, products.shape[1])).view(rows_wnC.shape).sum(0)


class _AtWinners(torch.autograd.Function):
    """c_t of the windows that won, which are known already, and its gradient from nothing but these windows.

    With word u[k, n, c] at place k of the window that won chunk n for filter c,

        dL/dW_kc = sum_n g_nc e_{u[k, n, c]},   dL/de_v = sum of g_nc W_kc over all k, n, c with u[k, n, c] = v:

    a sparse matrix of the g's, (w C, U), times the words' vectors, and its transpose times the filters.
    """

    @staticmethod
    def forward(ctx: Any, vectors_UD: Tensor, weight_CDw: Tensor, rows_wnC: Tensor, out_nC: Tensor) -> Tensor:
        ctx.save_for_backward(vectors_UD, weight_CDw, rows_wnC)
        return out_nC.view_as(out_nC)

    @staticmethod
    def backward(ctx: Any, gradient_nC: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        vectors_UD, weight_CDw, rows_wnC = ctx.saved_tensors
        of_vectors, of_weight = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # for derivatives of this gradient: the dense one, which has them
            wanted = [x for x, needed in ((vectors_UD, of_vectors), (weight_CDw, of_weight)) if needed]
            out_nC = _sums(_products(vectors_UD, weight_CDw), rows_wnC)
            found = list(torch.autograd.grad(out_nC, wanted, gradient_nC, create_graph=True))
            return found.pop(0) if of_vectors else None, found.pop(0) if of_weight else None, None, None
        filters, dim, window = weight_CDw.shape
        live_Cn = gradient_nC.t() != 0  # the activation stops many
        column, place = live_Cn.nonzero(as_tuple=True)
        words = (rows_wnC[:, place, column] // window).flatten()
        values = gradient_nC[place, column].repeat(window)
        offsets = F.pad(live_Cn.sum(1).repeat(window).cumsum(0), (1, 0))
        dvectors = dweight = None
        if of_weight:
            dweight = rows_times(words, values, offsets, vectors_UD).view(window, filters, dim).permute(1, 2, 0)
        if of_vectors:
            filters_wCD = weight_CDw.permute(2, 0, 1).reshape(window * filters, dim)
            dvectors = rows_times(*transposed(words, values, offsets, len(vectors_UD)), filters_wCD)
        return dvectors, dweight, None, None
