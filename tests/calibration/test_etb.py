"""ETB-Cal finds the skew and the thresholds of every pixel [2]."""

import math
from dataclasses import replace

import pytest
import torch
from support.plates import AS_PROPOSED, PLATES_CM, cdte_scanner, flawed, plates_of

from pcctlearn.calibration.direct_inversion import direct_inversion
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


@pytest.mark.physics
def test_error_bars_hold_68_percent():
    truth = flawed(n_pixels=600)
    found = [EtbCal().fit(plates_of(truth, 1e8, seed), cdte_scanner()) for seed in range(4)]
    skew = torch.stack([f.thickness_cm - truth.thickness_cm for f in found])
    skew_sd = torch.stack([f.thickness_sd_cm for f in found])
    bias = torch.stack([f.thresholds_keV - truth.thresholds_keV for f in found])[..., 1]
    bias_sd = torch.stack([f.threshold_sd_keV for f in found])[..., 1]
    for error, sd in ((skew, skew_sd), (bias, bias_sd)):
        assert (error.abs() < sd).double().mean().item() == pytest.approx(0.683, abs=0.03)
        assert error.std().item() == pytest.approx(sd.square().mean().sqrt().item(), rel=0.06)


@pytest.mark.physics
def test_errors_fall_with_the_square_root_of_the_photons():
    truth = flawed(n_pixels=300)
    found = [EtbCal().fit(plates_of(truth, n, 1), cdte_scanner()) for n in (1e7, 1e9)]
    sd = [(f.thresholds_keV - truth.thresholds_keV)[:, 1].std() for f in found]
    assert (sd[0] / sd[1]).item() == pytest.approx(10, rel=0.15)


def test_direct_inversion_is_ten_times_worse_with_noise():
    truth = flawed(n_pixels=200, skew_cm=0.001, bias_keV=0.67)
    plates = plates_of(truth, 1e8, seed=1)
    found = EtbCal(**PROPOSED).fit(plates, cdte_scanner())
    rms = (found.thresholds_keV - truth.thresholds_keV)[:, 1].square().mean().sqrt()
    model = plate_model(plates, cdte_scanner(), ["CdTe"])
    for ridge in (0.0, 1e-10, 1e-8, 1e-6, 1e-4):
        direct = direct_inversion(plates.of_threshold(1), model, 60.0, ridge)[2]
        error = (direct - truth.thresholds_keV[:, 1]).square().mean().sqrt()
        assert error > 10 * rms


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


def test_the_exposure_is_needed_by_anchor_only():
    plates = replace(plates_of(flawed()), exposure=None)
    with pytest.raises(ValueError, match="normalisation=model"):
        EtbCal().fit(plates, cdte_scanner())
    EtbCal(**PROPOSED).fit(plates, cdte_scanner())


def test_ratio_and_sums_do_not_mix():
    with pytest.raises(ValueError, match="comparison=counts"):
        EtbCal(normalisation="model", comparison="ratio")


def test_thresholds_of_another_scanner():
    plates = replace(plates_of(flawed()), thresholds_keV=torch.tensor([40.0, 65.0]))
    with pytest.raises(ValueError, match=r"edges_keV=\[40.0,65.0"):
        EtbCal().fit(plates, cdte_scanner())


def test_the_bias_is_found_from_known_skew_within_five_rounds():
    truth = flawed(n_pixels=100, bias_keV=3.3)
    plates = plates_of(truth)
    model = plate_model(plates, cdte_scanner(), ["CdTe"])
    low, high = plates.of_threshold(0), plates.of_threshold(1)
    reference = torch.full((100,), 40.0)
    skew = fit_skew(low, plates.exposure, model, reference)
    found = fit_threshold(high, low, model, skew, 60.0, reference, max_rounds=5)
    torch.testing.assert_close(found.threshold_keV, truth.thresholds_keV[:, 1], rtol=0, atol=1e-9)


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


def test_only_exposure_and_ratio_together_are_absolute():
    plates = plates_of(flawed())
    assert EtbCal().fit(plates, cdte_scanner()).gauge == "absolute"
    assert EtbCal(comparison="counts").fit(plates, cdte_scanner()).gauge == "relative"


def share_within(error, sd):
    return (error.abs() < sd).double().mean().item()


@pytest.mark.physics
@pytest.mark.parametrize("photons", [1e6, 1e8])
@pytest.mark.parametrize("comparison", ["ratio", "counts"])
def test_error_bars_hold_68_percent_of_pixels_drawn_from_the_prior(photons, comparison):
    """Thicknesses and photon noise are normal, and so is the posterior of a nearly linear problem.

    Counts relative to the sum over the pixels do not determine what all pixels share.
    """
    prior_cm = {"CdTe": 0.002, "aluminium": 0.05}
    truth = flawed(n_pixels=1500, bias_keV=0.3)
    drawn = torch.randn(1500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    thickness = drawn * torch.tensor([*prior_cm.values()])
    truth = replace(truth, thickness_cm=thickness, materials=tuple(prior_cm))
    found = EtbCal([*prior_cm], comparison=comparison, prior_cm=prior_cm).fit(
        plates_of(truth, photons, seed=1), cdte_scanner()
    )
    assert found.calibrated.all()
    skew = found.thickness_cm - truth.thickness_cm
    bias = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    if comparison == "counts":
        bias = bias - bias.mean()
    for error, sd in (
        (skew[:, 0], found.thickness_sd_cm[:, 0]),
        (skew[:, 1], found.thickness_sd_cm[:, 1]),
        (bias, found.threshold_sd_keV[:, 1]),
    ):
        assert share_within(error, sd) == pytest.approx(0.683, abs=0.03)


@pytest.mark.physics
@pytest.mark.parametrize("photons", [5e3, 1e5])
def test_few_photons_determine_pixels_relative_to_one_another(photons):
    """A last step is small in standard errors, however far all thresholds have moved together."""
    truth = flawed(n_pixels=1500, bias_keV=0.67)
    found = EtbCal(**PROPOSED).fit(plates_of(truth, photons, seed=1), cdte_scanner())
    assert found.calibrated.all()
    error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
    within = share_within(error - error.mean(), found.threshold_sd_keV[:, 1])
    assert within == pytest.approx(0.683, abs=0.03)


@pytest.mark.physics
@pytest.mark.parametrize(("photons", "most"), [(1e7, 0.67), (1e8, 0.58), (1e9, 0.4)])
def test_as_proposed_an_error_without_noise_adds_to_the_error_bars(photons, most):
    """Its variance s² is that of expected counts: |z| √(σ² + s²) < σ in so many pixels."""
    truth = flawed(n_pixels=600, bias_keV=0.67)

    def fitted(seed):
        found = EtbCal(**AS_PROPOSED).fit(plates_of(truth, photons, seed), cdte_scanner())
        error = (found.thresholds_keV - truth.thresholds_keV)[:, 1]
        return found, error - error.mean()

    s = fitted(None)[1].std().item()
    draws = [fitted(seed) for seed in range(2)]
    sd = torch.stack([found.threshold_sd_keV[:, 1] for found, _ in draws])
    expected = math.erf((2 * (1 + s**2 / sd.square().mean().item())) ** -0.5)
    assert share_within(torch.stack([error for _, error in draws]), sd) == pytest.approx(
        expected, abs=0.03
    )
    assert expected < most


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
