"""Wording of a comparison of two methods, with Wilcoxon's signed-rank test."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from pcctlearn.studies.paired import compared, holm, p_value

FEW, MANY = np.arange(1.0, 4.0), np.arange(1.0, 9.0)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (FEW, FEW, "equal"),
        (MANY, MANY * (1 + 1e-9), "equal"),
        (FEW, FEW + 1, "lower in 3 of 3 scans, too few for a test"),
        (FEW + 1, FEW, "higher in 3 of 3 scans, too few for a test"),
        (FEW, FEW + np.array([2, 2, -1]), "not clearly different (lower in 2 of 3 scans)"),
        (MANY, MANY + 1, "lower (p = 0.0078, 8 scans)"),
        (MANY + 1, MANY, "higher (p = 0.0078, 8 scans)"),
        (MANY, MANY + np.array([1, -1.5] * 4), "not significantly different (p = 0.28, 8 scans)"),
    ],
)
def test_text_of_a_paired_comparison(first, second, words):
    assert compared(first, second) == words


def test_the_false_positive_rate_is_five_percent():
    """Of pairs of equal methods, about one in twenty is called different."""
    rng = np.random.default_rng(0)
    results = [compared(*rng.normal(size=(2, 10))) for _ in range(1000)]
    assert sum(words.startswith(("lower", "higher")) for words in results) < 70


def test_the_p_value_is_that_of_wilcoxons_test():
    first, second = np.random.default_rng(0).normal(size=(2, 12))
    assert p_value(first, second) == wilcoxon(first, second).pvalue
    assert p_value(first, first) == 1.0


def test_holm_corrects_for_the_number_of_tests():
    """The worked example of Holm's procedure: 4 tests, in any order."""
    found = holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])
    assert holm([]).size == 0


def test_holm_seldom_finds_a_difference_where_there_is_none():
    """Of 2000 families of ten true null hypotheses, 5 % have a p' below 0.05."""
    rng = np.random.default_rng(0)
    families = rng.uniform(size=(2000, 10))
    false = np.mean([holm(list(p)).min() < 0.05 for p in families])
    assert 0.035 < false < 0.06
    assert np.mean(families.min(1) < 0.05) > 0.3
