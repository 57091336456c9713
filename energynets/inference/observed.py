"""Partly observed labels: those that are known stay as they are while the others are inferred."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.energies import Domain, Energy, Euclidean, Simplex
from energynets.errors import ShapeError
from energynets.masks import where, without

OBSERVED_LOGIT = 40.0
"""Logit of a label observed to hold: sigmoid(40) is 1 in float64, and yet every loss of it is finite."""


class Observed(NamedTuple):
    """Labels known beforehand.

    Args:
        values: (B, L), 0 or 1 (any number in a Euclidean domain); read only where the mask is True.
        mask: (B, L) bool, which labels are known.

    Example:
        >>> import torch
        >>> from energynets import SPEN, infer
        >>> from energynets.inference import Observed
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> known = Observed(torch.ones(3, 5), torch.tensor([True, False, False, False, False]).expand(3, 5))
        >>> bool((infer(energy, energy.condition(torch.randn(3, 8)), observed=known).y[:, 0] == 1).all())
        True
    """

    values: Tensor
    mask: Tensor

    def check(self, energy: Energy, like: Tensor) -> Observed:
        """Itself, values in the dtype of the logits, or a `ShapeError` that says what is wrong."""
        values, mask = self
        shape = tuple(like.shape)
        if mask.dtype != torch.bool or tuple(mask.shape) != shape or tuple(values.shape) != shape:
            raise ShapeError(
                f"observed: expected values and a bool mask of shape {shape}, "
                f"got {tuple(values.shape)} and {tuple(mask.shape)} of {mask.dtype}"
            )
        if not isinstance(energy.domain, Euclidean) and not bool(((values == 0) | (values == 1) | ~mask).all()):
            raise ShapeError("observed: expected values of 0 or 1")
        if isinstance(energy.domain, Simplex):
            groups = mask.unflatten(-1, (-1, energy.domain.num_categories))
            if not bool((groups.all(-1) == groups.any(-1)).all()):
                raise ShapeError("observed: expected whole categorical variables, every category of each")
            if not bool((values.unflatten(-1, groups.shape[1:]).sum(-1)[groups.all(-1)] == 1).all()):
                raise ShapeError("observed: expected one category of each known variable to be 1")
        return Observed(values.to(like.dtype), mask)

    def select(self, rows: Tensor) -> Observed:
        """Those of some documents, (b,) int64."""
        return Observed(self.values[rows], self.mask[rows])

    def labels(self, y: Tensor, *, out: Tensor | None = None) -> Tensor:
        """y with the known labels in their places; `out` is a place for it, without a derivative."""
        return where(self.mask, self.values, y, out=out)

    def logits(self, z: Tensor, domain: Domain) -> Tensor:
        """z with the logits of the known labels in their places."""
        values = self.values if isinstance(domain, Euclidean) else OBSERVED_LOGIT * (2 * self.values - 1)
        return where(self.mask, values, z)

    def free(self, gradient: Tensor, *, out: Tensor | None = None) -> Tensor:
        """A gradient without the coordinates that cannot move; `out` may be itself."""
        return without(gradient, self.mask, out=out)


def as_observed(given: Any) -> Observed | None:
    """The `Observed`, where there is one, its tensors as they are.

    Raises:
        ShapeError: something else, a mask alone, say.
    """
    if given is None:
        return None
    pair = isinstance(given, tuple | list) and len(given) == 2
    if pair and all(isinstance(one, Tensor) for one in given):
        return given if isinstance(given, Observed) else Observed(*given)
    found = " and ".join(type(one).__name__ for one in given) if pair else f"a {type(given).__name__}"
    raise ShapeError(f"observed: expected Observed(values, mask), two tensors (B, L), got {found}")


def observe(observed: Observed | None, energy: Energy, like: Tensor) -> Observed | None:
    """The checked `Observed`, where there is one."""
    observed = as_observed(observed)
    return None if observed is None else observed.check(energy, like)
