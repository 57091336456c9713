"""Paired tests against scipy, against sums by hand, and against what they promise: errors at the level they state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from energynets.compare.paired import crossed, flip_signs, holm


def test_over_one_sample_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.3, 1, 9), rng.normal(0, 1, 9)
    expected = stats.ttest_rel(ours, theirs)
    for found in (crossed(ours - theirs, None), crossed(np.array([(ours - theirs).mean()]), ours - theirs)):
        assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
        interval = expected.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_over_both_it_is_min_f() -> None:
    rng = np.random.default_rng(1)
    d_SN = 0.2 + rng.normal(0, 0.2, (6, 1)) + rng.normal(0, 1, 50) + rng.normal(0, 1, (6, 50))
    seeds, documents = d_SN.mean(axis=1), d_SN.mean(axis=0)
    f_1, f_2 = (stats.ttest_1samp(sample, 0).statistic ** 2 for sample in (seeds, documents))
    least, freedom = f_1 * f_2 / (f_1 + f_2), (f_1 + f_2) ** 2 / (f_1**2 / 49 + f_2**2 / 5)
    assert crossed(seeds, documents).p == pytest.approx(stats.f.sf(least, 1, freedom), rel=1e-9)


def test_nothing_varies() -> None:
    same = crossed(np.zeros(5), np.zeros(30))
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert crossed(np.full(5, 0.1), np.full(30, 0.1)).p is None, "a constant difference has no variance to be tested by"
    assert crossed(np.array([0.1]), None).low is None


@pytest.mark.parametrize("count", [2, 4, 9, 12])
def test_all_sign_patterns_agree_with_scipy(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.4, 1, count).round(1)
    expected = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert flip_signs(differences[:, None])[0] == pytest.approx(expected.pvalue)
    assert flip_signs(np.ones((count, 1)))[0] == pytest.approx(2 / 2**count), "the smallest p there is"


def test_drawn_sign_patterns_agree_with_scipy() -> None:
    rng = np.random.default_rng(2)
    differences = rng.choice([-1, 0, 0, 1], (300, 3), p=[0.2, 0.25, 0.25, 0.3])
    found = flip_signs(differences)
    for column, p in zip(differences.T, found, strict=True):
        expected = stats.permutation_test(
            (column,), np.sum, permutation_type="samples", n_resamples=10_000, batch=1000, random_state=rng
        ).pvalue
        assert p == pytest.approx(expected, abs=4 * np.sqrt(max(expected, 1e-3) / 10_000))
    assert (flip_signs(differences) == found).all(), "the same draws each time"
    assert flip_signs(np.ones((300, 1)))[0] == pytest.approx(1 / 10_001)


def test_ties_of_rounding_are_ties() -> None:
    values = np.array([0.1, 0.2, -0.3, 0.3, 0.1])
    exact = flip_signs((10 * values).round()[:, None])
    assert flip_signs(values[:, None]) == pytest.approx(exact)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_stepping_down_rejects(p: list[float], alpha: float) -> None:
    rejected = set()
    for step, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[place] * (len(p) - step) >= alpha:
            break
        rejected.add(place)
    assert {place for place, value in enumerate(holm(p)) if value < alpha} == rejected


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


SEEDS, DOCUMENTS, TABLES = 5, 200, 1000


def errors(seed_effect: float, document_effect: float) -> dict[str, float]:
    """How often a test of level 0.05 finds a difference where there is none."""
    rng = np.random.default_rng(int(100 * seed_effect + document_effect))
    found = {"crossed": 0, "documents": 0, "seeds": 0}
    for _ in range(TABLES):
        d_SN = rng.normal(0, seed_effect, (SEEDS, 1)) + rng.normal(0, document_effect, DOCUMENTS)
        d_SN = d_SN + rng.normal(0, 1, (SEEDS, DOCUMENTS))
        seeds, documents = d_SN.mean(axis=1), d_SN.mean(axis=0)
        for name, estimate in {
            "crossed": crossed(seeds, documents),
            "documents": crossed(seeds[:1], documents),
            "seeds": crossed(seeds, None),
        }.items():
            assert estimate.p is not None
            found[name] += estimate.p < 0.05
    return {name: count / TABLES for name, count in found.items()}


def test_the_error_holds_whatever_varies_and_that_of_one_sample_alone_does_not() -> None:
    seeds_vary, documents_vary = errors(0.5, 0.1), errors(0.02, 2.0)
    for found in (seeds_vary, documents_vary, errors(0.1, 0.5)):
        assert found["crossed"] < 0.075
    assert seeds_vary["documents"] > 0.4, "a lucky seed is taken for a better model"
    assert documents_vary["seeds"] > 0.2, "a lucky test set is taken for a better model"


def test_intervals_cover_and_real_differences_are_found() -> None:
    rng = np.random.default_rng(3)
    covered = found = 0
    for _ in range(500):
        d_SN = 0.3 + rng.normal(0, 0.1, (10, 1)) + rng.normal(0, 1, 300) + rng.normal(0, 1, (10, 300))
        estimate = crossed(d_SN.mean(axis=1), d_SN.mean(axis=0))
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.p is not None
        covered += estimate.low < 0.3 < estimate.high
        found += estimate.p < 0.05
        assert (estimate.p < 0.05) == (not estimate.low < 0 < estimate.high)
    assert covered / 500 > 0.93
    assert found / 500 > 0.9
