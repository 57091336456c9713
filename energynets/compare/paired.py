"""Tests and intervals of paired differences: over seeds, over documents, over both; Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FLIPS = 10_000
EXACT_FLIPS = 12  # 2^12 sign patterns are fewer than FLIPS
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A mean difference with its interval, and p of the hypothesis that it is 0.

    `low`, `high` and `p` are None where nothing tells how the mean varies.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None


def crossed(seeds_S: np.ndarray, documents_N: np.ndarray | None, *, level: float = 0.95) -> Estimate:
    """A paired t test over seeds and documents at once: both vary, and every seed meets every document.

        d_sn = mu + a_s + b_n + e_sn,    t = mean / sqrt(v_S + v_N),
        v_S = var_s(mean_n d) / S,    v_N = var_n(mean_s d) / N,
        degrees of freedom (v_S + v_N)^2 / (v_S^2 / (S - 1) + v_N^2 / (N - 1))

    This t^2 is Clark's min F'. The residual e enters both variances, so that the test errs towards no difference. With
    one seed it is the t test over documents, without documents the one over seeds.

    Args:
        seeds_S: the difference under each seed.
        documents_N: the differences of the documents, each averaged over the seeds.
        level: of the interval.

    Source: Clark, Journal of Verbal Learning and Verbal Behavior 12, 1973; the degrees of freedom Satterthwaite's.
    """
    seeds_S = np.asarray(seeds_S, np.float64)
    mean = float(seeds_S.mean())
    samples = [sample for sample in (seeds_S, documents_N) if sample is not None and len(sample) > 1]
    variances = np.array([np.var(sample, ddof=1, dtype=np.float64) / len(sample) for sample in samples])
    # What is left of equal numbers after rounding is no variance.
    total = float(variances.sum())
    if total <= (1e-12 * max(1e-6, abs(mean))) ** 2:
        nothing = mean == 0 and bool(samples)
        return Estimate(mean, 0.0, 0.0, 1.0) if nothing else Estimate(mean, None, None, None)
    freedom = total**2 / sum(v**2 / (len(s) - 1) for v, s in zip(variances, samples, strict=True))
    error = total**0.5
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    return Estimate(mean, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def flip_signs(differences_NM: np.ndarray, *, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Sign-flip permutation test of each column: two-sided p that the differences are symmetric about 0.

    All 2^N patterns where N <= 12: p is exact, and never below 2 / 2^N. Else `flips` drawn ones, the same for every
    column, and the one that was seen: p is never below 1 / (flips + 1).

    Args:
        differences_NM: M tests over the same N pairs.
        flips: sign patterns drawn where N > 12.
        seed: of the draws.

    Returns:
        (M,) p.

    Source: Fisher 1935; Dror, Baumer, Shlomov & Reichart, ACL 2018, section 3.
    """
    differences_NM = np.asarray(differences_NM, np.float64)
    count = len(differences_NM)
    # Sums that differ by rounding alone are equal.
    least_M = np.abs(differences_NM.sum(axis=0)) - 1e-9 * np.abs(differences_NM).sum(axis=0)
    if count <= EXACT_FLIPS:
        signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
        return np.asarray((np.abs(signs @ differences_NM) >= least_M).mean(axis=0))
    generator = np.random.default_rng(seed)
    reached_M = np.ones(differences_NM.shape[1])
    size = max(1, _AT_ONCE // count)
    for start in range(0, flips, size):
        rows = min(size, flips - start)
        bits = np.unpackbits(np.frombuffer(generator.bytes(-(-rows * count // 8)), np.uint8), count=rows * count)
        signs = (1.0 - 2.0 * bits).reshape(rows, count)
        reached_M += (np.abs(signs @ differences_NM) >= least_M).sum(axis=0)
    return reached_M / (flips + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p of each such that rejecting those below alpha errs at all with at most alpha.

        p_(i) -> max_{j<=i} min(1, (m - j + 1) p_(j)),    p_(1) <= ... <= p_(m)

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    factors = np.arange(len(values), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return [float(value) for value in corrected]
