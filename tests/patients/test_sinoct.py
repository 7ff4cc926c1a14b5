"""SinoCT: series in the order of their numbers, heads in house axes."""

import numpy as np
import pytest
from support.ct_files import series_datasets, small_patient, write_dicom

from pcctlearn.patients.sinoct import read_series, sinoct_series


def write_series(root, batch, series):
    folder = root / f"head_ct_dataset_anon/batch_{batch}/series_{series}"
    for k, dataset in enumerate(series_datasets()):
        image = folder / "reconstructed_image"
        image.mkdir(parents=True, exist_ok=True)
        dataset.save_as(image / f"image_{11 - k}.dcm", enforce_file_format=True)
    return folder


def test_series_are_ordered_by_number(tmp_path):
    wanted = [write_series(tmp_path, *numbers) for numbers in ((1, 9), (2, 3), (2, 10), (10, 4))]
    assert sinoct_series(tmp_path) == wanted
    assert sinoct_series(tmp_path / "head_ct_dataset_anon") == wanted


def test_slices_lie_where_their_position_says(tmp_path):
    volume = read_series(write_series(tmp_path, 1, 2))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())
    assert volume.voxel_cm == pytest.approx((0.3, 0.09, 0.08))
    assert volume.name == "batch_1/series_2"


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no batch_\*/series_\* folders in .*unpacked"):
        sinoct_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="reconstructed_image is not a folder"):
        read_series(tmp_path)
    write_dicom(tmp_path / "reconstructed_image", series_datasets()[::2][:1])
    with pytest.raises(ValueError, match="one slice"):
        read_series(tmp_path)
