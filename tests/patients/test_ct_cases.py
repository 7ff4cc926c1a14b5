"""Maps of a CT on any grid: mass is kept, the body is centered, and maps are cached."""

import os
import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from support.ct_files import REAL_CT, round_patient, series_datasets, write_dicom, write_nifti

from pcctlearn.files.names import safe_stem
from pcctlearn.patients.ct_layouts import DicomCases, KitsCases, NiftiCases, SinoctCases
from pcctlearn.tomography.grids import VolumeGrid

VOXEL_MM = (5.0, 5.0, 5.0)
LAYOUTS = {
    "nifti": NiftiCases,
    "dicom": DicomCases,
    "kits": KitsCases,
    "sinoct": SinoctCases,
}
GRID = VolumeGrid(40, 80, 90, (0.4, 0.4, 0.3))


def mass_and_centroid(water, grid):
    """Mass in g, and center of mass (z, y, x) in cm."""
    dz, dy, dx = grid.spacing_cm
    z = torch.from_numpy(grid.slices_cm)
    y = grid.center_cm[1] + ((grid.n_y - 1) / 2 - torch.arange(grid.n_y)) * dy
    x = grid.center_cm[2] + (torch.arange(grid.n_x) - (grid.n_x - 1) / 2) * dx
    water = water.double()
    total = water.sum()
    parts = [(water.sum(axes) @ c) / total for axes, c in (((1, 2), z), ((0, 2), y), ((0, 1), x))]
    return total * dz * dy * dx, torch.stack(parts)


@pytest.mark.parametrize(
    "grid",
    [
        GRID,
        VolumeGrid(24, 64, 64, 0.5),
        VolumeGrid(20, 40, 40, 0.7),
        VolumeGrid(40, 90, 90, 0.4, center_cm=(30.0, 2.0, -1.0)),
    ],
)
def test_mass_is_kept_and_centered_on_the_axis(ct, grid):
    water, calcium = NiftiCases(str(ct / "nifti")).maps(0, grid)
    mass, center = mass_and_centroid(water, grid)
    body = round_patient() == 40
    assert mass == pytest.approx(1.04 * body.sum() * 0.5**3, rel=0.01)
    torch.testing.assert_close(
        center, torch.tensor([grid.center_cm[0], 0.0, 0.0]), rtol=0, atol=0.1
    )
    assert calcium.max() == 0  # the table is removed


def test_body_longer_than_the_grid_is_cut_off(ct):
    water = NiftiCases(str(ct / "nifti")).maps(0, VolumeGrid(3, 64, 64, 0.5))[0]
    assert (water[:, 32, 32] > 1).all()


