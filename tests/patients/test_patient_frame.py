"""Valid scanner-to-patient matrices have no faults; each invalid one has exactly one."""

import re

import pytest
from support.frames import WRONG_FRAMES

from pcctlearn.patients.patient_frame import UPRIGHT, frame_faults


@pytest.mark.parametrize("shift_cm", [0.0, 40.0])
@pytest.mark.parametrize("size", [0.01, 1.0, 3.0])
def test_valid_frames(size, shift_cm):
    frame = UPRIGHT * [size, size, size, 1]
    frame[:3, 3] = shift_cm
    assert not list(frame_faults(frame))


@pytest.mark.parametrize("kind", WRONG_FRAMES)
def test_invalid_frames(kind):
    frame, words = WRONG_FRAMES[kind]
    (fault,) = frame_faults(frame)
    assert re.search(words, fault)
