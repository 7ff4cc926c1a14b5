"""Counts behind plates are refused in one sentence where they cannot be used."""

from dataclasses import replace

import pytest
import torch
from support.plates import PLATES_CM, flawed, plates_of

from pcctlearn.calibration.calibration_set import CalibrationSet


@pytest.fixture(name="plates", scope="module")
def _plates():
    return plates_of(flawed(n_pixels=6))


def test_bins_are_summed_from_the_top(plates):
    counts = plates.counts
    bins = torch.stack([counts[..., 0] - counts[..., 1], counts[..., 1]], -1)
    again = CalibrationSet.from_bins(bins, PLATES_CM, ("aluminium",), plates.thresholds_keV)
    torch.testing.assert_close(again.counts, counts)


WRONG = {
    "counts behind one plate less": (lambda p: {"counts": p.counts[1:]}, "4 exposures"),
    "a threshold less": (lambda p: {"thresholds_keV": p.thresholds_keV[:1]}, "thresholds_keV 1"),
    "another material": (lambda p: {"materials": ("aluminium", "PMMA")}, "2 materials"),
    "the same plate twice": (
        lambda p: {"plates_cm": torch.tensor([[0.0], [0.5], [0.5], [1.5], [2.0]])},
        "5 mm aluminium",
    ),
    "the same plate but for a tenth of a micrometer": (
        lambda p: {"plates_cm": torch.tensor([[0.0], [0.5], [0.50001], [1.5], [2.0]])},
        "exposures 1 and 2",
    ),
    "plates in another order": (lambda p: {"plates_cm": p.plates_cm.flip(0)}, "exposure 0"),
    "a negative plate": (lambda p: {"plates_cm": p.plates_cm - 1}, "plates_cm"),
    "thresholds that fall": (lambda p: {"thresholds_keV": p.thresholds_keV.flip(0)}, "increase"),
    "bins": (
        lambda p: {"counts": torch.stack([p.counts[..., 1], p.counts[..., 0]], -1)},
        "from_bins",
    ),
    "thresholds in reverse order": (lambda p: {"counts": p.counts.flip(-1)}, "reverse the axis"),
    "NaN": (lambda p: {"counts": torch.full_like(p.counts, torch.nan)}, "dead pixels"),
    "no counts": (lambda p: {"counts": 0 * p.counts}, "above 0 in some"),
    "no counts above a threshold": (
        lambda p: {"counts": p.counts * torch.tensor([1, 0])},
        "above 60 keV: leave",
    ),
    "no counts behind a plate in most pixels": (
        lambda p: {"counts": p.counts.index_put((torch.tensor(3),), torch.zeros(()))},
        "exposure 3.*expose longer",
    ),
    "no exposure": (lambda p: {"exposure": torch.zeros(5)}, "exposure"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(kind, plates, annotations_off):
    change, named = WRONG[kind]
    with pytest.raises(ValueError, match=named):
        replace(plates, **change(plates))


@pytest.mark.parametrize("kind", ["all", "one"])
def test_dead_pixels_may_be_the_majority(kind, plates):
    counts = plates.counts.clone()
    counts[:, :4, slice(None) if kind == "all" else 1] = 0
    found = replace(plates, counts=counts)
    assert found.pixel_shape == (6,)
