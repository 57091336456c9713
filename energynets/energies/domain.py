"""Where y lives, and the mirror map that keeps it there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from energynets.errors import ConfigError, ShapeError, counts


def binary_entropy(logits: Tensor) -> Tensor:
    """H(y) = -sum_i [y_i log y_i + (1 - y_i) log(1 - y_i)] at y = sigmoid(z), in nats.

    Written in z, sum_i [softplus(z_i) - z_i sigmoid(z_i)], so that it is exact where y rounds to 0 or 1.

    Args:
        logits: (..., L).

    Returns:
        (...) in [0, L log 2].
    """
    # From 20 on torch's own softplus is z, off by up to 2e-9. At infinity the entropy is 0, no difference.
    finite = logits.clamp(-1e4, 1e4)
    return (functional.softplus(finite, threshold=40) - finite * torch.sigmoid(finite)).sum(-1)


class Domain(ABC):
    """A convex set with a mirror map z -> y and the regulariser R whose gradient at y(z) is z.

    Every domain has the same descent, z_{t+1} = z_t - eta (d potential / dy + tau z_t), because dR/dy = z: only the
    map from z to y differs.

    Source: Beck & Teboulle, Mirror descent and nonlinear projected subgradient methods (2003), section 3.
    """

    lipschitz: ClassVar[float]
    """The most that a label moves when no logit moves by more than 1."""

    @abstractmethod
    def labels(self, logits: Tensor) -> Tensor:
        """y(z), the gradient of R's conjugate: (B, L) -> (B, L)."""

    @abstractmethod
    def logits(self, labels: Tensor) -> Tensor:
        """A z with y(z) = y, for y inside the domain: (B, L) -> (B, L)."""

    @abstractmethod
    def pullback(self, labels: Tensor, gradient: Tensor) -> Tensor:
        """J g with J = dy/dz at y, which is symmetric: (B, L), (B, L) -> (B, L)."""

    @abstractmethod
    def regularizer(self, logits: Tensor) -> Tensor:
        """R(y(z)), convex, up to a constant: (B, L) -> (B,)."""

    @abstractmethod
    def project(self, labels: Tensor, margin: float) -> Tensor:
        """The nearest point of the domain to y, `margin` away from its boundary: (B, L) -> (B, L)."""

    @abstractmethod
    def gap(self, logits: Tensor, gradient: Tensor, slack: Tensor, tau: float | Tensor) -> Tensor:
        """A bound on max over y' of <g, y(z) - y'> - tau D(y', y(z)), D the divergence of R, for all g near `gradient`.

        Args:
            logits: z (B, L).
            gradient: (B, L).
            slack: how far each g_i may be from it, (B, L).
            tau: weight of R, > 0.

        Returns:
            (B,), the sum over labels, or groups of them, of the smallest of the bounds at hand.
        """

    def check(self, num_labels: int) -> None:  # noqa: B027 - most domains take any L
        """Raise `ShapeError` where L numbers cannot be of this domain."""


