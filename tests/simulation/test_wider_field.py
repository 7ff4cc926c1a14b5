"""The settings that an error advises for a body that is too wide make it fit."""

import re
import warnings

import pytest
from hydra.utils import instantiate
from support.configs import composed
from support.ct_files import round_patient, write_nifti

from pcctlearn.patients.axial_slice import AxialSlice
from pcctlearn.patients.ct_layouts import NiftiCases
from pcctlearn.phantoms.placement import BodyTooWideError
from pcctlearn.simulation.wider_field import advice_of_settings


def scan_of(folder, name, *settings):
    """The geometry and the grid of a command."""
    config = composed(folder, *settings, name=name)
    return tuple(instantiate(config.tomography, _convert_="all").values())


CONE = ["tomography=cone_head", "tomography.grid.n_z=40"]
OF_A_VOLUME = {
    "head": CONE,
    "offset": [*CONE, "+tomography.grid.center_cm=[0.0,1.5,-1.0]"],
    "half fan": [
        *CONE,
        "+tomography.geometry.offset_cm=12.0",
        "tomography.geometry.arc_rad=6.2832",
    ],
    "long": ["tomography=cone_head"],  # truncated along z to begin with
}


@pytest.mark.parametrize("kind", OF_A_VOLUME)
def test_a_volume(tmp_path, kind):
    write_nifti(tmp_path / "ct.nii", round_patient(), (5.0, 5.0, 5.0))
    cases = NiftiCases(str(tmp_path / "ct.nii"))
    beam, grid = scan_of(tmp_path, "simulate", *OF_A_VOLUME[kind])
    with (
        pytest.raises(BodyTooWideError, match=r"23\.5 cm.*fit=true") as refused,
        advice_of_settings(beam, grid),
    ):
        cases.placed(0, grid)
    typed = re.findall(r"tomography\.\S+=\d+", str(refused.value))
    wider, wide_grid = scan_of(tmp_path, "simulate", *OF_A_VOLUME[kind], *typed)
    cases.placed(0, wide_grid)
    assert len(wider.truncations(wide_grid)) <= len(beam.truncations(grid))
    fitted = NiftiCases(str(tmp_path / "ct.nii"), fit=True)
    with pytest.warns(UserWarning, match="shrunk"):
        fitted.placed(0, grid)


@pytest.mark.parametrize("tomography", ["fan", "parallel"])
def test_a_slice(tmp_path, tomography):
    write_nifti(tmp_path / "ct.nii", round_patient(), (5.0, 5.0, 5.0))
    small = [f"tomography={tomography}", "tomography.grid.n_x=120", "tomography.grid.n_y=130"]
    beam, grid = scan_of(tmp_path, "train", *small)
    patient = AxialSlice(str(tmp_path / "ct.nii"))
    with pytest.raises(BodyTooWideError) as refused, advice_of_settings(beam, grid):
        patient.maps(0, grid)
    typed = re.findall(r"tomography\.\S+=\d+", str(refused.value))
    wider, wide_grid = scan_of(tmp_path, "train", *small, *typed)
    assert wider.truncations(wide_grid) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is shrunk
        patient.maps(0, wide_grid)


def test_a_body_as_wide_as_the_orbit(tmp_path):
    beam, grid = scan_of(tmp_path, "simulate", *CONE)
    with pytest.raises(BodyTooWideError, match=r"^too wide$"), advice_of_settings(beam, grid):
        raise BodyTooWideError("too wide", 60.0)
