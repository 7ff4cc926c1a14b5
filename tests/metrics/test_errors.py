"""Table of errors: names in results.json, arrays, and printed tables."""

import numpy as np
import pytest
import torch

from pcctlearn.metrics.errors import ErrorTable, Metric, mean_and_sd, rms

IMAGE, NOISY = Metric("vmi60_rmse_HU"), Metric("vmi60_rmse_HU", noisy=True)


def table():
    made = ErrorTable()
    for before, after in ((40.0, 10.0), (60.0, 30.0)):
        made.add("uncorrected", {"vmi60_rmse_HU": before})
        made.add("corrected", {"vmi60_rmse_HU": after})
        made.add("uniform", {"vmi60_rmse_HU": 20.0})
        made.add("uncorrected", {"vmi60_rmse_HU": before + 1}, noisy=True)
        made.add("corrected", {"vmi60_rmse_HU": after + 1}, noisy=True)
        made.add("noise_alone", {"vmi60_rmse_HU": 5.0}, noisy=True)
    return made


def test_the_names_in_results_json():
    numbers = table().summary()
    assert list(numbers) == [
        "vmi60_rmse_HU_uncorrected",
        "vmi60_rmse_HU",
        "vmi60_rmse_HU_sd",
        "vmi60_rmse_HU_over_uncorrected",
        "vmi60_rmse_HU_uniform_over_uncorrected",
        "noisy_vmi60_rmse_HU_uncorrected",
        "noisy_vmi60_rmse_HU",
        "noisy_vmi60_rmse_HU_sd",
        "noisy_vmi60_rmse_HU_over_uncorrected",
        "noisy_vmi60_rmse_HU_of_noise_alone",
    ]
    assert numbers["vmi60_rmse_HU"] == 20
    assert numbers["vmi60_rmse_HU_sd"] == pytest.approx(200**0.5)
    assert numbers["vmi60_rmse_HU_over_uncorrected"] == 0.4
    assert numbers["noisy_vmi60_rmse_HU_of_noise_alone"] == 5


def test_without_a_correction_there_are_only_uncorrected_errors():
    made = ErrorTable()
    made.add("uncorrected", {"spr_percent": 10.0})
    assert made.summary() == {"spr_percent_uncorrected": 10.0}
    assert [shown.columns for shown in made.tables()] == [["error", "uncorrected"]]


@pytest.mark.parametrize("method", ["corrected", "lr=0.1 a.b", "a minus b"])
def test_round_trip_through_arrays(method):
    made = ErrorTable({(IMAGE, method): np.arange(3.0), (NOISY, method): np.ones(2)})
    arrays = {**made.to_arrays(), "materials": np.zeros(1), "errors_of_another": np.ones(1)}
    back = ErrorTable.from_arrays(arrays)
    assert back.values.keys() == made.values.keys()
    for key, values in made.values.items():
        assert np.array_equal(back.values[key], values)


def test_scans_of_two_tables_are_joined():
    both = table()
    both.extend(table())
    assert len(both.values[IMAGE, "uniform"]) == 4
    assert both.share(IMAGE) == table().share(IMAGE)


def test_printed_tables_have_a_row_per_metric_and_a_column_per_method():
    free, noisy = table().tables()
    assert free.columns == [
        "error",
        "uncorrected",
        "corrected",
        "share left",
        "share left, uniform",
    ]
    assert free.rows == [["VMI 60 keV (HU)", "50 ± 14", "20 ± 14", "0.40", "0.40"]]
    assert noisy.columns == ["error", "uncorrected", "corrected", "noise alone", "share left"]
    assert noisy.rows == [["VMI 60 keV (HU)", "51 ± 14", "21 ± 14", "5 ± 0", "0.41"]]
    assert "standard deviation" in free.title
    assert "scatter" in free.title
    assert "noise" in noisy.title


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("spr_percent", "SPR (%)"),
        ("projection_water_rmse_cm", "projection water (cm)"),
        ("image_calcium_rmse_mg_mL", "image calcium (mg/mL)"),
        ("vmi60_rmse_HU", "VMI 60 keV (HU)"),
        ("vmi45.5_error_HU", "VMI 45.5 keV (HU)"),
        ("vmi45.5_error_HU.pixel_bias", "VMI 45.5 keV (HU), pixel bias"),
        ("projection_water_error_g_cm2", "projection water (g/cm²)"),
    ],
)
def test_labels_have_words_and_units(key, label):
    assert Metric(key).label == label
    assert Metric(key, noisy=True).label == f"{label}, with noise"
    assert Metric.named(Metric(key, noisy=True).name) == Metric(key, noisy=True)


def test_a_number_without_a_unit_keeps_its_name():
    assert Metric("n_epochs").label == "n_epochs"


def test_means_of_a_comparison():
    numbers = ErrorTable({(IMAGE, "a.b"): np.array([1.0, 3.0])}).means("_over_uncorrected")
    assert numbers == {
        "vmi60_rmse_HU_over_uncorrected.a.b": 2.0,
        "vmi60_rmse_HU_over_uncorrected.a.b.sd": pytest.approx(2**0.5),
    }


def test_root_mean_square():
    assert rms(torch.tensor([3.0, -4.0])) == pytest.approx(12.5**0.5)
    assert mean_and_sd(np.array([2.0])) == "2"
    assert mean_and_sd(None) == ""
