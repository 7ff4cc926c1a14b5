"""Undamaged files of every kind that pcctlearn reads, and their readers."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import nibabel as nib
import numpy as np
import torch
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.io import savemat
from torch import Tensor

from pcctlearn.patients.dicom_series import read_dicom_series
from pcctlearn.patients.nifti import read_nifti
from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.response.pairs import Pairs, write_pairs
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds, above_from_bins
from pcctlearn.reading.yaml_text import read_yaml
from pcctlearn.scans.file import faults, read_scan, write_scan
from pcctlearn.scans.record import ResponseRecord, ScanRecord, SpectrumRecord
from pcctlearn.scatter.checkpoint import SavedCorrection, save_correction
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

ENERGIES = torch.arange(12.5, 121.0, 2.0, dtype=torch.float64)
EDGES = [20.0, 60.0, 120.0]
GEOMETRY = ConeBeam(6, 4, 5, (0.55, 0.6), 5.0, 8.0)
GRID = VolumeGrid(3, 4, 5, 0.3)
ROW = FanBeam(6, 5, 0.6, 5.0, 8.0)


class Source(NamedTuple):
    """Writer of an undamaged file, and its reader; ``read`` returns the numbers in the file."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]


def hounsfield() -> np.ndarray:
    """(6, 12, 10) in HU: air, water and a voxel of bone."""
    volume = np.full((6, 12, 10), -1000, np.int16)
    volume[:, 2:9, 3:8] = 40
    volume[4, 7, 3] = 900
    return volume


def table() -> Table:
    """The analytic response of silicon on a coarse grid."""
    silicon = Analytic("silicon", 6.0, sharing_keV=217.0, sharing_exponent=3.2)
    return Table.sampled(silicon, ENERGIES, step_keV=2.0)


def model() -> SpectralModel:
    """Two bins behind a flat spectrum."""
    tube = Spectrum.from_arrays(ENERGIES, torch.ones_like(ENERGIES), photons_per_pixel=1e5)
    return SpectralModel.from_parts(tube, table(), Thresholds(EDGES), ["water", "calcium"])


def write_scan_file(path: Path, geometry: Geometry = GEOMETRY, grid: VolumeGrid = GRID) -> None:
    """A scan with truth, spectrum, response and configuration."""
    generator = torch.Generator().manual_seed(1)
    spectral_model, response = model(), table()
    expected = spectral_model.air().detach().float()
    air = expected[:, None, None].expand(-1, geometry.n_rows, geometry.n_columns)
    shape = (2, *geometry.sinogram_shape(grid))
    line_integrals = torch.rand(shape, generator=generator)  # g/cm²
    line_integrals[0] *= 10
    with torch.no_grad():
        primary = spectral_model(line_integrals.movedim(0, -1)).movedim(-1, 0)
    scan = ScanRecord(
        name="a scan",
        geometry=geometry,
        grid=grid,
        thresholds_keV=torch.tensor(EDGES, dtype=torch.float64),
        air=air,
        counts=1.1 * primary,
        primary=primary,
        scatter=0.1 * primary,
        line_integrals=line_integrals,
        maps=torch.rand(2, *grid.shape, generator=generator),
        materials=("water", "calcium"),
        spectrum=SpectrumRecord(ENERGIES, spectral_model.fluence),
        response=ResponseRecord(ENERGIES, response.deposited_keV, response.response_per_keV),
        seed=1,
        grid_transmission=1.0,
        config="physics:\n  materials: [water, calcium]\n",
        software="benchmarks/fuzz_sources.py",
    )
    write_scan(path, scan)


def write_row_file(path: Path) -> None:
    """A scan with a fan beam and counts above thresholds."""
    write_scan_file(path, ROW, VolumeGrid(1, 4, 5, 0.3))
    with h5py.File(path, "r+") as file:
        file.attrs["counted"] = "above"
        for name in ("counts", "air"):
            file[name][...] = above_from_bins(torch.from_numpy(file[name][()]), dim=0).numpy()


def read_scan_file(path: Path) -> ScanRecord:
    """Read a scan as ``evaluate.py`` and ``pcctlearn check`` do."""
    faults(path)
    return read_scan(path)


def write_nifti(path: Path) -> None:
    """A CT volume with an affine matrix in mm."""
    affine = np.diag([-0.8, -0.9, 3.0, 1.0])
    nib.save(nib.Nifti1Image(hounsfield().transpose(2, 1, 0), affine), path)


def write_dicom(folder: Path) -> None:
    """Six axial slices."""
    folder.mkdir()
    series = generate_uid(entropy_srcs=["fuzz"])
    for number, plane in enumerate(hounsfield()):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = CTImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.Modality, one.InstanceNumber = series, "CT", number + 1
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImagePositionPatient = [-30.0, -20.0, 3.0 * number]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [0.9, 0.8], 3.0
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Rows, one.Columns = plane.shape
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, 0
        one.PixelData = plane.tobytes()
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def response_arrays() -> dict[str, np.ndarray]:
    """The arrays of a response file."""
    made = table()
    names = ("energies_keV", "deposited_keV", "response_per_keV")
    return {name: getattr(made, name).numpy() for name in names}


