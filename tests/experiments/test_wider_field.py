"""What is advised for a body that is too wide is typed, and then it fits without a warning."""

import re
import warnings

import pytest
from ct_files import round_patient, write_nifti
from hydra.utils import instantiate
from test_conf import composed

from pcctlearn.datasets.axial_slice import AxialSlice
from pcctlearn.datasets.ct_cases import CtCases
from pcctlearn.experiments.wider_field import advice_of_settings
from pcctlearn.phantoms.placement import BodyTooWideError


@pytest.fixture(autouse=True)
def _root(monkeypatch, tmp_path):
    monkeypatch.setenv("PCCTLEARN_CACHE", str(tmp_path / "cache"))


def geometry_of(folder, name, *settings):
    """The beam of a command, and whether its construction warns."""
    config = composed(folder, *settings, name=name)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        beam = instantiate(config.tomography, _convert_="all")
    return beam, [str(w.message) for w in raised]


CONE = ["tomography=cone_head", "tomography.volume.n_z=40"]
OF_A_VOLUME = {
    "head": CONE,
    "offset": [*CONE, "+tomography.volume.center_cm=[0.0,1.5,-1.0]"],
    "half fan": [*CONE, "+tomography.offset_cm=12.0", "tomography.arc_rad=6.2832"],
    "long": ["tomography=cone_head"],  # it warns along z to begin with
}


@pytest.mark.parametrize("kind", OF_A_VOLUME)
def test_a_volume(tmp_path, kind):
    write_nifti(tmp_path / "ct.nii", round_patient(), (5.0, 5.0, 5.0))
    cases = CtCases(str(tmp_path / "ct.nii"))
    beam, told = geometry_of(tmp_path, "simulate", *OF_A_VOLUME[kind])
    with (
        pytest.raises(BodyTooWideError, match=r"23\.5 cm wide.*fit=true, or widen") as refused,
        advice_of_settings(beam),
    ):
        cases.placed(0, beam.volume)
    typed = re.findall(r"tomography\.\S+=\d+", str(refused.value))
    wider, now_told = geometry_of(tmp_path, "simulate", *OF_A_VOLUME[kind], *typed)
    cases.placed(0, wider.volume)
    assert len(now_told) <= len(told)
    fitted = CtCases(str(tmp_path / "ct.nii"), fit=True)
    with pytest.warns(UserWarning, match="shrunk to"):
        fitted.placed(0, beam.volume)


@pytest.mark.parametrize("tomography", ["fan", "parallel"])
def test_a_slice(tmp_path, tomography):
    write_nifti(tmp_path / "ct.nii", round_patient(), (5.0, 5.0, 5.0))
    small = [f"tomography={tomography}", "tomography.image.n_x=120", "tomography.image.n_y=130"]
    beam, _ = geometry_of(tmp_path, "train", *small)
    patient = AxialSlice(str(tmp_path / "ct.nii"))
    with pytest.raises(BodyTooWideError) as refused, advice_of_settings(beam):
        patient.maps(beam.image.n_y, beam.image.n_x, beam.image.voxel_cm)
    typed = re.findall(r"tomography\.\S+=\d+", str(refused.value))
    wider, told = geometry_of(tmp_path, "train", *small, *typed)
    assert not told
    patient.maps(wider.image.n_y, wider.image.n_x, wider.image.voxel_cm)
    assert patient.scale == 1


def test_a_body_as_wide_as_the_orbit(tmp_path):
    beam, _ = geometry_of(tmp_path, "simulate", *CONE)
    with pytest.raises(BodyTooWideError, match=r"^too wide$"), advice_of_settings(beam):
        raise BodyTooWideError("too wide", 60.0)
