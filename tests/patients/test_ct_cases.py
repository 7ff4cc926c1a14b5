"""A patient of the user's own lands on any grid: whole, alone, centred, and read once."""

import os
import pickle
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.uid import (
    EncapsulatedPDFStorage,
    MediaStorageDirectoryStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
)
from support.ct_files import (
    REAL_CT,
    SERIES,
    round_patient,
    series_datasets,
    write_dicom,
    write_nifti,
)

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PCCTLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def ct(tmp_path):
    """One CT, written once for each layout: the path that names it."""
    hounsfield = round_patient()
    write_nifti(tmp_path / "nifti/one.nii.gz", hounsfield, VOXEL_MM)
    write_nifti(tmp_path / "kits/case_00007/imaging.nii.gz", hounsfield, VOXEL_MM, "IPL")
    slices = series_datasets(hounsfield, VOXEL_MM)
    write_dicom(tmp_path / "dicom/head/axial", slices)
    write_dicom(tmp_path / "sinoct/batch_1/series_2/reconstructed_image", slices)
    return tmp_path


def mass_and_centroid(water, grid):
    """Mass in g, and its centre (z, y, x) in cm."""
    dz, dy, dx = grid.spacing_cm
    z = torch.from_numpy(grid.slices_cm)
    y = grid.center_cm[1] + ((grid.n_y - 1) / 2 - torch.arange(grid.n_y)) * dy
    x = grid.center_cm[2] + (torch.arange(grid.n_x) - (grid.n_x - 1) / 2) * dx
    water = water.double()
    total = water.sum()
    parts = [(water.sum(axes) @ c) / total for axes, c in (((1, 2), z), ((0, 2), y), ((0, 1), x))]
    return total * dz * dy * dx, torch.stack(parts)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("nifti", "one"),
        ("kits", "case_00007"),
        ("dicom", "head/axial"),
        ("sinoct", "batch_1/series_2"),
    ],
)
def test_every_layout_gives_the_same_maps(ct, layout, name):
    cases = LAYOUTS[layout](str(ct / layout))
    assert (len(cases), cases.names) == (1, [name])
    np.testing.assert_array_equal(cases.volume(0).hounsfield, round_patient())
    maps = cases.maps(0, GRID)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, NiftiCases(str(ct / "nifti")).maps(0, GRID))


@pytest.mark.parametrize(
    "grid",
    [
        GRID,
        VolumeGrid(24, 64, 64, 0.5),
        VolumeGrid(20, 40, 40, 0.7),
        VolumeGrid(40, 90, 90, 0.4, center_cm=(30.0, 2.0, -1.0)),
    ],
)
def test_mass_is_kept_and_the_centroid_lies_on_the_axis(ct, grid):
    water, calcium = NiftiCases(str(ct / "nifti")).maps(0, grid)
    mass, center = mass_and_centroid(water, grid)
    body = round_patient() == 40
    assert mass == pytest.approx(1.04 * body.sum() * 0.5**3, rel=0.01)
    torch.testing.assert_close(
        center, torch.tensor([grid.center_cm[0], 0.0, 0.0]), rtol=0, atol=0.1
    )
    assert calcium.max() == 0  # the table is gone


def test_a_body_longer_than_the_grid_is_cut(ct):
    water = NiftiCases(str(ct / "nifti")).maps(0, VolumeGrid(3, 64, 64, 0.5))[0]
    assert (water[:, 32, 32] > 1).all()


