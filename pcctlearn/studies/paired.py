"""Wilcoxon's signed-rank test for the errors of two methods on the same scans."""

import numpy as np
from scipy.stats import wilcoxon

LEAST_SCANS = 6  # with fewer, the p-value of Wilcoxon's test cannot fall below 0.05
_SIGNIFICANT = 0.05


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test (scan); 1 for equal errors."""
    if np.allclose(first, second):
        return 1.0
    return float(wilcoxon(first, second).pvalue)


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
