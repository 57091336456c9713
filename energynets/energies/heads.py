"""The small networks h on K measurements, with their gradients s = dh/dm in closed form.

Any module of m, or of m and a context, can be a head. One that has `weights` and `closed_form` besides is
differentiated without autograd by the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynets.energies.slopes import ConvexSlope, DeepSlope, ShallowSlope, Slope, Weights
from energynets.errors import ConfigError, counts


def speaks_for(module: nn.Module, name: str, *of: str) -> bool:
    """Whether a `name` is of what the module computes, a head's h, say: a subclass with another `forward` voids it.

    Args:
        module: a head or an energy.
        name: of a method, e.g. `gradient`.
        of: names of those that it goes with, e.g. `forward`.
    """
    order = type(module).__mro__
    if name in vars(order[0]):
        return True  # nothing comes before it: what is usual, and asked in every step of training

    def brought_by(method: str) -> int:
        return next((place for place, base in enumerate(order) if method in vars(base)), len(order))

    own = brought_by(name)  # not `hasattr`, which computes a property
    return own < len(order) and all(own <= brought_by(method) for method in of)


class SoftplusHead(nn.Module):
    """h(m) = <c, v_n>, v_1 = softplus(m), v_{i+1} = softplus(W_i v_i + b_i).

    With no hidden layer it is <c, softplus(m)>, the global energy of a SPEN.

    Args:
        num_measurements: K.
        hidden: widths of the layers after the first.

    Source: Belanger & McCallum (2016), equation 4.
    """

    def __init__(self, num_measurements: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        widths = [num_measurements, *checked_widths(hidden)]
        self.num_measurements = num_measurements
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        # h starts small, so that the energy network starts as its own unary classifier, but not at 0,
        # where A would have no gradient.
        self.output = nn.Parameter(torch.randn(widths[-1]) * 0.1 / widths[-1] ** 0.5)

    def forward(self, measurements: Tensor) -> Tensor:
        """m (..., K) -> h (...)."""
        activation = functional.softplus(measurements)
        for layer in self.layers:
            activation = functional.softplus(layer(activation))
        return activation @ self.output

    def gradient(self, measurements: Tensor) -> Tensor:
        """m (..., K) -> dh/dm (..., K)."""
        pre_activations = [measurements]
        for layer in self.layers:
            pre_activations.append(layer(functional.softplus(pre_activations[-1])))
        slope = torch.sigmoid(pre_activations[-1]) * self.output
        for layer, pre_activation in zip(reversed(self.layers), reversed(pre_activations[:-1]), strict=True):
            assert isinstance(layer, nn.Linear)
            slope = (slope @ layer.weight) * torch.sigmoid(pre_activation)
        return slope

    def weights(self) -> Weights:
        """c, W_1, b_1, ...: what `closed_form` takes."""
        return (self.output, *(tensor for layer in self.layers for tensor in (layer.weight, layer.bias)))  # type: ignore[arg-type]

    @staticmethod
    def closed_form(weights: Weights) -> Slope:
        """Its slope with a hand-derived backward."""
        return ShallowSlope(weights) if len(weights) == 1 else DeepSlope(weights)


class ConvexHead(nn.Module):
    """h(m) = <w, v_n>, v_1 = softplus(m_1), v_{i+1} = softplus(W_i v_i + m_{i+1}), all W_i, w >= 0.

    Convex and non-decreasing in every v, affine in m, hence convex in m, hence in y (m is linear in y, and may be so
    with weights of any sign: the composition of a convex function with a linear map is convex). m_i is the layer's own
    slice of the measurements, the passthrough from y that keeps the network expressive.

    Args:
        hidden: width of each layer; K is their sum.
        nonnegativity: `projection` clips the weights at 0 after each optimiser step (`project`);
            `reparametrization` stores rho with W = softplus(rho).

    Raises:
        ConfigError: fewer than two layers, or an unknown way.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (2017), equation 2 and proposition 1.
    """

    def __init__(self, hidden: Sequence[int], nonnegativity: str = "projection") -> None:
        super().__init__()
        hidden = checked_widths(hidden)
        if len(hidden) < 2:
            raise ConfigError(f"hidden: expected two or more convex layers, got {tuple(hidden)}")
        if nonnegativity not in ("projection", "reparametrization"):
            raise ConfigError(f"nonnegativity: expected 'projection' or 'reparametrization', got {nonnegativity!r}")
        self.widths = hidden
        self.num_measurements = sum(hidden)
        self.nonnegativity = nonnegativity
        # |N(0, 1)| / fan-in: a non-negative layer adds up means, so the usual 1 / sqrt(fan-in) would grow with width.
        hidden_weights = [torch.randn(b, a).abs() / a for a, b in itertools.pairwise(hidden)]
        output = torch.randn(hidden[-1]).abs() * 0.1 / hidden[-1] ** 0.5
        store = (lambda w: w) if nonnegativity == "projection" else _inverse_softplus
        self.hidden_weights = nn.ParameterList(store(w) for w in hidden_weights)
        self.output = nn.Parameter(store(output))

    @torch.no_grad()
    def project(self) -> None:
        """Clip the weights at 0 (nothing to do under reparametrisation)."""
        if self.nonnegativity == "projection":
            for weight in (*self.hidden_weights, self.output):
                weight.clamp_(min=0)

    @property
    def non_negative(self) -> bool:
        """Whether the weights are: always under reparametrisation, else unless they were set since `project`."""
        stored = () if self.nonnegativity == "reparametrization" else (self.output, *self.hidden_weights)
        return not any(_has_negative(weight) for weight in stored)

    def weights(self) -> Weights:
        """w, W_1, W_2, ..., non-negative: what `closed_form` takes."""
        stored = (self.output, *self.hidden_weights)
        return stored if self.nonnegativity == "projection" else tuple(functional.softplus(rho) for rho in stored)

    def forward(self, measurements: Tensor) -> Tensor:
        """m (..., K) -> h (...)."""
        output, *matrices = self.weights()
        return functional.softplus(self._pre_activations(measurements, matrices)[-1]) @ output

    def gradient(self, measurements: Tensor) -> Tensor:
        """m (..., K) -> dh/dm (..., K)."""
        output, *matrices = self.weights()
        pre_activations = self._pre_activations(measurements, matrices)
        slopes = [torch.sigmoid(pre_activations[-1]) * output]
        for matrix, pre_activation in zip(matrices[::-1], pre_activations[-2::-1], strict=True):
            slopes.append((slopes[-1] @ matrix) * torch.sigmoid(pre_activation))
        return torch.cat(slopes[::-1], dim=-1)

    def _pre_activations(self, measurements: Tensor, matrices: Sequence[Tensor]) -> list[Tensor]:
        first, *passthrough = measurements.split(self.widths, dim=-1)
        pre_activations = [first]
        for matrix, own in zip(matrices, passthrough, strict=True):
            pre_activations.append(own + functional.linear(functional.softplus(pre_activations[-1]), matrix))
        return pre_activations

    @staticmethod
    def closed_form(weights: Weights) -> Slope:
        """Its slope with a hand-derived backward."""
        return ConvexSlope(weights)


def checked_widths(hidden: Sequence[int]) -> tuple[int, ...]:
    """The widths of layers, or a `ConfigError` where they are none."""
    widths = tuple(hidden) if isinstance(hidden, Iterable) else (None,)
    if not all(counts(width) for width in widths):
        raise ConfigError(f"hidden: expected widths of layers, whole numbers of 1 or more, as (16, 16), got {hidden!r}")
    return widths


def head_width(head: nn.Module) -> int | None:
    """K of a head that is built in; None of any other."""
    return head.num_measurements if type(head) in (SoftplusHead, ConvexHead) else None  # type: ignore[return-value]


def _has_negative(weight: Tensor) -> bool:
    weight = weight.detach()
    while torch._C._functorch.is_batchedtensor(weight):  # vmap lets no batch decide: any of it does
        weight = torch._C._functorch.get_unwrapped(weight)
    return not weight.is_meta and bool((weight < 0).any())  # what counts memory has no numbers to check


def _inverse_softplus(value: Tensor) -> Tensor:
    return value.clamp(min=1e-6).expm1().log()