@dataclass(frozen=True)
class Box(Domain):
    """[0, 1]^L, y = sigmoid(z), R = -H the negative binary entropy: labels that may hold together."""

    lipschitz = 0.25

    def labels(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def logits(self, labels: Tensor) -> Tensor:
        return torch.logit(labels)

    def pullback(self, labels: Tensor, gradient: Tensor) -> Tensor:
        return labels * (1 - labels) * gradient

    def regularizer(self, logits: Tensor) -> Tensor:
        return -binary_entropy(logits)

    def project(self, labels: Tensor, margin: float) -> Tensor:
        return labels.clamp(margin, 1 - margin)

    def gap(self, logits: Tensor, gradient: Tensor, slack: Tensor, tau: float | Tensor) -> Tensor:
        # 1 - y as sigmoid(-z): the subtraction is 0 from z = 17 on in float32, where g (1 - y) is not.
        y, rest = torch.sigmoid(logits), torch.sigmoid(-logits)
        linear = torch.maximum((gradient + slack) * y, (slack - gradient) * rest)
        # What underflows is not 0, and the bound multiplies it by an exponential.
        variance = (y * rest).clamp_min(torch.finfo(y.dtype).tiny)
        return _smallest(linear, gradient.abs() + slack, variance, tau)


@dataclass(frozen=True)
class Simplex(Domain):
    """Distributions over C categories, y = softmax(z) over each C numbers in a row, R = sum y log y.

    Args:
        num_categories: C; L = n C holds n categorical variables one after another, e.g. the tags of n words.

    Raises:
        ConfigError: C is no whole number from 1 on.
    """

    num_categories: int

    lipschitz = 0.5

    def __post_init__(self) -> None:
        if not counts(self.num_categories):
            raise ConfigError(
                f"simplex: expected num_categories to be a whole number, 1 or more, got {self.num_categories!r}"
            )

    def check(self, num_labels: int) -> None:
        if num_labels % self.num_categories:
            raise ShapeError(f"simplex: expected a multiple of {self.num_categories} labels, got {num_labels}")

    def _groups(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (-1, self.num_categories))

    def labels(self, logits: Tensor) -> Tensor:
        return torch.softmax(self._groups(logits), -1).flatten(-2)

    def logits(self, labels: Tensor) -> Tensor:
        return labels.log()

    def pullback(self, labels: Tensor, gradient: Tensor) -> Tensor:
        y, g = self._groups(labels), self._groups(gradient)
        return (y * (g - (y * g).sum(-1, keepdim=True))).flatten(-2)

    def regularizer(self, logits: Tensor) -> Tensor:
        log_y = torch.log_softmax(self._groups(logits), -1)
        return (log_y.exp() * log_y).sum((-2, -1))

    def project(self, labels: Tensor, margin: float) -> Tensor:
        """Duchi et al. (2008), figure 1, over the simplex shrunk to y >= margin."""
        y = self._groups(labels)
        mass = 1 - margin * self.num_categories
        if mass <= 0:
            raise ShapeError(f"simplex: a margin of {margin} leaves no room for {self.num_categories} categories")
        ordered = (y - margin).sort(-1, descending=True).values
        excess = (ordered.cumsum(-1) - mass) / torch.arange(1, y.shape[-1] + 1, device=y.device)
        active = (ordered > excess).sum(-1, keepdim=True)
        return ((y - margin - excess.gather(-1, active - 1)).clamp(min=0) + margin).flatten(-2)

    def gap(self, logits: Tensor, gradient: Tensor, slack: Tensor, tau: float | Tensor) -> Tensor:
        y, above = torch.softmax(self._groups(logits), -1), self._groups(gradient)
        above = above - above.amin(-1, keepdim=True)
        doubt = 2 * self._groups(slack).amax(-1)
        mean, size = (y * above).sum(-1), above.amax(-1) + doubt
        deviation = (y * (above - mean.unsqueeze(-1)).square()).sum(-1).sqrt() + doubt
        return _smallest(mean + doubt, size, (deviation / size).square().nan_to_num(nan=0), tau)


@dataclass(frozen=True)
class Euclidean(Domain):
    """R^L, y = z, R = |y|^2 / 2: pixels."""

    lipschitz = 1.0

    def labels(self, logits: Tensor) -> Tensor:
        return logits

    def logits(self, labels: Tensor) -> Tensor:
        return labels

    def pullback(self, labels: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def regularizer(self, logits: Tensor) -> Tensor:
        return logits.square().sum(-1) / 2

    def project(self, labels: Tensor, margin: float) -> Tensor:
        return labels

    def gap(self, logits: Tensor, gradient: Tensor, slack: Tensor, tau: float | Tensor) -> Tensor:
        return (gradient.abs() + slack).square().sum(-1) / (2 * tau)


def _smallest(linear: Tensor, size: Tensor, variance: Tensor, tau: float | Tensor) -> Tensor:
    """Sum of the smallest of three bounds on psi = tau log E exp(-(g - E g) / tau), g a random number under y.

    Args:
        linear: E g - min g, the Frank-Wolfe gap.
        size: max g - min g: psi <= size^2 / (8 tau) (Hoeffding's lemma, the strong convexity of R).
        variance: of g, in units of size^2: psi'' at t is the variance under y tilted by exp(-t g / tau), which is at
            most exp(t size / tau) times that under y. Near the minimum the tightest, by far where y is nearly certain.
        tau: weight of R.
    """
    squared = size.square() / tau
    certain = variance * squared / 2 * (size / tau).exp()  # 0 times infinity where far from it: fmin skips it
    return torch.fmin(torch.minimum(linear, squared / 8), certain).sum(-1)
