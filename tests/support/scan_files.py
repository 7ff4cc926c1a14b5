"""Scans for files with all arrays or only those needed, and changes to such files."""

from dataclasses import replace

import h5py
import numpy as np
import torch
from support.scanners import silicon

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scans.record import ResponseRecord, ScanRecord, SpectrumRecord
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import VolumeGrid

ENERGIES = torch.arange(12.5, 121.0, 4.0, dtype=torch.float64)
VOLUME = VolumeGrid(3, 4, 5, (0.45, 0.3, 0.4), center_cm=(0.3, 0.1, -0.2))
ANGLES = (0.1, 1.2, 2.4, 3.5, 4.9, 5.7)
BEAM = ConeBeam(
    6, 4, 5, (0.55, 0.6), 5.0, 8.0, offset_cm=-0.2, row_offset_cm=0.3, axis_offset_cm=0.15,
    view_angles_rad=ANGLES,
)  # fmt: skip
FAN = FanBeam(6, 5, 0.6, 5.0, 8.0, offset_cm=-0.2, view_angles_rad=ANGLES)
PARALLEL = ParallelBeam(6, 5, 0.6, offset_cm=0.1)
N_BINS = 2


def recorded() -> ScanRecord:
    """A scan with all fields, and with axes of different lengths wherever possible."""
    generator = torch.Generator().manual_seed(1)

    def some(*shape, dtype=torch.float32):
        return torch.rand(*shape, generator=generator, dtype=dtype) + 0.5

    views, pixels = (N_BINS, *BEAM.shape), BEAM.shape[1:]
    table = Table.sampled(silicon(), ENERGIES, step_keV=5.0)
    edges = torch.tensor([20.0, 55.0, 120.0], dtype=torch.float64)
    fluence = 100 * some(len(ENERGIES), dtype=torch.float64)
    model = SpectralModel(
        ENERGIES, fluence, table, Thresholds(edges), attenuation_table(["water"], ENERGIES)
    )
    air = model.air().detach().float()[:, None, None] * (0.5 + 0.5 * some(1, *pixels))
    transmission = torch.tensor([1.0, 0.5, 0.3, 0.5, 1.0], dtype=torch.float32) * (
        0.9 + 0.1 * some(*views)
    )
    expected = air[:, None] * transmission
    return ScanRecord(
        name="all there is",
        geometry=BEAM,
        grid=VOLUME,
        thresholds_keV=edges,
        air=air,
        counts=torch.poisson(expected, generator),
        exposure=torch.linspace(0.99, 1.01, len(ANGLES), dtype=torch.float64),
        primary=0.8 * expected,
        scatter=0.2 * expected,
        scatter_standard_error=some(*views),
        line_integrals=some(3, *BEAM.shape) - 1,
        maps=some(3, 2, 3, 4),
        maps_grid=VolumeGrid(2, 3, 4, 0.1, center_cm=(0.1, 0.0, 0.2)),
        materials=("water", "calcium", "C5H8O2"),
        true_thresholds_keV=edges + some(*pixels, 1, dtype=torch.float64),
        skew_cm=some(2, *pixels, dtype=torch.float64),
        filter_materials=("aluminium", "tin"),
        scanner_to_patient=torch.tensor(
            [[-1.25, 0, 0, 3], [0, 1.25, 0, -12], [0, 0, 1.25, 40], [0, 0, 0, 1]],
            dtype=torch.float64,
        ),
        spectrum=SpectrumRecord(ENERGIES, fluence),
        response=ResponseRecord(ENERGIES, table.deposited_keV, table.response_per_keV),
        seed=2**63 + 1,
        grid_transmission=1.5,
        config="physics:\n  response: silicon\n",
        software="a test",
    )


def small() -> ScanRecord:
    """A scan with only the fields that a file needs."""
    scan = recorded()
    return ScanRecord("small", BEAM, VOLUME, scan.thresholds_keV, scan.air, scan.counts)


def one_row(geometry: Geometry) -> ScanRecord:
    """The second row of ``recorded`` as a scan with a fan or parallel beam."""
    scan, row = recorded(), slice(1, 2)
    views = ("counts", "primary", "scatter", "scatter_standard_error", "line_integrals")
    rows = {name: scan.at(name)[:, :, row] for name in views}
    return replace(
        scan,
        geometry=geometry,
        grid=VolumeGrid(1, 4, 5, (0.45, 0.3, 0.4), center_cm=(0.3, 0.1, -0.2)),
        air=scan.air[:, row],
        true_thresholds_keV=scan.at("true_thresholds_keV")[row],
        skew_cm=scan.at("skew_cm")[:, row],
        **rows,
    )


def change(path, what):
    with h5py.File(path, "r+") as file:
        what(file)


def store(file, name, values):
    """Replace the values of a dataset; its attributes remain."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=values).attrs.update(attributes)


def scaled(name, factor):
    return lambda file: store(file, name, file[name][()] * factor)


def sliced(name, *index):
    return lambda file: store(file, name, file[name][index])


def label(name, /, **attributes):
    return lambda file: file[name].attrs.update(attributes)


def unlabel(name, attribute):
    return lambda file: file[name].attrs.__delitem__(attribute)


def edit(name, index, value):
    return lambda file: file[name].__setitem__(index, value)


def drop(name):
    return lambda file: file.__delitem__(name)


def reversed_axes(name):
    return lambda file: store(file, name, file[name][()].T)


def replaced(name, value):
    def change_it(file):
        del file[name]
        file[name] = value

    return change_it


def as_group(name):
    def change_it(file):
        del file[name]
        file.create_group(name)

    return change_it


def everything_one(file):
    store(file, "air", np.ones(file["air"].shape, np.float32))
    store(file, "counts", file["counts"][()] / 1000)


def logarithms(file):
    store(file, "air", file["air"][()] * 1e3)
    store(file, "counts", np.full(file["counts"].shape, 3.3, np.float32))
