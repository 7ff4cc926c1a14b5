"""Lengths in another unit than cm raise a warning; those of real scanners do not."""

from dataclasses import fields, replace

import pytest
from support.scan_files import BEAM

from pcctlearn.scans.validation.geometry import length_doubts
from pcctlearn.tomography.geometry.cone import ConeBeam

CLINICAL = ConeBeam(12, 16, 24, 0.8, 62.5, 109.7)
MICRO = ConeBeam(12, 16, 24, 0.005, 4.0, 20.0)


def scaled(beam, factor):
    """The scanner with all lengths multiplied."""
    lengths = {f.name for f in fields(ConeBeam) if f.name.endswith("_cm")}
    new = {name: factor * getattr(beam, name) for name in lengths}
    return replace(beam, **new)


@pytest.mark.parametrize("beam", [CLINICAL, MICRO, BEAM])
def test_scanners_in_cm_raise_no_warning(beam):
    assert length_doubts(beam) == []


@pytest.mark.parametrize(("factor", "remedy"), [(10, "by 10,"), (0.01, "by 100,")])
def test_other_units_raise_a_warning_that_the_remedy_removes(factor, remedy):
    wrong = scaled(CLINICAL, factor)
    (doubt,) = length_doubts(wrong)
    assert remedy in doubt
    assert length_doubts(scaled(wrong, 1 / factor)) == []
