"""Energies that touch y only through linear measurements: the one idea of this package."""

from __future__ import annotations

import copy
import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynets.energies.domain import Domain
from energynets.energies.energy import Energy, one_each
from energynets.energies.heads import head_width, speaks_for
from energynets.errors import ConfigError, ShapeError
from energynets.linear import Linear
from energynets.parallel import draws


class MeasuredContext(NamedTuple):
    """What a measured energy keeps of x.

    Args:
        unary: phi (B, L).
        offset: what measurements add that y has no part in, (B, K) or (K,).
        gates: per layer g_i (B, L), or none.
        mask: (B, K) dropout of the measurements, the same for all T steps, or None.
        head: what the head h sees of x, or None.
    """

    unary: Tensor
    offset: Tensor
    gates: tuple[Tensor, ...]
    mask: Tensor | None
    head: Any = None


class MeasuredEnergy(Energy):
    """E(y; x) = -<phi, y> + h(m) - tau H(y), m = y A^T (+ f C^T) + a0, phi = f U^T + u0.

    The gradient is closed form, dE/dy = -phi + s A + tau z with s = dh/dm: two products with A a step, and everything
    nonlinear on K numbers. With h = 0 and tau = 1 the minimiser is sigmoid(phi), the plain classifier.

    Args:
        num_features: F.
        num_labels: L.
        num_measurements: K.
        head: the small network h: any module of m (B, K), or of m and a context, returning (B,). The context is
            `head.condition(features)`, or the features where it has no `condition`. Its `gradient(m)`, where it has
            one, is dh/dm; else `torch.func.grad` is used.
        condition_measurements: whether measurements see the features (C).
        counting_measurements: so many rows of A, the first ones, start as all ones, so that m counts labels; the others
            start at random.
        gate_widths: with widths (k_1, ..., k_n) adding up to K, slice i measures y * (W_i f + b_i) instead of y.
        tau: weight of the entropy, > 0.
        learn_tau: train tau.
        dropout: share of measurements dropped in training, in [0, 1), one mask for all T steps.
        bias: whether phi has u0.
        domain: where y lives, `Box()` by default.

    Raises:
        ConfigError: a value out of its range.
        ShapeError: a built-in head or gates of another K.

    Source: the partially convex gate is Amos, Xu & Kolter (2017), equation 3.

    Example:
        >>> import torch
        >>> from energynets import MeasuredEnergy
        >>> class Square(torch.nn.Module):
        ...     def forward(self, m):  # (B, K) -> (B,)
        ...         return m.square().sum(-1)
        >>> energy = MeasuredEnergy(num_features=8, num_labels=5, num_measurements=4, head=Square())
        >>> energy(torch.zeros(2, 5), energy.condition(torch.randn(2, 8))).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        num_measurements: int,
        head: nn.Module,
        *,
        condition_measurements: bool = False,
        counting_measurements: int = 0,
        gate_widths: tuple[int, ...] = (),
        tau: float = 1.0,
        learn_tau: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        domain: Domain | None = None,
    ) -> None:
        if not 0 <= counting_measurements <= num_measurements:
            raise ConfigError(
                f"counting_measurements: expected 0 to {num_measurements}, all of them, got {counting_measurements}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout: expected a share in [0, 1), got {dropout}")
        width = head_width(head)
        if width is not None and width != num_measurements:
            raise ShapeError(
                f"head: expected one of num_measurements={num_measurements}, got a {type(head).__name__} of {width}"
            )
        if gate_widths and sum(gate_widths) != num_measurements:
            raise ShapeError(
                f"gate_widths: expected widths that add up to num_measurements={num_measurements}, "
                f"got {tuple(gate_widths)}, {sum(gate_widths)} in all"
            )
        super().__init__(num_labels, tau=tau, learn_tau=learn_tau, domain=domain)
        self.num_features = num_features
        self.num_measurements = num_measurements
        self.head = head
        self._head_sees_x = _sees_context(head)
        self.dropout = dropout
        self.unary = Linear(num_features, num_labels, bias=bias)
        # Documents have few labels: m is a sum of few entries of A, and entries of 1 / sqrt(K) would leave h linear.
        measure = torch.randn(num_measurements, num_labels) * 0.3
        measure[:counting_measurements] = 1
        self.measure = nn.Parameter(measure)
        self.offset = nn.Parameter(torch.zeros(num_measurements))
        self.condition_weight = (
            nn.Parameter(torch.zeros(num_measurements, num_features)) if condition_measurements else None
        )
        self.gate_widths = gate_widths
        self.gates = nn.ModuleList(Linear(num_features, num_labels) for _ in gate_widths)
        for gate in self.gates:
            assert isinstance(gate, nn.Linear)
            # g = 1 + small: a gated network starts as the ungated one.
            nn.init.normal_(gate.weight, std=0.1 / num_features**0.5)
            nn.init.ones_(gate.bias)

    def condition(self, features: Tensor) -> MeasuredContext:
        """features (B, F) -> phi, the measurements' offset, gates and dropout mask.

        Raises:
            ShapeError: features of another width.
        """
        offset, mask, head = self.condition_measured(features)
        gates = tuple(gate(features) for gate in self.gates)
        return MeasuredContext(self.unary(features), offset, gates, mask, head)

    def condition_measured(self, features: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        """features (B, F) -> what of the context has nothing to do with L: the offset, the mask, what the head sees.

        Raises:
            ShapeError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ShapeError(f"energy: expected features (B, {self.num_features}), got {tuple(features.shape)}")
        offset: Tensor = self.offset
        if self.condition_weight is not None:
            offset = functional.linear(features, self.condition_weight, self.offset)
        mask = None
        if self.training and self.dropout > 0:
            size, own = draws.documents() or draws.Places(len(features), slice(None))
            keep = torch.full((size, self.num_measurements), 1 - self.dropout, device=features.device)
            mask = (torch.bernoulli(keep)[own] / (1 - self.dropout)).to(features.dtype)
        return offset, mask, self._head_context(features)

    def _head_context(self, features: Tensor) -> Any:
        if not self._head_sees_x:
            return None
        condition = getattr(self.head, "condition", None)
        return features if condition is None else condition(features)

    def select(self, context: MeasuredContext, rows: Tensor) -> MeasuredContext:
        """The context of some documents, (b,) int64; an offset that all share stays."""
        return MeasuredContext(
            context.unary[rows],
            context.offset if context.offset.ndim == 1 else context.offset[rows],
            tuple(gate[rows] for gate in context.gates),
            None if context.mask is None else context.mask[rows],
            super().select(context.head, rows),
        )

    @property
    def sees_features(self) -> bool:
        """Whether x reaches E by more than phi."""
        return self._head_sees_x or self.condition_weight is not None or bool(self.gate_widths)

    def on_unary(self) -> MeasuredEnergy:
        """The same energy, weights shared, whose features are phi (B, L) themselves.

        Raises:
            ConfigError: it `sees_features`.
        """
        if self.sees_features:
            raise ConfigError(f"{type(self).__name__}: sees features besides its unary logits")
        twin = copy.copy(self)  # parameters are the same objects; only the table of modules is its own
        twin._modules = dict(self._modules)
        twin.unary = nn.Identity()  # type: ignore[assignment]
        twin.num_features = self.num_labels
        return twin

    def initial_logits(self, context: MeasuredContext) -> Tensor:
        """phi: inference starts at the classifier's answer.

        Raises:
            ShapeError: what is no context, the features, say.
        """
        try:
            return context.unary
        except AttributeError:
            raise ShapeError(
                f"context: expected what energy.condition(features) makes, got a {type(context).__name__}: "
                "pass energy.condition(features)"
            ) from None

    def measurements(self, y: Tensor, context: MeasuredContext) -> Tensor:
        """m = y A^T + offset, masked: (B, L) -> (B, K)."""
        if context.gates:
            slices = zip(context.gates, self.measure.split(self.gate_widths), strict=True)
            m = torch.cat([functional.linear(y * gate, rows) for gate, rows in slices], dim=-1) + context.offset
        else:
            m = torch.addmm(context.offset, y, self.measure.T)
        return m if context.mask is None else m * context.mask

    def adjoint(self, slope: Tensor, context: MeasuredContext) -> Tensor:
        """-phi + s A: what the measurements' slopes s (B, K) mean for y, (B, L)."""
        if context.mask is not None:
            slope = slope * context.mask
        if not context.gates:
            return torch.addmm(context.unary, slope, self.measure, beta=-1)
        parts = zip(
            context.gates, slope.split(self.gate_widths, dim=-1), self.measure.split(self.gate_widths), strict=True
        )
        gradient = -context.unary
        for gate, part, rows in parts:
            gradient = gradient + gate * (part @ rows)
        return gradient

    def slope(self, measurements: Tensor, context: MeasuredContext) -> Tensor:
        """s = dh/dm: (B, K) -> (B, K)."""
        if not speaks_for(self, "slope", "head_values"):
            return torch.func.grad(lambda m: self.head_values(m, context).sum())(measurements)
        if speaks_for(self.head, "gradient", "forward"):
            return self.head.gradient(measurements, *self._given(context))  # type: ignore[operator]
        return torch.func.grad(lambda m: self.head(m, *self._given(context)).sum())(measurements)

    def head_values(self, measurements: Tensor, context: MeasuredContext) -> Tensor:
        """h(m): (B, K) -> (B,).

        Raises:
            ShapeError: a head that is not one number a document.
        """
        return one_each("head", self.head(measurements, *self._given(context)), measurements)

    def _given(self, context: MeasuredContext) -> tuple[Any, ...]:
        return (context.head,) if self._head_sees_x else ()

    def potential(self, y: Tensor, context: MeasuredContext) -> Tensor:
        """-<phi, y> + h(m): (B, L) -> (B,)."""
        return self.head_values(self.measurements(y, context), context) - (context.unary * y).sum(-1)

    def gradient(self, y: Tensor, context: MeasuredContext) -> Tensor:
        """-phi + s A: (B, L) -> (B, L), closed form; by autograd where a subclass has another potential."""
        if not (speaks_for(self, "gradient", "potential") and speaks_for(self, "adjoint", "measurements")):
            return super().gradient(y, context)
        return self.adjoint(self.slope(self.measurements(y, context), context), context)

    def project(self) -> None:
        """Bring the head's weights back into their set, where it has one (ICNN)."""
        project = getattr(self.head, "project", None)
        if callable(project):
            project()


def _sees_context(head: nn.Module) -> bool:
    """Whether the head's `forward` takes a second argument."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(head.forward).parameters.values()
    return sum(parameter.kind in positional for parameter in parameters) > 1
