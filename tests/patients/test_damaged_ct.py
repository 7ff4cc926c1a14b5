"""Damaged and hostile CT files raise a clear error before they take time or memory."""

import gzip
import random
import struct
import zlib

import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000MCLossless,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)
from support.ct_files import series_datasets, write_dicom, write_nifti

from pcctlearn.patients import dicom_slice
from pcctlearn.patients.dicom_series import read_dicom_series
from pcctlearn.patients.nifti import read_nifti, read_slice


def mutant(seed, content, head):
    """Content with bytes cut off, changed or removed, mostly in the header."""
    draw, changed = random.Random(seed), bytearray(content)
    kind = draw.random()
    if kind < 0.15:
        return bytes(changed[: draw.randrange(len(changed))])
    for _ in range(draw.choice([1, 1, 2, 4, 8])):
        position = draw.randrange(min(head, len(changed)) if draw.random() < 0.9 else len(changed))
        changed[position] = draw.choice([0, 127, 128, 255, draw.randrange(256)])
    if kind > 0.9:
        position = draw.randrange(min(head, len(changed)))
        del changed[position : position + draw.randrange(1, 9)]
    return bytes(changed)


def reads_or_raises(read, *arguments, **options):
    """Only ValueError and FileNotFoundError with a message of one line are allowed."""
    try:
        read(*arguments, **options)
    except (ValueError, FileNotFoundError) as error:
        raised = error
    else:
        return
    assert type(raised) in (ValueError, FileNotFoundError)
    assert "\n" not in str(raised)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_mutated_nifti(tmp_path, suffix):
    path = write_nifti(tmp_path / f"ct{suffix}")
    whole = path.read_bytes()
    for seed in range(60):
        path.write_bytes(mutant(seed, whole, 352))
        reads_or_raises(read_nifti, path, straighten=seed % 2 > 0)
        reads_or_raises(read_slice, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, RLELossless,
                                    DeflatedExplicitVRLittleEndian])  # fmt: skip
def test_mutated_dicom_slice(tmp_path, syntax):
    datasets = series_datasets()
    for dataset in datasets:
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
        elif syntax is not None:
            dataset.file_meta.TransferSyntaxUID = syntax
    file = sorted(write_dicom(tmp_path, datasets).iterdir())[2]
    whole = file.read_bytes()
    for seed in range(40):
        file.write_bytes(mutant(seed, whole, 1200))
        reads_or_raises(read_dicom_series, tmp_path, resample=seed % 2 > 0, straighten=seed % 3 > 0)


def declared(path, shape):
    """The header of a NIfTI file that declares this shape, without any values."""
    content = bytearray(write_nifti(path.parent / "whole.nii").read_bytes()[:352])
    content[42:48] = struct.pack("<3h", *shape)
    return content


@pytest.mark.parametrize("shape", [(10_000, 10_000, 10_000), (32_767, 32_767, 32_767)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_declared_size_beyond_the_file_raises(tmp_path, shape, suffix):
    content = declared(tmp_path / "x", shape) + bytes(5000)
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    for read in (read_nifti, read_slice):
        with pytest.raises(ValueError, match=r"ct\.nii.* bytes"):
            read(path)


def test_volume_beyond_memory_raises_before_it_is_read(tmp_path):
    """A sparse file of the size that its header declares."""
    path = tmp_path / "ct.nii"
    path.write_bytes(declared(path, (32_000, 32_000, 1_000)))
    with path.open("r+b") as file:
        try:
            file.truncate(352 + 2 * 32_000 * 32_000 * 1_000)
        except OSError:
            pytest.skip("this file system has no sparse files of 2 TB")
    with pytest.raises(ValueError, match="4,096 GB"):
        read_nifti(path)


def test_gzip_bomb_is_not_unpacked(tmp_path):
    """A valid volume of 1440 bytes, followed by 200 MB of zeros."""
    path = write_nifti(tmp_path / "ct.nii")
    bomb = gzip.compress(path.read_bytes()) + gzip.compress(bytes(200_000_000), 1)
    (tmp_path / "ct.nii.gz").write_bytes(bomb)
    with pytest.raises(ValueError, match="1792 bytes"):
        read_nifti(tmp_path / "ct.nii.gz")


def test_deflated_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_slice, "_MOST_INFLATED_BYTES", 2**20)
    datasets = series_datasets()
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = write_dicom(tmp_path, datasets)
    read_dicom_series(folder)
    file = sorted(folder.iterdir())[3]
    start = 144 + pydicom.dcmread(file).file_meta.FileMetaInformationGroupLength
    inflated = zlib.decompress(file.read_bytes()[start:], -zlib.MAX_WBITS)
    # a private element of zeros after the pixels
    inflated += struct.pack("<HH2sHL", 0x7FE1, 0x0010, b"OB", 0, 2**22) + bytes(2**22)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    file.write_bytes(file.read_bytes()[:start] + deflate.compress(inflated) + deflate.flush())
    with pytest.raises(ValueError, match=r"1\.049 MB"):
        read_dicom_series(folder)


@pytest.mark.parametrize(
    ("syntax", "remedy"),
    [
        (JPEGLossless, "pip install pylibjpeg pylibjpeg-libjpeg, "),
        (JPEGLSLossless, "pip install pylibjpeg pylibjpeg-libjpeg, "),
        (JPEG2000MCLossless, "gdcmconv --raw FILE NEW_FILE"),
    ],
)
def test_missing_decoder_is_named_with_its_remedy(tmp_path, syntax, remedy):
    datasets = series_datasets()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
    folder = write_dicom(tmp_path, datasets)
    if syntax != JPEG2000MCLossless and dicom_slice.get_decoder(syntax).is_available:
        pytest.skip("a decoder is installed")
    with pytest.raises(ValueError, match=remedy):
        read_dicom_series(folder)


def test_slices_beyond_memory_raise(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.Rows = dataset.Columns = 65_535
    with pytest.raises(ValueError, match=r"206\.2 GB"):
        read_dicom_series(write_dicom(tmp_path, datasets))


@pytest.mark.parametrize("directions", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 2, 0]])
def test_invalid_orientation_raises(tmp_path, directions):
    datasets = series_datasets()
    for dataset in datasets:
        dataset.ImageOrientationPatient = directions
    with pytest.raises(ValueError, match="ImageOrientationPatient"):
        read_dicom_series(write_dicom(tmp_path, datasets))
