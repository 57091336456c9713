"""Mean ranks over data sets, against the worked example of Demsar (2006)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from energynets.compare.ranks import mean_ranks

# Table 6: AUC of C4.5 with and without two kinds of tuning, on 14 data sets.
AUC = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")


def test_worked_example() -> None:
    found = mean_ranks("auc", NAMES, AUC)
    assert found.means == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.critical == pytest.approx(1.25, abs=5e-3)
    chi2 = 12 * 14 / 20 * (sum(mean**2 for mean in found.means) - 25)
    assert chi2 == pytest.approx(9.28, abs=0.02)
    assert found.p == pytest.approx(stats.f.sf(3.69, 3, 39), rel=0.02)


def test_agrees_with_scipy_where_nothing_ties() -> None:
    values = np.random.default_rng(0).random((9, 5))
    found = mean_ranks("x", "abcde", values)
    chi2 = stats.friedmanchisquare(*values.T).statistic
    assert found.p == pytest.approx(stats.f.sf(8 * chi2 / (9 * 4 - chi2), 4, 32))
    assert mean_ranks("x", "abcde", -values, higher=False) == found


def test_all_agree_or_too_few() -> None:
    values = np.tile(np.array([0.3, 0.2, 0.1]), (4, 1))
    found = mean_ranks("x", "abc", values)
    assert found.means == (1, 2, 3)
    assert found.p == pytest.approx(stats.chi2.sf(8, 2))
    one = mean_ranks("x", "abc", values[:1])
    assert (one.p, one.critical) == (None, None)
    assert mean_ranks("x", "ab", values[:, :2]).p is None
