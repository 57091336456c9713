"""Mean ranks of models over data sets, and whether they differ: Friedman's test and Nemenyi's critical difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Ranks:
    """Models ranked on each data set, 1 the best, equal ones sharing the mean of their ranks.

    Args:
        metric: ranked by.
        names: of the k models.
        means: mean rank of each over the data sets.
        sets: N, how many data sets.
        p: that all models rank alike (Friedman's test as corrected by Iman and Davenport); None for fewer than three
            models or two data sets.
        critical: mean ranks of two models differ significantly (level 0.05) where they are further apart than this.
    """

    metric: str
    names: tuple[str, ...]
    means: tuple[float, ...]
    sets: int
    p: float | None
    critical: float | None


def mean_ranks(metric: str, names: Sequence[str], values_NK: np.ndarray, *, higher: bool = True) -> Ranks:
    """Ranks of K models on N data sets.

        chi2 = 12 N / (K (K + 1)) (sum_k R_k^2 - K (K + 1)^2 / 4),    F = (N - 1) chi2 / (N (K - 1) - chi2),
        critical difference q_0.05 sqrt(K (K + 1) / (6 N))

    Args:
        metric: what the values are of.
        names: of the K models.
        values_NK: mean over seeds on each set.
        higher: whether more is better.

    Source: Demsar, JMLR 7, 2006, sections 3.2.1 and 3.2.2.
    """
    sets, count = values_NK.shape
    ranks_NK = stats.rankdata(-values_NK if higher else values_NK, axis=1)
    means = ranks_NK.mean(axis=0)
    p = critical = None
    if count > 2 and sets > 1:
        chi2 = 12 * sets / (count * (count + 1)) * float((means**2).sum() - count * (count + 1) ** 2 / 4)
        below = sets * (count - 1) - chi2
        # All sets agree on all ranks: F has no bound, and of its p chi2 is the conservative form.
        f = (sets - 1) * chi2 / below if below > 1e-9 else None
        p = stats.chi2.sf(chi2, count - 1) if f is None else stats.f.sf(f, count - 1, (count - 1) * (sets - 1))
    if count > 1 and sets > 1:
        q = float(stats.studentized_range.ppf(0.95, count, np.inf)) / 2**0.5
        critical = q * (count * (count + 1) / (6 * sets)) ** 0.5
    return Ranks(
        metric, tuple(names), tuple(float(mean) for mean in means), sets, None if p is None else float(p), critical
    )
