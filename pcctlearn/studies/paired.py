"""Wilcoxon's signed-rank test for the errors of two methods on the same scans."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import wilcoxon

LEAST_SCANS = 6  # with fewer, the p-value of Wilcoxon's test cannot fall below 0.05
_SIGNIFICANT = 0.05


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test (scan); 1 for equal errors."""
    if np.allclose(first, second):
        return 1.0
    return float(wilcoxon(first, second).pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values of several tests, corrected for their number by the method of Holm.

    In ascending order, p'_k = max_{j ≤ k} min(1, (n − j + 1) p_j) for n tests. The probability of
    one or more false claims among p' < 0.05 is at most 0.05.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979)
    65
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    corrected = np.empty_like(p)
    corrected[order] = stepped
    return corrected


def compared(first: np.ndarray, second: np.ndarray) -> str:
    """State in words how the errors (scan) of the first method compare with the second's.

    "lower", "higher" or "not significantly different", with the p-value. With too few scans for the
    test, "lower" or "higher" if all scans agree, otherwise "not clearly different".
    """
    n_scans = len(first)
    if np.allclose(first, second):
        return "equal"
    word = "lower" if np.mean(first) < np.mean(second) else "higher"
    if n_scans >= LEAST_SCANS:
        p = p_value(first, second)
        if p < _SIGNIFICANT:
            return f"{word} (p = {p:.2g}, {n_scans} scans)"
        return f"not significantly different (p = {p:.2g}, {n_scans} scans)"
    n_agree = int(np.sum((first < second) if word == "lower" else (first > second)))
    if n_agree == n_scans:
        return f"{word} in {n_scans} of {n_scans} scans, too few for a test"
    return f"not clearly different ({word} in {n_agree} of {n_scans} scans)"
