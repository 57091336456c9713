"""What an energy is: a function of labels y and features f whose minimiser over y is the prediction."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from energynets.energies.domain import Box, Domain
from energynets.errors import ConfigError, ShapeError


class Energy(nn.Module, ABC):
    """E(y; x) = potential(y; f) + tau R(y), minimised over y in a domain: [0, 1]^L with R = -H unless told otherwise.

    A new energy needs one method, `potential`; its gradient comes from autograd. `condition` computes whatever depends
    on x alone, once per x, and hands it to every later call as `context`.

    Args:
        num_labels: L.
        tau: weight of the regulariser, > 0; for labels, the larger, the closer the minimiser stays to y = 1/2.
        learn_tau: train tau (as exp of a parameter, so that it stays positive).
        domain: where y lives: `Box()` (default), `Simplex(C)` or `Euclidean()`.

    Raises:
        ConfigError: tau is not positive and finite.
        ShapeError: L numbers cannot be of the domain.

    Source: Belanger & McCallum, Structured Prediction Energy Networks (2016), section 3; the entropy is of section 5.

    Example:
        >>> import torch
        >>> from energynets import Energy, infer
        >>> class Linear(Energy):
        ...     def potential(self, y, context):  # context is f (B, F), here with F = L
        ...         return -(y * context).sum(-1)
        >>> f = torch.randn(2, 3)
        >>> result = infer(Linear(num_labels=3), f)
        >>> torch.allclose(result.y, torch.sigmoid(f))
        True
    """

    convex = False
    """Whether E is convex in y for every x."""

    def __init__(
        self, num_labels: int, *, tau: float = 1.0, learn_tau: bool = False, domain: Domain | None = None
    ) -> None:
        super().__init__()
        if not 0 < tau < math.inf:
            raise ConfigError(f"tau: expected a positive, finite weight of the regulariser, got {tau}")
        self.domain = Box() if domain is None else domain
        self.domain.check(num_labels)
        self.num_labels = num_labels
        self._tau = float(tau)
        self.log_tau = nn.Parameter(torch.tensor(self._tau).log()) if learn_tau else None

    @property
    def tau(self) -> float | Tensor:
        """Weight of the regulariser."""
        return self._tau if self.log_tau is None else self.log_tau.exp()

    @abstractmethod
    def potential(self, y: Tensor, context: Any) -> Tensor:
        """Everything of E but the regulariser: y (B, L) in the domain and a context -> (B,)."""

    def condition(self, features: Tensor) -> Any:
        """All that depends on x: features (B, F) -> the context of the other methods. Default: the features.

        Any nest of tensors (tuples, lists, dicts, dataclasses), each with a row a document; where it holds others,
        `select` must know.
        """
        return features

    def select(self, context: Any, rows: Tensor) -> Any:
        """The context of some documents: their positions (b,) int64 in a batch, in any order.

        Default: those rows of every tensor.

        Raises:
            ShapeError: it is unclear which rows are the documents', or whether something else has any.
        """
        sizes = {len(leaf) if leaf.ndim else 0 for leaf in _leaves(context) if isinstance(leaf, Tensor)}
        if len(sizes) > 1:
            raise ShapeError(
                f"{type(self).__name__}.select: the context's tensors have {sorted(sizes)} rows, so which rows are the "
                "documents' is unclear: override `select`"
            )
        for leaf in _leaves(context):
            if not isinstance(leaf, (Tensor, *_SHARED)):
                raise ShapeError(
                    f"{type(self).__name__}.select: expected a context of tensors, got a {type(leaf).__name__} in it, "
                    "whose rows are unknown: override `select`"
                )
        return _selected(context, rows)

    def initial_logits(self, context: Any) -> Tensor | None:
        """Where inference starts unless told otherwise, (B, L); None means z_0 = 0."""
        return None

    def forward(self, logits: Tensor, context: Any) -> Tensor:
        """E at y(logits): (B, L) -> (B,).

        Raises:
            ShapeError: a potential that is not one number a document.
        """
        potential = one_each("potential", self.potential(self.domain.labels(logits), context), logits)
        return potential + self.tau * self.domain.regularizer(logits)

    def gradient(self, y: Tensor, context: Any) -> Tensor:
        """d potential / dy, (B, L) -> (B, L), by `torch.func.grad`, itself differentiable.

        The regulariser's part, tau z, is the solver's: it knows z and need not take the logarithm of y.

        Raises:
            ShapeError: a potential that is not one number a document.
        """
        return torch.func.grad(lambda y: one_each("potential", self.potential(y, context), y).sum())(y)


def one_each(what: str, values: Tensor, rows: Tensor) -> Tensor:
    """The values (B,) of rows (B, N), or a `ShapeError`: of another shape they would be broadcast with those of all."""
    if values.shape != rows.shape[:-1]:
        raise ShapeError(
            f"{what}: expected {tuple(rows.shape[:-1])}, one number a document, got {tuple(values.shape)}: "
            "sum or squeeze the rest"
        )
    return values


# What may stand beside tensors, of all documents alike.
_SHARED = (type(None), bool, int, float, str)


def _is_record(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)


def _leaves(context: Any) -> Iterator[Any]:
    """Those of a nest, the fields of dataclasses included."""
    for leaf in pytree.tree_leaves(context):
        if _is_record(leaf):
            for field in dataclasses.fields(leaf):
                yield from _leaves(getattr(leaf, field.name))
        else:
            yield leaf


def _selected(context: Any, rows: Tensor) -> Any:
    def of(leaf: Any) -> Any:
        if _is_record(leaf):
            names = [field.name for field in dataclasses.fields(leaf) if field.init]
            return dataclasses.replace(leaf, **{name: _selected(getattr(leaf, name), rows) for name in names})
        return leaf[rows] if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(of, context)