def test_a_body_too_wide_is_refused_or_shrunk(ct):
    grid = VolumeGrid(24, 40, 40, 0.5)
    with pytest.raises(ValueError, match=r"one\.nii\.gz: the body is 23\.\d cm wide.*fit=true"):
        NiftiCases(str(ct / "nifti")).maps(0, grid)
    cases = NiftiCases(str(ct / "nifti"), fit=True)
    with pytest.warns(UserWarning, match=r"one\.nii\.gz: the patient is shrunk to \d+\.?\d* %"):
        placed = cases.placed(0, grid)
    water, frame = placed.maps[0], placed.scanner_to_patient
    scale = abs(np.linalg.det(frame)) ** (-1 / 3)
    assert 0.75 < scale < 0.85
    assert water[:, 0].max() < 0.1
    mass, _ = mass_and_centroid(water, grid)
    body = round_patient() == 40
    assert mass == pytest.approx(1.04 * body.sum() * (0.5 * scale) ** 3, rel=0.02)
    with pytest.raises(ValueError, match=r"grid must hold the axis.*center_cm"):
        cases.maps(0, VolumeGrid(4, 8, 8, 0.5, center_cm=(0.0, 5.0, 0.0)))


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    (tmp_path / "a.nii").write_text("not a CT")
    write_nifti(tmp_path / "b.nii.gz", round_patient(), VOXEL_MM)
    cases = NiftiCases(str(tmp_path))
    assert cases.names == ["a", "b"]
    cases.maps(1, GRID)
    with pytest.raises(ValueError, match=r"a\.nii is damaged or not a NIfTI"):
        cases.volume(0)
    assert NiftiCases(str(tmp_path), limit=1).names == ["a"]


def test_one_path_is_one_case(ct):
    assert NiftiCases(str(ct / "nifti/one.nii.gz")).names == ["one"]
    assert DicomCases(str(ct / "dicom/head/axial")).names == ["axial"]
    assert KitsCases(str(ct / "kits/case_00007")).names == ["case_00007"]


@pytest.mark.parametrize("index", [-1, 1])
def test_index_out_of_range(ct, index):
    with pytest.raises(IndexError, match=rf"cases 0 to 0, got index {index}"):
        NiftiCases(str(ct / "nifti")).maps(index, GRID)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_path_is_wanted_only_when_it_is_used(tmp_path, layout):
    cases = LAYOUTS[layout](None)
    with pytest.raises(ValueError, match=r"datasets\.path needs a value: (a|the) .*"):
        len(cases)
    with pytest.raises(FileNotFoundError, match=r"datasets\.path .*gone does not exist; give"):
        LAYOUTS[layout](str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=rf"no .* in {tmp_path}"):
        LAYOUTS[layout](str(tmp_path))


HIDDEN = {
    "nifti": ["._one.nii.gz", ".one.nii.gz.part.nii.gz"],
    "kits": ["._case_00007/imaging.nii.gz", ".Trash/case_00001/imaging.nii.gz"],
    "dicom": ["head/axial/._000.dcm", ".Trash/a/1.dcm", "head/.cache/1.dcm", "._1.dcm"],
    "sinoct": [".Trash/batch_1/series_1/reconstructed_image/1.dcm",
               "batch_1/._series_3/reconstructed_image/1.dcm",
               "batch_1/series_2/reconstructed_image/._1.dcm"],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sound", [False, True])
def test_hidden_names_are_no_cases(ct, layout, sound):
    """Neither the ._ files of macOS, nor what is being written, nor a trash folder."""
    before = LAYOUTS[layout](str(ct / layout)).names
    whole = next(path for path in sorted((ct / layout).rglob("*")) if path.is_file()).read_bytes()
    for name in HIDDEN[layout]:
        path = ct / layout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole if sound else b"\x00\x05\x16\x07 left by another system")
    cases = LAYOUTS[layout](str(ct / layout))
    assert cases.names == before
    np.testing.assert_array_equal(cases.volume(0).hounsfield, round_patient())


def test_a_hidden_folder_that_is_named_is_read(ct):
    (ct / "nifti").rename(ct / ".private")
    assert NiftiCases(str(ct / ".private")).names == ["one"]


def test_two_cases_of_one_name_are_refused_by_name(tmp_path):
    write_nifti(tmp_path / "a.nii", round_patient(), VOXEL_MM)
    write_nifti(tmp_path / "a.nii.gz", round_patient(), VOXEL_MM)
    with pytest.raises(
        ValueError, match=r"a\.nii and .*a\.nii\.gz are two cases with one name, a:"
    ):
        NiftiCases(str(tmp_path))
    (tmp_path / "a.nii").rename(tmp_path / "b.nii")
    assert NiftiCases(str(tmp_path)).names == ["a", "b"]
    for folder in ("x/y", "x_y"):
        write_dicom(tmp_path / "cases" / folder)
    with pytest.raises(ValueError, match=r"x/y and .*x_y are two cases with one name, x_y: rename"):
        DicomCases(str(tmp_path / "cases"))