def test_body_too_wide_raises_or_is_shrunk(ct):
    grid = VolumeGrid(24, 40, 40, 0.5)
    with pytest.raises(ValueError, match=r"one\.nii\.gz.* 23\.\d cm.*datasets\.fit=true"):
        NiftiCases(str(ct / "nifti")).maps(0, grid)
    cases = NiftiCases(str(ct / "nifti"), fit=True)
    with pytest.warns(UserWarning, match=r"one\.nii\.gz.* shrunk"):
        placed = cases.placed(0, grid)
    water, frame = placed.maps[0], placed.scanner_to_patient
    scale = abs(np.linalg.det(frame)) ** (-1 / 3)
    assert 0.75 < scale < 0.85
    assert water[:, 0].max() < 0.1
    mass, _ = mass_and_centroid(water, grid)
    body = round_patient() == 40
    assert mass == pytest.approx(1.04 * body.sum() * (0.5 * scale) ** 3, rel=0.02)
    with pytest.raises(ValueError, match="center_cm"):
        cases.maps(0, VolumeGrid(4, 8, 8, 0.5, center_cm=(0.0, 5.0, 0.0)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_slice_is_chosen(ct, layout):
    """Slices of the ellipsoid become narrower away from its middle."""
    slice_grid = VolumeGrid(1, 80, 90, (0.4, 0.4, 0.3))
    area = []
    for slice_cm in (None, 0.0, 3.0, -3.0):
        cases = LAYOUTS[layout](str(ct / layout), slice_cm=slice_cm)
        placed = cases.placed(0, slice_grid)
        area.append(placed.maps[0].sum().item())
        wanted = 1.75 + (slice_cm or 0.0)
        assert placed.scanner_to_patient[2, 3] == pytest.approx(wanted)
    assert area[0] == area[1]
    assert area[2] / area[0] == pytest.approx(1 - (3 / 5) ** 2, abs=0.03)
    assert area[3] == pytest.approx(area[2], rel=1e-4)
    with pytest.raises(ValueError, match=r"9 cm.*slice_cm"):
        LAYOUTS[layout](str(ct / layout), slice_cm=9.0).maps(0, slice_grid)


def test_volumes_are_read_only_when_needed(tmp_path):
    (tmp_path / "a.nii").write_text("not a CT")
    write_nifti(tmp_path / "b.nii.gz", round_patient(), VOXEL_MM)
    cases = NiftiCases(str(tmp_path))
    assert cases.names == ["a", "b"]
    cases.maps(1, GRID)
    with pytest.raises(ValueError, match=r"a\.nii .*NIfTI"):
        cases.volume(0)
    assert NiftiCases(str(tmp_path), limit=1).names == ["a"]


@pytest.mark.parametrize("index", [-1, 1])
def test_index_out_of_range_raises(ct, index):
    with pytest.raises(IndexError, match=rf"0 to 0.*{index}"):
        NiftiCases(str(ct / "nifti")).maps(index, GRID)


def test_cases_with_the_same_name_raise(tmp_path):
    write_nifti(tmp_path / "a.nii", round_patient(), VOXEL_MM)
    write_nifti(tmp_path / "a.nii.gz", round_patient(), VOXEL_MM)
    with pytest.raises(ValueError, match=r"a\.nii and .*a\.nii\.gz .*same name, a:"):
        NiftiCases(str(tmp_path))
    (tmp_path / "a.nii").rename(tmp_path / "b.nii")
    assert NiftiCases(str(tmp_path)).names == ["a", "b"]
    for folder in ("x/y", "x_y"):
        write_dicom(tmp_path / "cases" / folder)
    with pytest.raises(ValueError, match=r"x/y and .*x_y .*same name, x_y: rename"):
        DicomCases(str(tmp_path / "cases"))


@pytest.mark.parametrize(
    "name", ["a:b", 'he said "no"', "tab\there", b"caf\xe9".decode("utf-8", "surrogateescape")]
)
def test_case_names_are_valid_file_names(tmp_path, name):
    write_nifti(tmp_path / "ct.nii.gz", round_patient(), VOXEL_MM)
    (tmp_path / "ct.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    cases = NiftiCases(str(tmp_path))
    assert safe_stem(cases.names[0], "a test") == cases.names[0]
    assert cases.maps(0, GRID).max() > 0


def test_invalid_limit_raises(annotations_off):
    with pytest.raises(ValueError, match=r"datasets\.limit .* 0$"):
        NiftiCases(None, limit=0)


def test_unevenly_spaced_slices_are_interpolated(ct):
    folder = ct / "uneven"
    slices = series_datasets(round_patient(), VOXEL_MM)
    del slices[11]
    write_dicom(folder, slices)
    with pytest.raises(ValueError, match="resample=true"):
        DicomCases(str(folder)).maps(0, GRID)
    water = DicomCases(str(folder), resample=True).maps(0, GRID)[0]
    whole = DicomCases(str(ct / "dicom")).maps(0, GRID)[0]
    assert water.sum() == pytest.approx(whole.sum().item(), rel=0.01)


def tilted_as(layout, folder):
    """The round patient scanned with a gantry tilt of 18.5°, stored in this layout."""
    c, s = np.cos(np.radians(18.5)), np.sin(np.radians(18.5))
    if layout in ("dicom", "sinoct"):
        slices = series_datasets(round_patient(), VOXEL_MM)
        for dataset in slices:
            dataset.ImageOrientationPatient = [1, 0, 0, 0, float(c), float(-s)]
        inside = "batch_1/series_2/reconstructed_image" if layout == "sinoct" else "."
        write_dicom(folder / inside, slices)
    else:
        affine = np.zeros((4, 4))
        affine[2, 0], affine[:3, 1], affine[0, 2], affine[3, 3] = 5, (0, -5 * c, -5 * s), -5, 1
        folder.mkdir()
        nib.save(nib.Nifti1Image(round_patient(), affine), folder / "imaging.nii.gz")
    return str(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tilted_volumes_are_straightened(tmp_path, layout):
    path = tilted_as(layout, tmp_path / "tilted")
    grid = VolumeGrid(60, 80, 90, (0.4, 0.4, 0.3))
    cases = LAYOUTS[layout](path, straighten=True)
    straight, stored = cases.volume(0), round_patient() + 1000.0
    mass = (straight.hounsfield.double() + 1000).sum() * np.prod(straight.voxel_cm)
    assert mass == pytest.approx(stored.sum() * 0.5**3 * np.cos(np.radians(18.5)), rel=1e-3)
    assert (cases.maps(0, grid)[0] > 0.9).any()
    cases.straighten = False
    with pytest.raises(ValueError, match=r"18\.5°.*datasets\.straighten=true"):
        cases.maps(0, grid)  # the cached maps are not used


def counted(cases, monkeypatch):
    """A list of the cases read from now on."""
    reads = []
    volume = cases.volume
    monkeypatch.setattr(cases, "volume", lambda index: reads.append(index) or volume(index))
    return reads


def test_maps_are_cached_until_files_or_settings_change(ct, cache, monkeypatch):
    cases = NiftiCases(str(ct / "nifti"))
    reads = counted(cases, monkeypatch)
    first = cases.maps(0, GRID)
    assert torch.equal(cases.maps(0, GRID), first)
    assert len(reads) == len(list(cache.iterdir())) == 1
    cases.maps(0, VolumeGrid(24, 64, 64, 0.5))
    cases.threshold_HU = 30.0
    assert not torch.equal(cases.maps(0, GRID), first)
    os.utime(ct / "nifti/one.nii.gz", ns=(1, 1))
    cases.maps(0, GRID)
    assert len(reads) == 4
    again = NiftiCases(str(ct / "nifti"), cache=False)
    reads = counted(again, monkeypatch)
    again.maps(0, GRID)
    again.maps(0, GRID)
    assert len(reads) == 2


class Boom:
    """Fails the test if it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def pickled_npy(file):
    np.save(file.with_suffix(".npy"), np.array([Boom()], dtype=object), allow_pickle=True)
    file.with_suffix(".npy").rename(file)


def pickled_npz(file):
    np.savez(file, maps=np.array([Boom()], dtype=object), scale=np.array(1.0))


def pickled(file):
    file.write_bytes(pickle.dumps(Boom()))


def cut(file):
    file.write_bytes(file.read_bytes()[:999])


@pytest.mark.parametrize("damage", [pickled_npy, pickled_npz, pickled, cut])
def test_damaged_cache_is_rebuilt(ct, cache, damage):
    cases = NiftiCases(str(ct / "nifti"))
    first = cases.maps(0, GRID)
    (file,) = cache.iterdir()
    damage(file)
    with pytest.warns(UserWarning, match="rebuilt"):
        assert torch.equal(cases.maps(0, GRID), first)
    assert torch.equal(cases.maps(0, GRID), first)


@pytest.mark.skipif(not REAL_CT.exists(), reason=f"needs the real CT in {REAL_CT}")
def test_real_chest():
    cases = NiftiCases(str(REAL_CT / "chest_upper_abdomen.nii.gz"))
    grid = VolumeGrid(24, 128, 128, (1.2, 0.4, 0.4))
    water, calcium = cases.maps(0, grid)
    assert 0.9 < water[water > 0.5].median() < 1.1
    bone = (calcium > 0.05).nonzero().double().mean(0)
    assert bone[1] > 64  # the spine is behind the axis
    lungs = ((water > 0.1) & (water < 0.5)).nonzero().double().mean(0)
    assert lungs[0] > 12  # above the middle of a chest and upper abdomen
    heart = (water[13] > 0.9)[40:64].double().sum(0)
    assert heart[64:85].sum() > heart[43:64].sum()  # on the left, at higher columns
    assert water[:, :5].max() == water[:, -20:].max() == 0  # no table behind the patient
