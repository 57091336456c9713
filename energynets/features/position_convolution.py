"""XML-CNN's released convolution: positions are channels, filters slide along the embedding axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from energynets.errors import ConfigError
from energynets.features.pooling import chunk_bounds, take_along


class PositionConvolution(nn.Module):
    """`nn.Conv1d(S, num_filters, window, stride)` over (B, S, D), and a max over p chunks of its output.

        c_{f,i}   = sum_{t < length} sum_k W_{f,t,k} e_{t, stride i + k} + b_f
        out_{f,j} = max over i in chunk j of c_{f,i}

    Args:
        max_tokens: S; words from S on are not read.
        embedding_dim: D.
        num_filters: C.
        window: w <= D.
        stride: of the filter along the embedding axis.
        pooling_chunks: p.
        bias: whether b is there.

    `weight` is (C, S, w).

    Raises:
        ConfigError: a window wider than the embedding.
    """

    def __init__(
        self,
        max_tokens: int,
        embedding_dim: int,
        num_filters: int,
        window: int,
        *,
        stride: int = 2,
        pooling_chunks: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if window > embedding_dim:
            raise ConfigError(
                f"conv_axis: embedding needs windows of at most embedding_dim, got {window} for {embedding_dim}"
            )
        self.stride = stride
        self.pooling_chunks = pooling_chunks
        self.weight = nn.Parameter(torch.empty(num_filters, max_tokens, window))
        self.bias = nn.Parameter(torch.empty(num_filters)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        filters, positions, window = self.weight.shape
        return (
            f"{positions}, {filters}, window={window}, stride={self.stride}, "
            f"pooling_chunks={self.pooling_chunks}, bias={self.bias is not None}"
        )

    def forward(self, embedded_BSD: Tensor) -> Tensor:
        """Word vectors of the first positions, padding zero -> (B, p, C)."""
        out_BIC = self.convolve(embedded_BSD)
        starts, ends = chunk_bounds(torch.tensor([out_BIC.shape[1]], device=out_BIC.device), self.pooling_chunks)
        first, last = starts[0, :, None], ends[0, :, None] - 1
        positions = torch.minimum(first + torch.arange(int((last - first).max()) + 1, device=first.device), last)
        with torch.no_grad():
            block = out_BIC[:, positions.flatten()].unflatten(1, positions.shape)
            winners_BpC = torch.minimum(first + block.max(2).indices, last)
        pooled_BpC = take_along(out_BIC, 1, winners_BpC)
        return pooled_BpC if self.bias is None else pooled_BpC + self.bias

    def convolve(self, embedded_BSD: Tensor) -> Tensor:
        """(B, S', D) with S' <= S -> (B, I, C): one matrix product for each phase of the stride, then shifted sums."""
        batch, length, dim = embedded_BSD.shape
        filters, _, window = self.weight.shape
        size = (dim - window) // self.stride + 1
        out_BCI = embedded_BSD.new_zeros(batch, filters, size)
        for phase in range(min(self.stride, window)):
            taps = self.weight[:, :length, phase :: self.stride]
            rows = taps.permute(2, 0, 1).reshape(-1, length)
            products = (rows @ embedded_BSD[:, :, phase :: self.stride]).unflatten(1, (taps.shape[2], filters))
            for tap in range(taps.shape[2]):
                out_BCI = out_BCI + products[:, tap, :, tap : tap + size]
        return out_BCI.transpose(1, 2)
