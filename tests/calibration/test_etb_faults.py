"""Faults of a pixel are flagged by ETB-Cal, those of the plates or the scanner refused."""

from dataclasses import replace

import pytest
import torch
from support.plates import AS_PROPOSED, PLATES_CM, cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal

PROPOSED = {"normalisation": "model", "comparison": "counts"}


def test_pixels_without_counts_are_flagged_and_stay_nominal():
    truth = flawed()
    plates = plates_of(truth)
    counts = plates.counts.clone()
    counts[:, 7] = 0
    found = EtbCal().fit(replace(plates, counts=counts), cdte_scanner())
    assert found.flags["without counts"].nonzero().tolist() == [[7]]
    assert found.thresholds_keV[7].tolist() == [40.0, 60.0]
    others = torch.arange(40) != 7
    torch.testing.assert_close(
        found.thresholds_keV[others], truth.thresholds_keV[others], rtol=0, atol=1e-9
    )


def test_a_pixel_far_from_nominal_is_flagged():
    truth = flawed()
    thresholds = truth.thresholds_keV.clone()
    thresholds[3, 1] += 14
    plates = plates_of(replace(truth, thresholds_keV=thresholds))
    found = EtbCal(max_rounds=20).fit(plates, cdte_scanner())
    assert found.flags["far from nominal"].nonzero().tolist() == [[3]]


def test_fewer_plates_than_unknowns():
    plates = plates_of(flawed())
    few = replace(plates, counts=plates.counts[:2], plates_cm=PLATES_CM[:2], exposure=None)
    with pytest.raises(ValueError, match="2 exposure"):
        EtbCal(materials=["CdTe", "aluminium"], **PROPOSED).fit(few, cdte_scanner())


def test_thresholds_of_another_scanner():
    plates = replace(plates_of(flawed()), thresholds_keV=torch.tensor([40.0, 65.0]))
    with pytest.raises(ValueError, match=r"edges_keV=\[40.0,65.0"):
        EtbCal().fit(plates, cdte_scanner())


def test_the_scanner_must_count_to_the_end_of_the_spectrum():
    with pytest.raises(ValueError, match="up to 90 keV"):
        EtbCal().fit(plates_of(flawed()), cdte_scanner((40.0, 60.0, 90.0)))


@pytest.mark.parametrize("options", [{}, PROPOSED], ids=["anchored", "as proposed"])
@pytest.mark.parametrize("lost", [0.01, 0.05, 0.2])
def test_a_pixel_that_saturates_in_air_is_flagged(options, lost):
    truth = flawed(n_pixels=400)
    plates = plates_of(truth, 1e8, seed=2)
    counts = plates.counts.clone()
    counts[0, 5] *= 1 - lost
    found = EtbCal(**options).fit(replace(plates, counts=counts), cdte_scanner())
    assert not found.calibrated[5]
    assert found.calibrated.sum() == 399
    assert found.thresholds_keV[5].tolist() == [40.0, 60.0]


@pytest.mark.parametrize("options", [{}, PROPOSED], ids=["anchored", "as proposed"])
def test_a_stuck_pixel_and_a_bright_one_spoil_no_other(options):
    truth = flawed()
    plates = plates_of(truth)
    counts = plates.counts.clone()
    counts[:, 5] = counts[:1, 5]
    counts[:, 6] *= 30
    found = EtbCal(**options).fit(replace(plates, counts=counts), cdte_scanner())
    good = found.calibrated
    assert good.nonzero().flatten().tolist() == [i for i in range(40) if i not in (5, 6)]
    error = (found.thresholds_keV - truth.thresholds_keV)[good]
    assert error.std() < 0.02
    assert found.gain[good].median().item() == pytest.approx(1)


def test_wrong_lengths_of_the_plates_are_refused():
    plates = plates_of(flawed(), 1e8, seed=2)
    with pytest.raises(ValueError, match="lengths"):
        EtbCal().fit(replace(plates, plates_cm=10 * plates.plates_cm), cdte_scanner())


def test_thresholds_that_need_more_rounds_are_undetermined():
    with pytest.raises(ValueError, match="undetermined"):
        EtbCal(max_rounds=1).fit(plates_of(flawed(bias_keV=3.0)), cdte_scanner())


@pytest.mark.parametrize("kind", ["stuck", "swapped", "clipped", "fewer above 60 keV", "brighter"])
@pytest.mark.parametrize("settings", [{}, AS_PROPOSED], ids=["etb", "as proposed"])
def test_a_fault_of_one_pixel_is_flagged_and_spoils_no_other(settings, kind):
    plates = plates_of(flawed(n_pixels=100, bias_keV=0.6), 1e8, seed=3)
    clean = EtbCal(**settings).fit(plates, cdte_scanner())
    assert clean.calibrated.all()
    counts = plates.counts.clone()
    if kind == "stuck":
        counts[:, 5] = counts[0, 5]
    elif kind == "swapped":
        counts[:, 5] = counts[:, 5].flip(-1)
    elif kind == "clipped":
        counts[:, 5] = counts[:, 5].clamp(max=2e7)
    elif kind == "brighter":
        counts[:, 5] += 2e6
    else:
        counts[:, 5, 1] *= 0.3
    found = EtbCal(**settings).fit(replace(plates, counts=counts), cdte_scanner())
    assert (~found.calibrated).nonzero().flatten().tolist() == [5]
    assert found.flags["rising with the threshold"][5] == (kind == "swapped")
    others = found.calibrated
    moved = (found.thresholds_keV - clean.thresholds_keV)[others]
    assert moved.abs().max() < 0.02
    # a flagged pixel is nominal, and its errors are unknown
    assert found.threshold_sd_keV[5].isnan().all()
    assert found.gain_covariance[5].isnan().all()
    assert not found.threshold_sd_keV[others].isnan().any()


@pytest.mark.parametrize("error", [1.003, 1.01])
def test_an_error_that_all_pixels_share_is_reported(error, caplog):
    plates = plates_of(flawed(n_pixels=50, bias_keV=0.6), 1e8, seed=3)
    EtbCal().fit(plates, cdte_scanner())
    assert not caplog.records
    wrong = torch.tensor([error, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    EtbCal().fit(replace(plates, exposure=wrong), cdte_scanner())
    assert "check the exposures" in caplog.text
    assert "exposure" in caplog.text


@pytest.mark.parametrize("scale", [0.8, 0.9, 1.1, 1.3])
def test_wrong_lengths_or_exposures_are_refused(scale):
    plates = plates_of(flawed(n_pixels=50, bias_keV=0.6), 1e8, seed=3)
    with pytest.raises(ValueError, match="lengths"):
        EtbCal().fit(replace(plates, plates_cm=plates.plates_cm * scale), cdte_scanner())
    wrong = torch.tensor([scale, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"exposure"):
        EtbCal().fit(replace(plates, exposure=wrong), cdte_scanner())


def test_more_skew_materials_than_the_plates_tell_apart():
    plates = plates_of(flawed(), 1e8, seed=3)
    with pytest.raises(ValueError, match=r"undetermined.*materials=\[CdTe\]"):
        EtbCal(["CdTe", "aluminium", "copper"]).fit(plates, cdte_scanner())
    assert EtbCal(["CdTe"]).fit(plates, cdte_scanner()).calibrated.all()