@pytest.mark.parametrize(
    "name", ["a:b", 'he said "no"', "tab\there", b"caf\xe9".decode("utf-8", "surrogateescape")]
)
def test_names_are_fit_for_files(tmp_path, name):
    write_nifti(tmp_path / "ct.nii.gz", round_patient(), VOXEL_MM)
    (tmp_path / "ct.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    cases = NiftiCases(str(tmp_path))
    assert safe_stem(cases.names[0], "a test") == cases.names[0]
    assert cases.maps(0, GRID).max() > 0


def test_settings_that_make_no_sense(annotations_off):
    with pytest.raises(ValueError, match=r"limit must be 1 or more.*got 0"):
        NiftiCases(None, limit=0)


def test_uneven_slices_are_interpolated_on_request(ct):
    folder = ct / "uneven"
    slices = series_datasets(round_patient(), VOXEL_MM)
    del slices[11]
    write_dicom(folder, slices)
    with pytest.raises(ValueError, match="resample=true"):
        DicomCases(str(folder)).maps(0, GRID)
    water = DicomCases(str(folder), resample=True).maps(0, GRID)[0]
    whole = DicomCases(str(ct / "dicom")).maps(0, GRID)[0]
    assert water.sum() == pytest.approx(whole.sum().item(), rel=0.01)


def patient_cd(root):
    """A study as hospitals hand it out: DICOMDIR on top, every series in a folder below."""
    write_dicom(root / "DICOM/ST0/SE2", series_datasets(round_patient(), VOXEL_MM))
    thin = series_datasets(round_patient(), VOXEL_MM)
    for dataset in thin:
        dataset.SeriesInstanceUID = "1.2.3"
    write_dicom(root / "DICOM/ST0/SE3", thin)
    for number, changes in enumerate(NO_SERIES.values(), 4):
        (dataset,) = series_datasets(round_patient(), VOXEL_MM)[:1]
        dataset.SeriesInstanceUID = f"9.{number}"
        for tag, value in changes.items():
            setattr(dataset, tag, value)
        if "SOPClassUID" in changes:
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        for tag in changes.get("without", ()):
            delattr(dataset, tag)
        write_dicom(root / f"DICOM/ST0/SE{number}", [dataset])
    (index,) = series_datasets(round_patient(), VOXEL_MM)[:1]
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.save_as(root / "DICOMDIR", enforce_file_format=True)
    (root / "AUTORUN.INF").write_text("[autorun]")
    return root


PLACE = ("ImagePositionPatient", "ImageOrientationPatient")
NO_SERIES = {
    "scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "dose report": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "without": PLACE},
    "placed dose report": {"ImageType": ["ORIGINAL", "SECONDARY", "DOSE_INFO"]},
    "protocol": {"ImageType": ["ORIGINAL", "SECONDARY", "OTHER", "CT_SOM5 PROT"]},
    "capture": {"SOPClassUID": SecondaryCaptureImageStorage},
    "structured report": {"Modality": "SR", "without": ("Rows", "PixelData")},
    "document": {
        "SOPClassUID": EncapsulatedPDFStorage, "Modality": "DOC", "without": ("Rows", "PixelData"),
    },
    "raw data": {"SOPClassUID": RawDataStorage, "without": ("Rows", "PixelData")},
}  # fmt: skip


def test_a_patient_cd_is_its_ct_series(tmp_path):
    root = patient_cd(tmp_path / "CD")
    cases = DicomCases(str(root))
    assert cases.names == ["DICOM/ST0/SE2", "DICOM/ST0/SE3"]
    for index in range(2):
        np.testing.assert_array_equal(cases.volume(index).hounsfield, round_patient())
    with pytest.raises(ValueError, match=r"DICOMDIR is one file") as refused:
        DicomCases(str(root / "DICOMDIR"))
    advised = re.search(r"datasets\.path=(.*)", str(refused.value))[1]
    assert DicomCases(advised).names == cases.names


def test_all_series_of_one_folder(tmp_path):
    root, folder = patient_cd(tmp_path / "CD"), tmp_path / "all"
    folder.mkdir()
    for number, file in enumerate(sorted(root.rglob("*.dcm"))):
        file.rename(folder / f"{number}.dcm")
    with pytest.raises(ValueError, match=r"all holds 2 series: choose one.*1\.2\.3 \(") as refused:
        DicomCases(str(folder)).volume(0)
    assert set(re.findall(r"datasets\.series=(\w+)", str(refused.value))) == {"UID", "all"}
    chosen = DicomCases(str(folder), series="1.2.3")
    np.testing.assert_array_equal(chosen.volume(0).hounsfield, round_patient())
    assert chosen.names == ["all"]
    both = DicomCases(str(folder), series="all", cache=False)
    assert both.names == sorted(["all/1.2.3", f"all/{SERIES}"])
    assert [len(both.volume(index).hounsfield) for index in range(2)] == [24, 24]
    assert DicomCases(str(root.parent), series="1.2.3").names == ["all"]
    with pytest.raises(ValueError, match=r"no CT series datasets\.series=7; it holds .*1\.2\.3"):
        DicomCases(str(folder), series="7")


def test_a_study_without_slices(tmp_path):
    root = patient_cd(tmp_path / "CD")
    for name in ("SE2", "SE3"):
        shutil.rmtree(root / "DICOM/ST0" / name)
    with pytest.raises(FileNotFoundError, match="only scouts, reports or screen captures"):
        DicomCases(str(root))


def tilted_as(layout, folder):
    """The round patient in slices that a gantry tilted by 18.5°, stored for this layout."""
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
def test_tilted_volumes_are_straightened_on_request(tmp_path, layout):
    path = tilted_as(layout, tmp_path / "tilted")
    grid = VolumeGrid(60, 80, 90, (0.4, 0.4, 0.3))
    cases = LAYOUTS[layout](path, straighten=True)
    straight, stored = cases.volume(0), round_patient() + 1000.0
    mass = (straight.hounsfield.double() + 1000).sum() * np.prod(straight.voxel_cm)
    assert mass == pytest.approx(stored.sum() * 0.5**3 * np.cos(np.radians(18.5)), rel=1e-3)
    assert (cases.maps(0, grid)[0] > 0.9).any()
    cases.straighten = False
    with pytest.raises(ValueError, match=r"tilted by 18\.5°.*datasets\.straighten=true"):
        cases.maps(0, grid)  # not out of the cache


def counted(cases, monkeypatch):
    """How often each case is read from now on."""
    reads = []
    volume = cases.volume
    monkeypatch.setattr(cases, "volume", lambda index: reads.append(index) or volume(index))
    return reads


def test_maps_are_kept_and_remade_when_anything_changes(ct, cache, monkeypatch):
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
    """Unpickling it would be noticed."""

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
def test_a_damaged_cache_is_remade(ct, cache, damage):
    cases = NiftiCases(str(ct / "nifti"))
    first = cases.maps(0, GRID)
    (file,) = cache.iterdir()
    damage(file)
    with pytest.warns(UserWarning, match="cannot be read and will be rebuilt"):
        assert torch.equal(cases.maps(0, GRID), first)
    assert torch.equal(cases.maps(0, GRID), first)


@pytest.mark.skipif(not REAL_CT.exists(), reason=f"needs the real CT in {REAL_CT}")
def test_a_real_chest():
    cases = NiftiCases(str(REAL_CT / "chest_upper_abdomen.nii.gz"))
    grid = VolumeGrid(24, 128, 128, (1.2, 0.4, 0.4))
    water, calcium = cases.maps(0, grid)
    assert 0.9 < water[water > 0.5].median() < 1.1
    bone = (calcium > 0.05).nonzero().double().mean(0)
    assert bone[1] > 64  # the spine lies behind the axis
    lungs = ((water > 0.1) & (water < 0.5)).nonzero().double().mean(0)
    assert lungs[0] > 12  # above the middle of a chest and upper abdomen
    heart = (water[13] > 0.9)[40:64].double().sum(0)
    assert heart[64:85].sum() > heart[43:64].sum()  # on the left, at higher columns
    assert water[:, :5].max() == water[:, -20:].max() == 0  # no table behind the patient
