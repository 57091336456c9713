"""The slope s = dh/dm of a head and the backward of that, hand-derived: K numbers a document, no autograd.

With c the gradient of a loss to scale * s, `backward` returns that to m, scale * (d^2 h / dm^2) c, and adds up the
weights'. Small shapes are bound by the number of operations, hence the places to write to, and `recall`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

Weights = tuple[Tensor, ...]
_sigmoid_backward = torch.ops.aten.sigmoid_backward


class Slope(Protocol):
    """s(m), over the steps of one descent."""

    def forward(self, measurements: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        """scale * s, (B, K), in `out`; m is overwritten by the state that the other methods want in its place."""

    def recall(self, state: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        """scale * s again, (B, K), in `out`."""

    def backward(self, state: Tensor, cotangent: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        """d (scale * s) -> dm, (B, K), in `out`. Right after `recall` of the same state it need not compute s anew."""

    def gradients(self) -> Sequence[Tensor | None]:
        """The weights' gradients, summed over every `backward`."""


class ShallowSlope:
    """s = sigmoid(m) * c, the slope of <c, softplus(m)>. The state is sigmoid(m)."""

    def __init__(self, weights: Weights) -> None:
        (self._output,) = weights
        self._scaled: tuple[float | Tensor | None, Tensor] = (None, self._output)
        self._gradient: Tensor | None = None

    def _output_times(self, scale: float | Tensor) -> Tensor:
        if not _same(self._scaled[0], scale):
            self._scaled = (scale, self._output * scale)
        return self._scaled[1]

    def forward(self, measurements: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        return torch.mul(measurements.sigmoid_(), self._output_times(scale), out=out)

    def recall(self, state: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        return torch.mul(state, self._output_times(scale), out=out)

    def backward(self, state: Tensor, cotangent: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        if self._gradient is None:
            self._gradient = torch.zeros_like(state)
        _add_product(self._gradient, cotangent, state, scale)
        torch.mul(cotangent, self._output_times(scale), out=out)
        return _sigmoid_backward.grad_input(out, state, grad_input=out)

    def gradients(self) -> Sequence[Tensor | None]:
        return [None if self._gradient is None else self._gradient.sum(0)]


class DeepSlope:
    """The slope of <c, v_n>, v_1 = softplus(m), v_{i+1} = softplus(W_i v_i + b_i). The state is m."""

    def __init__(self, weights: Weights) -> None:
        self._output, *layers = weights
        self._matrices, self._biases = layers[::2], layers[1::2]
        self._gradients = [torch.zeros_like(weight) for weight in weights]

    def _shares(self, measurements: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """v_i, sigmoid(p_i) and u_i = dh/dv_i, layer by layer: s = u_1 sigmoid(p_1)."""
        activations, shares = [], []
        pre_activation = measurements
        for matrix, bias in zip(self._matrices, self._biases, strict=True):
            activations.append(functional.softplus(pre_activation))
            shares.append(torch.sigmoid(pre_activation))
            pre_activation = functional.linear(activations[-1], matrix, bias)
        shares.append(torch.sigmoid(pre_activation))
        above = [self._output.expand_as(pre_activation)]
        for matrix, share in zip(self._matrices[::-1], shares[:0:-1], strict=True):
            above.append((above[-1] * share) @ matrix)
        return activations, shares, above[::-1]

    def forward(self, measurements: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        return self.recall(measurements, scale, out)

    def recall(self, state: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        _, shares, above = self._shares(state)
        return torch.mul(above[0], shares[0], out=out).mul_(scale)

    def backward(self, state: Tensor, cotangent: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        activations, shares, above = self._shares(state)
        output_gradient, *rest = self._gradients
        above_bar = cotangent * scale
        pre_bars = []
        # Back through u_i = (u_{i+1} sigma_{i+1}) W_i, from the first layer to the last.
        for index, share in enumerate(shares):
            pre_bars.append(_sigmoid_backward(above_bar * above[index], share))
            above_bar = above_bar * share
            if index < len(activations):
                rest[2 * index].addmm_((above[index + 1] * shares[index + 1]).T, above_bar)
                above_bar = above_bar @ self._matrices[index].T
        output_gradient.add_(above_bar.sum(0))
        # Then back through p_{i+1} = v_i W_i^T + b_i.
        for index in range(len(activations) - 1, -1, -1):
            rest[2 * index].addmm_(pre_bars[index + 1].T, activations[index])
            rest[2 * index + 1].add_(pre_bars[index + 1].sum(0))
            pre_bars[index].addcmul_(pre_bars[index + 1] @ self._matrices[index], shares[index])
        return out.copy_(pre_bars[0])

    def gradients(self) -> Sequence[Tensor | None]:
        return self._gradients


class ConvexSlope:
    """The slope of <w, v_n>, v_1 = softplus(m_1), v_{i+1} = softplus(p_{i+1}), p_{i+1} = m_{i+1} + W_i v_i.

    The state is p, whole in m's place: sigmoid(p) of all layers is then one operation.
    """

    def __init__(self, weights: Weights) -> None:
        self._output, *self._matrices = weights
        self._widths = [self._matrices[0].shape[1], *(matrix.shape[0] for matrix in self._matrices)]
        self._transposed = [matrix.T for matrix in self._matrices]
        self._scaled: tuple[float | Tensor | None, Tensor] = (None, self._output)
        self._gradients: list[Tensor] | None = None
        self._recalled: tuple[Tensor | None, tuple[Tensor, ...], list[Tensor]] = (None, (), [])

    def _output_times(self, scale: float | Tensor) -> Tensor:
        if not _same(self._scaled[0], scale):
            self._scaled = (scale, self._output * scale)
        return self._scaled[1]

    def forward(self, measurements: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        parts = measurements.split(self._widths, dim=1)
        for index, transposed in enumerate(self._transposed):
            parts[index + 1].addmm_(functional.softplus(parts[index]), transposed)
        return self.recall(measurements, scale, out)

    def recall(self, state: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        shares = torch.sigmoid(state).split(self._widths, dim=1)
        slopes = out.split(self._widths, dim=1)
        above = []
        torch.mul(shares[-1], self._output_times(scale), out=slopes[-1])
        for index in range(len(self._matrices) - 1, -1, -1):
            above.append(slopes[index + 1] @ self._matrices[index])
            torch.mul(shares[index], above[-1], out=slopes[index])
        self._recalled = (state, shares, above[::-1])
        return out

    def backward(self, state: Tensor, cotangent: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        if self._recalled[0] is not state:
            self.recall(state, scale, torch.empty_like(out))
        _, shares, above = self._recalled
        self._recalled = (None, (), [])
        if self._gradients is None:
            self._gradients = [torch.zeros_like(shares[-1]), *(torch.zeros_like(matrix) for matrix in self._matrices)]
        output, depth = self._output_times(scale), len(self._matrices)
        states = state.split(self._widths, dim=1)
        pre_bars = out.split(self._widths, dim=1)
        slope_bars = list(cotangent.split(self._widths, dim=1))
        above_bars = []
        # Back through scale s_i = u_i sigma_i, u_i = s_{i+1} W_i, from the first layer to the last.
        for index in range(depth):
            torch.mul(slope_bars[index], above[index], out=pre_bars[index])
            above_bars.append(slope_bars[index] * shares[index])
            slope_bars[index + 1] = torch.addmm(slope_bars[index + 1], above_bars[-1], self._transposed[index])
        torch.mul(slope_bars[-1], output, out=pre_bars[-1])
        _add_product(self._gradients[0], slope_bars[-1], shares[-1], scale)
        for share, bar in zip(shares, pre_bars, strict=True):
            _sigmoid_backward.grad_input(bar, share, grad_input=bar)
        # Then back through p_{i+1} = m_{i+1} + v_i W_i^T; both gradients of W_i are one product.
        for index in range(depth - 1, -1, -1):
            slope = shares[index + 1] * (output if index == depth - 1 else above[index + 1])
            left = torch.cat((slope, pre_bars[index + 1]))
            right = torch.cat((above_bars[index], functional.softplus(states[index])))
            self._gradients[1 + index].addmm_(left.T, right)
            pre_bars[index].addcmul_(pre_bars[index + 1] @ self._matrices[index], shares[index])
        return out

    def gradients(self) -> Sequence[Tensor | None]:
        if self._gradients is None:
            return [None] * (1 + len(self._matrices))
        return [self._gradients[0].sum(0), *self._gradients[1:]]


def _add_product(total: Tensor, a: Tensor, b: Tensor, scale: float | Tensor) -> None:
    if isinstance(scale, Tensor):
        total.addcmul_(a * scale, b)
    else:
        total.addcmul_(a, b, value=scale)


def _same(a: float | Tensor | None, b: float | Tensor) -> bool:
    return a is b or (isinstance(a, float) and isinstance(b, float) and a == b)
