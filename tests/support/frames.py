"""Matrices that place no scanner in a patient, and words of the messages about them."""

import numpy as np

from pcctlearn.patients.patient_frame import UPRIGHT


def shifted(frame, row, column, value):
    changed = frame.copy()
    changed[row, column] = value
    return changed


WRONG_FRAMES = {
    "shape": (UPRIGHT[:3], r"shape \(3, 4\): store a 4 × 4"),
    "transposed": (shifted(UPRIGHT, 3, 0, 12.0), r"last row .* must be 0 0 0 1, got \[12\.0"),
    "flat": (shifted(UPRIGHT, 2, 2, 0.0), "cannot be inverted"),
    "nan": (shifted(UPRIGHT, 1, 1, np.nan), "NaN or infinite"),
}
