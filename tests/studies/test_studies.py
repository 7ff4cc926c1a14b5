"""Every study runs in a small size, and its numbers meet their limits."""

import pytest
import torch
from support.studies import STUDIES, finished, in_context, phantom_study, slab_study

from pcctlearn.figures import caption

KEYS = {
    "perturbation": {
        "tangent_error_order",
        "gradient_relative_error_counts",
        "gradient_relative_error_thresholds",
    },
    "thresholds_slabs": {
        "threshold_error_before_max_keV",
        "threshold_error_after_max_keV",
        "water_rmse_before_cm",
        "water_rmse_after_cm",
        "calcium_rmse_before_cm",
        "calcium_rmse_after_cm",
    },
    "thresholds_slabs_noisy": {"threshold_error_over_crlb_max"},
    "thresholds_phantom": {
        "threshold_error_after_max_keV",
        "scan_vmi60_rmse_before_HU",
        "scan_vmi60_rmse_after_HU",
    },
    "thresholds_phantom_all_pixels": {"threshold_error_after_rms_keV"},
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_returns_its_main_numbers(name):
    results = finished(name)
    assert KEYS[name] <= set(results.numbers)
    assert all(isinstance(value, float) for value in results.numbers.values())
    assert all(caption(name).endswith(".") for name in results.figures)
    assert results.summary.endswith(".")


@pytest.mark.parametrize("name", STUDIES)
def test_result_names_are_known_before_the_run(name):
    assert list(STUDIES[name]().result_names) == list(finished(name).numbers)


def test_perturbation():
    numbers = finished("perturbation").numbers
    assert 1.9 <= numbers["tangent_error_order"] <= 2.1
    assert numbers["gradient_relative_error_counts"] <= 1e-4
    assert numbers["gradient_relative_error_thresholds"] <= 1e-4


def test_slabs():
    numbers = finished("thresholds_slabs").numbers
    assert numbers["threshold_error_before_max_keV"] == pytest.approx(0.5)
    assert numbers["threshold_error_after_max_keV"] <= 1e-3
    assert numbers["water_rmse_after_cm"] <= 1e-3 < numbers["water_rmse_before_cm"]
    assert numbers["calcium_rmse_after_cm"] <= 1e-3 < numbers["calcium_rmse_before_cm"]


@pytest.mark.physics
def test_noisy_slabs_stay_near_the_cramer_rao_bound():
    numbers = finished("thresholds_slabs_noisy").numbers
    assert numbers["threshold_error_over_crlb_max"] < 3.5
    # RMS of 96 errors: 1 within 3/√(2 · 96) if they are independent
    assert numbers["threshold_error_over_crlb_rms_over_detectors"] == pytest.approx(1, abs=0.3)


def test_phantom():
    results = finished("thresholds_phantom")
    numbers = results.numbers
    assert numbers["threshold_error_after_max_keV"] <= 2e-2
    assert numbers["scan_vmi60_rmse_after_HU"] <= 0.05 * numbers["scan_vmi60_rmse_before_HU"]
    unobservable = ~results.arrays["columns/observable"]
    assert numbers["unobservable_columns"] == unobservable.sum() > 0
    found, nominal = results.arrays["edges/found_keV"], results.arrays["edges/nominal_keV"]
    assert torch.equal(found[unobservable], nominal[unobservable])


def test_all_pixels():
    numbers = finished("thresholds_phantom_all_pixels").numbers
    # RMS of 56 draws of N(0, 0.5): 0.5 within 3 · 0.5/√112
    assert numbers["threshold_error_before_rms_keV"] == pytest.approx(0.5, abs=0.14)
    assert numbers["threshold_error_after_rms_keV"] <= 1e-3
    assert numbers["judged_but_unobservable_columns"] == 0


@pytest.mark.parametrize(
    ("study", "options", "message"),
    [
        (slab_study, {"max_steps": 0}, "max_steps .* 0"),
        (slab_study, {"n_detectors": 0}, "n_detectors .* 0"),
        (slab_study, {"water_cm": (3.0, 1.0, 1.0)}, "3.0:1.0:1.0"),
        (phantom_study, {"biased_columns": (48,)}, r"biased_columns .* 47, got \[48\]"),
    ],
)
def test_a_size_out_of_range_is_rejected(study, options, message):
    with pytest.raises(ValueError, match=message):
        study(**options)


def test_a_biased_column_outside_the_shadow_of_the_phantom_is_rejected():
    with pytest.raises(ValueError, match=r"column 2 .* 20 views"):
        phantom_study(biased_columns=(2,)).run(in_context())
