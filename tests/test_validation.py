"""Parameters are refused with a remedy."""

import pytest

from pcctlearn.validation import require_names


@pytest.mark.parametrize("values", ["CdTe", [], ["CdTe", "CdTe"]])
def test_names_must_be_different_and_not_one_text(values):
    with pytest.raises(ValueError, match=r"materials .*use materials=\[CdTe\]"):
        require_names("materials", values, "materials=[CdTe]")


def test_different_names_are_accepted():
    require_names("materials", ("CdTe", "aluminium"), "")
