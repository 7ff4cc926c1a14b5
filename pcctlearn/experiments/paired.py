"""Errors of two methods on the same scans: is their difference more than chance?"""

import numpy as np
from scipy.stats import wilcoxon

LEAST_SCANS = 6  # of which Wilcoxon's test can fall below 0.05
_SIGNIFICANT = 0.05


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Of Wilcoxon's signed-rank test, two-sided; 1 where the two are equal."""
    if np.allclose(first, second):
        return 1.0
    return float(wilcoxon(first, second).pvalue)


def compared(first: np.ndarray, second: np.ndarray) -> str:
    """What can be said of errors of one method against those of another, scan by scan.

    "lower" and "higher" with the p-value; of fewer scans than a test needs, with the number of
    scans that say so, all of them; else that there is no clear difference.
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
