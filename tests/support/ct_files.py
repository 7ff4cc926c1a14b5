"""Small CT volumes, written as NIfTI in any orientation and as DICOM slices."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

REAL_CT = Path(__file__).parents[3] / "shared/data/ct"
VOXEL_MM = (3.0, 0.9, 0.8)
LOWEST_MM = -40.0
SERIES = generate_uid(entropy_srcs=["a series"])


def small_patient():
    """(z, y, x) in HU along S, P and L, without any symmetry."""
    hounsfield = np.full((6, 12, 10), -1000, np.int16)
    hounsfield[:, 2:9, 3:8] = 40
    hounsfield[4, 7, 3] = 900
    hounsfield[:, 3, 6] += np.arange(6, dtype=np.int16)
    return hounsfield


def round_patient(shape=(24, 64, 64), voxel_cm=(0.5, 0.5, 0.5), semi_axes_cm=(5.0, 9.0, 12.0)):
    """An off-center ellipsoid of 40 HU, in front of a table of 300 HU."""
    z, y, x = (
        (np.arange(n) - (n - 1) / 2) * size - shift
        for n, size, shift in zip(shape, voxel_cm, (0.0, -1.5, 2.0), strict=True)
    )
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    c, b, a = semi_axes_cm
    hounsfield = np.full(shape, -1000, np.int16)
    hounsfield[(z / c) ** 2 + (y / b) ** 2 + (x / a) ** 2 <= 1] = 40
    hounsfield[(np.abs(y - b - 1.5) < 0.3) & (np.abs(x) < 12)] = 300
    return hounsfield


def write_nifti(path, hounsfield=None, voxel_mm=VOXEL_MM, codes="RAS"):
    """Write a volume (z, y, x) along S, P and L, stored along ``codes``."""
    hounsfield = small_patient() if hounsfield is None else hounsfield
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = voxel_mm[0], -voxel_mm[1], -voxel_mm[2]
    affine[:, 3] = 30, 20, LOWEST_MM, 1
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hounsfield, affine).as_reoriented(turn), path)
    return path


def slice_dataset(hounsfield, height_mm, number=1, voxel_mm=VOXEL_MM):
    """One axial slice, head first and supine, as int16 with slope 1 and intercept 0."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = SERIES
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [-30.0, -20.0, height_mm]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = list(voxel_mm[1:]), 2 * voxel_mm[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = hounsfield.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    store(dataset, hounsfield.astype(np.int16))
    return dataset


def store(dataset, values):
    """Store 16-bit values in a slice, signed or unsigned."""
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()


def series_datasets(hounsfield=None, voxel_mm=VOXEL_MM):
    """Slices of a series from feet to head, to be modified before writing."""
    hounsfield = small_patient() if hounsfield is None else hounsfield
    return [
        slice_dataset(plane, LOWEST_MM + k * voxel_mm[0], k + 1, voxel_mm)
        for k, plane in enumerate(hounsfield)
    ]


def write_dicom(folder, datasets=None):
    """Write slices under names that do not follow their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, dataset in enumerate(series_datasets() if datasets is None else datasets):
        dataset.save_as(folder / f"{(7 * k + 3) % 11:02d}{k}.dcm", enforce_file_format=True)
    return folder