def write_response_npz(path: Path) -> None:
    """A response as arrays."""
    np.savez(path, allow_pickle=False, **response_arrays())


def write_response_csv(path: Path) -> None:
    """A response as text."""
    arrays = response_arrays()
    lines = ["# unit: 1/keV", ",".join(["deposited_keV", *(f"{e:g}" for e in ENERGIES.tolist())])]
    rows = zip(arrays["deposited_keV"], arrays["response_per_keV"], strict=True)
    lines += [",".join(f"{x:.6g}" for x in (center, *row)) for center, row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_response(path: Path) -> list[Any]:
    """A response, and the counts that it registers above two thresholds."""
    made = Table.from_file(path)
    edges = made.deposited_keV[[2, -2]]
    return [made.response_per_keV, made.above(edges, made.energies_keV.sort().values)]


def write_pairs_file(path: Path) -> None:
    """Pairs of events of three photon energies."""
    pairs = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    borders = torch.arange(10.0, 60.0, 10.0, dtype=torch.float64)
    write_pairs(path, Pairs(ENERGIES[:3], borders, pairs + pairs.mT))


def write_spectrum(path: Path) -> None:
    """Two columns with a title line, a common format of exported spectra."""
    fluence = (ENERGIES - 10) * (121 - ENERGIES)
    rows = [f"{e:g},{f:g}" for e, f in zip(ENERGIES.tolist(), fluence.tolist(), strict=True)]
    path.write_text("\n".join(["Energy [keV],Fluence", *rows]) + "\n", encoding="utf-8")


def read_spectrum(path: Path) -> list[Tensor]:
    """The energies and fluence of a spectrum."""
    tube = Spectrum(path, photons_per_pixel=1e5)
    return [tube.energies_keV, tube.fluence]


def write_checkpoint(path: Path) -> None:
    """A small network."""
    torch.manual_seed(1)
    spectral_model = model()
    network = ScatterNetwork(GEOMETRY, spectral_model, channels=(4, 4), grid=(2, 3))
    save_correction(path, network, GEOMETRY, spectral_model)


def read_checkpoint(path: Path) -> list[Tensor]:
    """The scattered fraction that a checkpoint's network predicts for air counts."""
    spectral_model = model()
    correction = SavedCorrection(path)(GEOMETRY, spectral_model)
    air = spectral_model.air().detach().to(torch.get_default_dtype())
    with torch.no_grad():
        return [correction(air[:, None, None, None].expand(-1, 1, 4, 5)[None])]


def write_yaml(path: Path) -> None:
    """A resolved configuration."""
    content = {
        "physics": {"materials": ["water", "calcium"], "thresholds": {"edges_keV": EDGES}},
        "words": ["experiment=scatter_direct", "seed=1"],
        "seed": 1,
        "folder": None,
        "noise": True,
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def read_configuration(path: Path) -> list[Tensor]:
    """Read the overrides of a run as a comparison does; they hold no numbers."""
    read_yaml(path, "a configuration", "write it again")
    return []


SOURCES = {
    source.name: source
    for source in (
        Source("scan.h5", write_scan_file, read_scan_file),
        Source("row.h5", write_row_file, read_scan_file),
        Source("head.nii", write_nifti, lambda path: read_nifti(path).hounsfield),
        Source("head.nii.gz", write_nifti, lambda path: read_nifti(path).hounsfield),
        Source("dicom", write_dicom, lambda path: read_dicom_series(path).hounsfield),
        Source("response.npz", write_response_npz, read_response),
        Source("response.mat", lambda path: savemat(path, response_arrays()), read_response),
        Source("response.csv", write_response_csv, read_response),
        Source("pairs.npz", write_pairs_file, lambda path: Pairs.from_file(path).pairs_per_photon),
        Source("spectrum.csv", write_spectrum, read_spectrum),
        Source("best.ckpt", write_checkpoint, read_checkpoint),
        Source("overrides.yaml", write_yaml, read_configuration),
    )
}


def numbers_in(found: Any) -> Iterator[Tensor]:
    """All tensors in the return value of a reader."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, ScanRecord):
        yield from numbers_in(list(vars(found).values()))
    elif isinstance(found, list | tuple):
        for member in found:
            yield from numbers_in(member)


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def write_payload(path: Path, marker: Path, generator: np.random.Generator) -> None:
    """Write a file, in its own format or as a pickle, that runs code when it is unpickled."""
    payload = Payload(marker)
    objects = np.empty(1, object)
    objects[0] = payload
    suffix = path.suffix
    if suffix == ".npz" and generator.random() < 0.7:
        np.savez(path, energies_keV=objects, deposited_keV=objects, response_per_keV=objects)
    elif suffix == ".ckpt" and generator.random() < 0.7:
        torch.save({"correction": payload, "state_dict": {"chain.correct.x": payload}}, path)
    elif suffix in (".yaml", ".h5"):
        path.write_text(f"!!python/object/apply:pathlib.Path.touch ['{marker}']", encoding="utf-8")
    else:
        path.write_bytes(pickle.dumps(payload))
