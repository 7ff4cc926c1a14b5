"""Scans of a flawed detector, corrected with the pixel model of its plates."""

import json
from dataclasses import replace

import h5py
import pytest
import torch
from hydra.errors import InstantiationException
from support.configs import composed

from pcctlearn.app.run import run
from pcctlearn.calibration.pixel_model_file import read_pixel_model, write_pixel_model

PANEL = ["n_rows=4", "n_columns=24"]
GEOMETRY = [
    "tomography=cone_head",
    "tomography.geometry.n_views=24",
    "tomography.geometry.pixel_cm=1.9",
    *(f"tomography.geometry.{word}" for word in PANEL),
    "tomography.grid.n_z=4",
    "tomography.grid.n_y=28",
    "tomography.grid.n_x=28",
    "tomography.grid.voxel_cm=1.0",
]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Plates of a detector, its pixel model, and a scan made with it."""
    folder = tmp_path_factory.mktemp("workshop")
    plates = folder / "plates/plates.h5"
    words = ["datasets=plates", *(f"datasets.{word}" for word in PANEL)]
    command(folder / "plates", "simulate", *words)
    command(folder / "calibrated", "calibrate", f"counts={plates}")
    of_plates = ["scan=of_plates", f"scan.pixel_model.path={plates}"]
    command(folder / "scans", "simulate", *of_plates, "datasets.n_cases=1", *GEOMETRY)
    return folder


def command(folder, name, *words):
    try:
        run(composed(folder, *words, f"folder={folder}", "n_threads=1", name=name))
    except InstantiationException as error:
        raise error.__cause__ from None


def evaluated(workshop, folder, *words):
    command(folder, "evaluate", f"scans={workshop / 'scans'}", "scatter=none", *words)
    return json.loads((folder / "results.json").read_text())


def test_the_bias_of_pixels_falls_to_the_noise(workshop, tmp_path):
    model = workshop / "calibrated/pixel_model.h5"
    before = evaluated(workshop, tmp_path / "before")
    after = evaluated(workshop, tmp_path / "after", f"pixel_model={model}")
    for material in ("water", "calcium"):
        key = f"projection_{material}_error_g_cm2.pixel_bias"
        assert after[key] < before[key] / 3


def test_images_are_decomposed_with_the_pixels_and_without(workshop, tmp_path):
    """Water and calcium in the image domain, with bone corrected, and the noise of the maps."""
    words = ["decomposition=image_domain"]
    model = f"pixel_model={workshop / 'calibrated/pixel_model.h5'}"
    before = evaluated(workshop, tmp_path / "before", *words)
    after = evaluated(workshop, tmp_path / "after", *words, model)
    key = "projection_water_error_g_cm2.pixel_bias"
    assert after[key] < before[key] / 1.5  # the rest is that of bone, which no pixel shares
    assert after["noise_water_mg_mL"] > 0
    assert -1 < after["noise_correlation_water_calcium"] < -0.5
    folder = next((tmp_path / "after").glob("head*"))
    assert {path.name for path in folder.glob("*.nii.gz")} == {
        "water.nii.gz",
        "calcium.nii.gz",
        "vmi_60keV.nii.gz",
        "noise_water.nii.gz",
        "noise_calcium.nii.gz",
        "noise_vmi_60keV.nii.gz",
    }
    with pytest.raises(ValueError, match=r"head.*\.h5: no voxel.*correct_bone=false"):
        evaluated(workshop, tmp_path / "none", *words, "decomposition.least_over_water=9.0")
    evaluated(workshop, tmp_path / "bare", *words, "decomposition.correct_bone=false")


def test_flagged_pixels_are_filled(workshop, tmp_path):
    pixels = read_pixel_model(workshop / "calibrated/pixel_model.h5")
    flagged = torch.zeros(4, 24, dtype=torch.bool)
    flagged[1, 5] = True
    write_pixel_model(tmp_path / "model.h5", replace(pixels, flags={"odd": flagged}))
    results = evaluated(workshop, tmp_path / "out", f"pixel_model={tmp_path / 'model.h5'}")
    assert results["dead_pixels"] == 1
    with h5py.File(next((tmp_path / "out").glob("*/projections.h5"))) as file:
        x = torch.from_numpy(file["line_integrals"][()])  # (material, view, row, column)
    around = torch.zeros(4, 24, dtype=torch.bool)
    around[0:3, 4:7] = True
    # neighbours have other spectra: their line integrals fit, their counts do not
    torch.testing.assert_close(
        x[..., 1, 5], x[..., around & ~flagged].mean(-1), rtol=1e-5, atol=1e-5
    )
    assert "(1, 5)" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, []),
        ({"gauge": "relative"}, ["common to all pixels"]),
        ({"warnings": ("counts differ by 0.3 %", "noise is too large")}, ["0.3 %", "noise is"]),
    ],
    ids=["none", "gauge", "warnings"],
)
def test_errors_that_all_pixels_share_are_named_once_and_reported(
    workshop, tmp_path, caplog, change, named
):
    pixels = read_pixel_model(workshop / "calibrated/pixel_model.h5")
    write_pixel_model(tmp_path / "model.h5", replace(pixels, **change))
    evaluated(workshop, tmp_path / "out", f"pixel_model={tmp_path / 'model.h5'}")
    said = [m for m in caplog.messages if "model.h5: " in m]
    report = (tmp_path / "out/report.html").read_text()
    assert len(said) == len(named)
    for words, sentence in zip(named, said, strict=True):
        assert words in sentence
        assert report.count(words) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.as_panel((24, 4)), "24 x 4"),
        (lambda p: replace(p, nominal_keV=p.nominal_keV + 1), r"41\.0"),
    ],
)
def test_another_detector_is_refused(workshop, tmp_path, change, named):
    pixels = read_pixel_model(workshop / "calibrated/pixel_model.h5")
    write_pixel_model(tmp_path / "model.h5", change(pixels))
    with pytest.raises(ValueError, match=named):
        evaluated(workshop, tmp_path / "out", f"pixel_model={tmp_path / 'model.h5'}")


def test_a_plate_file_is_not_a_pixel_model(workshop, tmp_path):
    with pytest.raises(ValueError, match="pcctlearn pixel model"):
        evaluated(workshop, tmp_path, f"pixel_model={workshop / 'plates/plates.h5'}")


def test_scans_of_plates_need_their_panel_and_thresholds(workshop, tmp_path):
    words = ["scan=of_plates", f"scan.pixel_model.path={workshop / 'plates/plates.h5'}"]
    words += ["datasets.n_cases=1", *GEOMETRY]
    with pytest.raises(ValueError, match="thresholds of"):
        command(
            tmp_path / "a", "simulate", *words, "physics.thresholds.edges_keV=[20.0,50.0,149.0]"
        )
    with pytest.raises(ValueError, match=r"4 x 24 pixels.*datasets\.n_columns"):
        command(tmp_path / "b", "simulate", *words, "tomography.geometry.n_rows=6")
    with pytest.raises(ValueError, match="threshold_error_keV"):
        command(tmp_path / "c", "simulate", *words, "scan.threshold_error_keV=1.0")
