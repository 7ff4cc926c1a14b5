"""An image from simulate.py and evaluate.py overlays the CT volume that was scanned."""

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from support.configs import composed

from pcctlearn.app import run
from pcctlearn.scans.file import read_scan

BEAD_MM = np.array([37.0, -52.0, 21.0])  # position in R, A, S
SCANNER = [
    "tomography.geometry.n_views=24",
    "tomography.geometry.n_rows=24",
    "tomography.geometry.n_columns=40",
    "tomography.geometry.pixel_cm=1.3",
    "tomography.geometry.arc_rad=6.283185307",
    "tomography.grid.n_z=20",
    "tomography.grid.voxel_cm=0.7",
    "scan.scatter=null",
    "scan.grid_transmission=null",
    "scan.noise=false",
]


@pytest.fixture(autouse=True)
def _as_the_command():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def ct_with_a_bead(path, codes, turn_deg=0.0):
    """An ellipsoid of water, off the origin, with a ball of bone of 1.2 cm radius in it."""
    shape, spacing_mm = (64, 56, 36), np.array([4.0, 4.0, 4.0])
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    affine = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]]) @ np.diag(
        [*spacing_mm, 1]
    )
    affine[:3, 3] = -88, -157, -40
    place_mm = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    middle_mm = apply_affine(affine, (np.array(shape) - 1) / 2)
    inside = (((place_mm - middle_mm) / [110, 90, 55]) ** 2).sum(-1) < 1
    values = np.where(inside, 0, -1000)
    values[np.linalg.norm(place_mm - BEAD_MM, axis=-1) < 12] = 1200
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine).as_reoriented(turn), path)
    return path


@pytest.mark.parametrize(
    ("codes", "turn_deg", "n", "fit"),
    [("LPS", 0.0, 36, "false"), ("IPL", 1.5, 26, "true")],
)
def test_a_landmark_keeps_its_position(tmp_path, codes, turn_deg, n, fit):
    ct = ct_with_a_bead(tmp_path / "ct.nii.gz", codes, turn_deg)
    size = [f"tomography.grid.n_y={n}", f"tomography.grid.n_x={n}"]
    data = ["datasets=nifti", f"datasets.path={ct}", f"datasets.fit={fit}"]
    folder = tmp_path / "set"
    words = [*data, *SCANNER, *size, f"folder={folder}"]
    run.run(composed(tmp_path, *words, name="simulate"))
    frame = read_scan(folder / "scans" / "ct.h5", only=["scanner_to_patient"]).scanner_to_patient
    scale = abs(torch.linalg.det(frame).item()) ** (-1 / 3)
    assert (scale < 0.9) == (fit == "true")

    words = [f"scans={folder}", f"folder={tmp_path / 'out'}", "scatter=none"]
    run.run(composed(tmp_path, *words, name="evaluate"))
    image = nib.load(tmp_path / "out/ct/calcium.nii.gz")
    np.testing.assert_allclose(voxel_sizes(image.affine), 7 / scale, rtol=1e-5)
    calcium = np.nan_to_num(image.get_fdata())  # NaN beyond the rows of the panel
    bone = np.argwhere(calcium > calcium.max() / 2)
    found_mm = np.average(
        apply_affine(image.affine, bone), axis=0, weights=calcium[calcium > calcium.max() / 2]
    )
    assert (np.abs(found_mm - BEAD_MM) < 3.5).all()  # half a voxel of the grid
