"""Invalid scanner-to-patient matrices, and a pattern for the message about each."""

import numpy as np

from pcctlearn.patients.patient_frame import UPRIGHT


def shifted(frame, row, column, value):
    changed = frame.copy()
    changed[row, column] = value
    return changed


WRONG_FRAMES = {
    "shape": (UPRIGHT[:3], r"\(3, 4\).*4 × 4"),
    "transposed": (shifted(UPRIGHT, 3, 0, 12.0), r"0 0 0 1, got \[12\.0"),
    "flat": (shifted(UPRIGHT, 2, 2, 0.0), "inverted"),
    "nan": (shifted(UPRIGHT, 1, 1, np.nan), "NaN"),
}
