"""A matrix from scanner to patient is one, or a sentence says why not."""

import re

import numpy as np
import pytest
from support.scan_files import change, store

from pcctlearn.datasets.patient_frame import UPRIGHT, frame_faults
from pcctlearn.datasets.scan_file import faults


@pytest.mark.parametrize("shift_cm", [0.0, 40.0])
@pytest.mark.parametrize("size", [0.01, 1.0, 3.0])
def test_frames(size, shift_cm):
    frame = UPRIGHT * [size, size, size, 1]
    frame[:3, 3] = shift_cm
    assert not list(frame_faults(frame))


def shifted(frame, row, column, value):
    changed = frame.copy()
    changed[row, column] = value
    return changed


WRONG = {
    "shape": (UPRIGHT[:3], r"shape \(3, 4\): store a 4 × 4"),
    "transposed": (shifted(UPRIGHT, 3, 0, 12.0), r"last row .* must be 0 0 0 1, got \[12\.0"),
    "flat": (shifted(UPRIGHT, 2, 2, 0.0), "cannot be inverted"),
    "nan": (shifted(UPRIGHT, 1, 1, np.nan), "NaN or infinite"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_no_frame(kind, copy):
    frame, words = WRONG[kind]
    (fault,) = frame_faults(frame)
    assert re.search(words, fault)
    change(copy, lambda file: store(file, "scanner_to_patient", frame))
    (in_file,) = faults(copy)
    assert "scanner_to_patient" in in_file
    assert kind == "nan" or in_file == fault  # values that are not finite are found before
