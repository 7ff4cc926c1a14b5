"""ETB-Cal finds the skew and the thresholds of every pixel [2]."""

from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.plate_counts import plate_model
from pcctlearn.calibration.skew_step import fit_skew
from pcctlearn.calibration.threshold_step import fit_threshold

PROPOSED = {"normalisation": "model", "comparison": "counts"}


@pytest.mark.parametrize("material", ["CdTe", "copper"])
def test_expected_counts_give_the_truth(material):
    truth = flawed(material=material)
    found = EtbCal(materials=[material]).fit(plates_of(truth), cdte_scanner())
    assert found.calibrated.all()
    torch.testing.assert_close(found.thickness_cm, truth.thickness_cm, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.thresholds_keV, truth.thresholds_keV, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.gain, truth.gain / truth.gain.median(), rtol=1e-9, atol=0)


def test_four_thresholds():
    edges_keV = (31.0, 37.0, 54.0, 60.0, 149.0)
    truth = flawed(edges_keV=edges_keV)
    found = EtbCal().fit(plates_of(truth), cdte_scanner(edges_keV))
    torch.testing.assert_close(found.thresholds_keV, truth.thresholds_keV, rtol=0, atol=1e-9)


def test_as_proposed_differences_between_pixels_are_found():
    truth = flawed(n_pixels=200)
    found = EtbCal(**PROPOSED).fit(plates_of(truth), cdte_scanner())
    error = found.thresholds_keV[:, 1] - truth.thresholds_keV[:, 1]
    assert found.gauge == "relative"
    assert error.std() < 0.01
    skew = (found.thickness_cm - truth.thickness_cm)[:, 0]
    assert skew.std() < 0.1 * truth.thickness_cm.std()


@pytest.mark.parametrize("normalisation", ["model", "nominal"])
def test_sums_over_pixels_do_not_see_the_exposure(normalisation):
    truth = flawed()
    plates = plates_of(truth)
    exposure = torch.tensor([1.0, 0.7, 1.3, 0.9, 1.1], dtype=torch.float64)
    other = replace(plates, counts=plates.counts * exposure[:, None, None], exposure=None)
    calibrate = EtbCal(normalisation=normalisation, comparison="counts").fit
    one, two = (calibrate(p, cdte_scanner()) for p in (plates, replace(other, exposure=exposure)))
    # the exposure changes the weights of the plates alone
    torch.testing.assert_close(one.thickness_cm, two.thickness_cm, rtol=0, atol=1e-6)


def test_a_common_skew_or_bias_changes_sum_normalised_counts_at_second_order_only():
    truth = flawed()

    def normalised(shift_cm, shift_keV):
        moved = replace(
            truth,
            thickness_cm=truth.thickness_cm + shift_cm,
            thresholds_keV=truth.thresholds_keV + torch.tensor([0.0, shift_keV]),
        )
        counts = plates_of(moved).counts
        return counts / counts.mean(1, keepdim=True)

    base = normalised(0.0, 0.0)
    for shift in ((1e-4, 0.0), (0.0, 0.05)):
        common = (normalised(*shift) - base).abs().max()
        alone = truth.thickness_cm.clone()
        alone[0] += shift[0]
        biased = truth.thresholds_keV.clone()
        biased[0, 1] += shift[1]
        one = plates_of(replace(truth, thickness_cm=alone, thresholds_keV=biased)).counts
        one = (one / one.mean(1, keepdim=True) - base).abs().max()
        assert common < 0.2 * one


def test_the_exposure_is_needed_by_anchor_only():
    plates = replace(plates_of(flawed()), exposure=None)
    with pytest.raises(ValueError, match="normalisation=model"):
        EtbCal().fit(plates, cdte_scanner())
    EtbCal(**PROPOSED).fit(plates, cdte_scanner())


def test_ratio_and_sums_do_not_mix():
    with pytest.raises(ValueError, match="comparison=counts"):
        EtbCal(normalisation="model", comparison="ratio")


def test_the_bias_is_found_from_known_skew_within_five_rounds():
    truth = flawed(n_pixels=100, bias_keV=3.3)
    plates = plates_of(truth)
    model = plate_model(plates, cdte_scanner(), ["CdTe"])
    low, high = plates.of_threshold(0), plates.of_threshold(1)
    reference = torch.full((100,), 40.0)
    skew = fit_skew(low, plates.exposure, model, reference)
    found = fit_threshold(high, low, model, skew, 60.0, reference, max_rounds=5)
    torch.testing.assert_close(found.threshold_keV, truth.thresholds_keV[:, 1], rtol=0, atol=1e-9)


def test_only_exposure_and_ratio_together_are_absolute():
    plates = plates_of(flawed())
    assert EtbCal().fit(plates, cdte_scanner()).gauge == "absolute"
    assert EtbCal(comparison="counts").fit(plates, cdte_scanner()).gauge == "relative"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"normalisation": "ancor"}, "normalisation.*anchor"),
        ({"comparison": "ration"}, "comparison.*ratio"),
        ({"materials": "CdTe"}, "materials"),
        ({"materials": ["CdTe", "CdTe"]}, "materials"),
        ({"max_rounds": 0}, "max_rounds"),
        ({"prior_cm": {"CdTe": 0.0}}, "prior_cm"),
    ],
)
def test_wrong_settings(options, named, annotations_off):
    with pytest.raises(ValueError, match=named):
        EtbCal(**options)


def test_pixels_in_rows_and_columns():
    truth = flawed(n_pixels=12)
    plates = plates_of(truth)
    counts = plates.counts.reshape(5, 3, 4, 2)
    found = EtbCal().fit(replace(plates, counts=counts), cdte_scanner())
    assert found.thresholds_keV.shape == (3, 4, 2)
    assert found.correction(cdte_scanner()).coefficients.shape == (3, 4, 2, 5)
    torch.testing.assert_close(
        found.thresholds_keV.reshape(12, 2), truth.thresholds_keV, rtol=0, atol=1e-9
    )


def test_blocks_of_pixels_change_nothing(monkeypatch):
    plates = plates_of(flawed(), 1e8, seed=3)
    whole = EtbCal().fit(plates, cdte_scanner())
    monkeypatch.setattr("pcctlearn.calibration.etb._BLOCK", 7)
    blocks = EtbCal().fit(plates, cdte_scanner())
    torch.testing.assert_close(blocks.thickness_cm, whole.thickness_cm, rtol=0, atol=1e-10)
    torch.testing.assert_close(blocks.thresholds_keV, whole.thresholds_keV, rtol=0, atol=1e-6)
    torch.testing.assert_close(blocks.threshold_sd_keV, whole.threshold_sd_keV, rtol=1e-4, atol=0)
