"""Faults of fan and parallel beams; lengths in another unit than cm raise a warning."""

import re
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
import torch
from support.scan_files import BEAM, FAN, PARALLEL, change, label, one_row, store, unlabel

from pcctlearn.scans.file import faults, read_scan, write_scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.validation.lengths import attenuation_doubts, length_doubts
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import ParallelBeam
from pcctlearn.tomography.grids import VolumeGrid

CLINICAL = ConeBeam(12, 16, 24, 0.8, 62.5, 109.7)
BENCH = ParallelBeam(240, 150, 0.05)
MICRO = ConeBeam(12, 16, 24, 0.005, 4.0, 20.0)


def scaled(beam, factor):
    """The scanner with all lengths multiplied."""
    lengths = {f.name for f in fields(beam) if f.name.endswith("_cm")}
    new = {name: factor * getattr(beam, name) for name in lengths}
    return replace(beam, **new)


@pytest.mark.parametrize("beam", [CLINICAL, MICRO, BEAM, FAN, PARALLEL, BENCH])
def test_scanners_in_cm_raise_no_warning(beam):
    assert length_doubts(beam) == []


@pytest.mark.parametrize(
    ("beam", "factor", "remedy"),
    [
        (CLINICAL, 10, "by 10,"),
        (CLINICAL, 0.01, "by 100,"),
        (FAN, 0.1, "by 100,"),
        (PARALLEL, 10, "by 10,"),
        (BENCH, 10, "by 10,"),
        (BENCH, 0.01, "by 100,"),
    ],
)
def test_other_units_raise_a_warning_that_the_remedy_removes(beam, factor, remedy):
    wrong = scaled(beam, factor)
    (doubt,) = length_doubts(wrong)
    assert remedy in doubt
    assert length_doubts(scaled(wrong, 1 / factor)) == []


NARROW = ParallelBeam(90, 64, 0.1)  # 6 cm wide


def disc(beam, diameter_cm, per_cm, photons=1e4, offset_cm=0.5):
    """Counts and air of a disc off the axis, in one bin."""
    views = np.arange(beam.n_views) * np.pi / beam.n_views
    x = (np.arange(beam.n_columns) - (beam.n_columns - 1) / 2) * beam.pixel_cm
    chord = diameter_cm**2 - 4 * (x - offset_cm * np.cos(views)[:, None]) ** 2
    p = per_cm * np.sqrt(chord.clip(0))
    air = np.full((1, 1, beam.n_columns), photons)
    counts = np.random.default_rng(0).poisson(photons * np.exp(-p))[None, :, None]
    return counts.astype(np.float32), air


@pytest.mark.parametrize("photons", [300.0, 1e6])
@pytest.mark.parametrize("per_cm", [0.16, 0.25, 1.0])
@pytest.mark.parametrize("diameter_cm", [1.0, 5.0])
def test_a_narrow_parallel_detector_in_mm_is_found_by_the_attenuation(photons, per_cm, diameter_cm):
    """Water from 120 to 45 keV, and aluminium, which even a tenth of is not like foam."""
    counts, air = disc(NARROW, diameter_cm, per_cm, photons)
    assert attenuation_doubts(NARROW, counts, air) == []
    wrong = scaled(NARROW, 10)
    assert length_doubts(replace(wrong, n_columns=60)) == []
    doubts = attenuation_doubts(wrong, counts, air)
    assert ["by 10" in doubt for doubt in doubts] == [True] * (per_cm < 0.5)


@pytest.mark.parametrize("counted", ["bins", "above"])
def test_the_attenuation_is_compared_when_a_file_is_read(tmp_path, counted):
    counts, air = disc(NARROW, 4.0, 0.2)
    share = np.array([2.0, 1.0]) if counted == "above" else np.array([1.0, 1.0])
    edges = torch.tensor([20.0, 60.0, 120.0], dtype=torch.float64)
    for factor, n_doubts in ((1, 0), (5, 1), (100, 1)):
        grid = VolumeGrid(1, 64, 64, 0.1 * factor)
        scan = ScanRecord("disc", scaled(NARROW, factor), grid, edges, *tensors(share, air, counts))
        write_scan(tmp_path / "scan.h5", scan)
        with h5py.File(tmp_path / "scan.h5", "r+") as file:
            file.attrs["counted"] = counted
        doubts = [doubt for doubt in read_scan(tmp_path / "scan.h5").doubts if "by 10" in doubt]
        assert len(doubts) == n_doubts


def tensors(share, air, counts):
    """Air and counts of bins that have these shares of one bin."""
    return (
        torch.from_numpy(share[:, None, None] * air),
        torch.from_numpy((share[:, None, None, None] * counts).astype(np.float32)),
    )


@pytest.mark.parametrize("diameter_cm", [0.0, 30.0])
def test_attenuation_needs_an_object_within_the_detector(diameter_cm):
    wrong = scaled(NARROW, 10)
    counts, air = disc(NARROW, diameter_cm, 0.2)
    assert attenuation_doubts(wrong, counts, air) == []


def rows(file):
    """Two rows of pixels."""
    for name in ("counts", "air"):
        store(file, name, np.repeat(file[name][()], 2, -2))


ANGLES = "geometry/measured_angles_rad"
WRONG = {
    "rows": (FAN, rows, "counts 2 rows fan parallel each"),
    "slices": (FAN, label("geometry/volume", n_z=3), "geometry: FanBeam slice 3 n_z"),
    "of a panel": (FAN, label("geometry", n_rows=1), "n_rows geometry cone leave"),
    "axis of a parallel beam": (
        PARALLEL,
        label("geometry", axis_offset_cm=0.3),
        "axis_offset_cm geometry cone fan offset_cm",
    ),
    "pixels of a panel": (FAN, label("geometry", pixel_cm=(0.5, 0.6)), "pixel_cm geometry number"),
    "source of a parallel beam": (
        PARALLEL,
        label("geometry", source_to_axis_cm=5.0),
        "source_to_axis_cm geometry cone fan leave",
    ),
    "arc": (PARALLEL, label("geometry", arc_rad=2.0), "geometry: arc_rad parallel 3.14"),
    "angles": (
        PARALLEL,
        lambda file: file.create_dataset(ANGLES, data=[0, 1, 2, 3, 4, 4.0]).attrs.update(
            unit="rad"
        ),
        "geometry: view_angles_rad twice",
    ),
    "source": (FAN, label("geometry", source_to_axis_cm=0.2), "geometry: source_to_axis_cm 0.2"),
}


def moved_axis(file):
    attributes = file["geometry"].attrs
    attributes["offset_cm"] -= attributes["axis_offset_cm"]
    del attributes["axis_offset_cm"]


def first_row(file):
    for name in ("counts", "air"):
        store(file, name, file[name][..., :1, :])


def nearest_arc(fault):
    return label("geometry", arc_rad=float(re.search(r"nearest is ([\d.]+)", fault).group(1)))


MENDED = {  # the remedy, as a function of the file or of the sentence
    "rows": lambda fault: first_row,
    "slices": lambda fault: label("geometry/volume", n_z=1),
    "of a panel": lambda fault: unlabel("geometry", "n_rows"),
    "pixels of a panel": lambda fault: label("geometry", pixel_cm=0.6),
    "axis of a parallel beam": lambda fault: moved_axis,
    "source of a parallel beam": lambda fault: unlabel("geometry", "source_to_axis_cm"),
    "arc": nearest_arc,
}


@pytest.mark.parametrize("case", MENDED)
def test_the_remedy_mends_the_file(case, tmp_path):
    geometry, spoil, words = WRONG[case]
    path = tmp_path / "scan.h5"
    write_scan(path, one_row(geometry))
    change(path, spoil)
    (fault,) = [f for f in faults(path) if all(word in f for word in words.split())][:1]
    change(path, MENDED[case](fault))
    assert faults(path) == []


@pytest.mark.parametrize("case", WRONG)
def test_a_fault_of_a_fan_or_parallel_beam_is_named_with_its_remedy(case, tmp_path):
    geometry, spoil, words = WRONG[case]
    path = tmp_path / "scan.h5"
    write_scan(path, one_row(geometry))
    change(path, spoil)
    found = faults(path)
    assert any(all(word in fault for word in words.split()) for fault in found), found


def test_a_cone_beam_that_is_said_to_be_a_fan(whole, tmp_path):
    path = tmp_path / "scan.h5"
    path.write_bytes(whole.read_bytes())
    change(path, label("geometry", beam="fan"))
    found = faults(path)
    assert any("n_rows" in fault for fault in found)
    assert any("counts has 4 rows" in fault and "'cone'" in fault for fault in found)


def test_a_written_file_names_its_beam(tmp_path):
    for name, geometry in (("fan", FAN), ("parallel", PARALLEL)):
        write_scan(tmp_path / f"{name}.h5", one_row(geometry))
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert file["geometry"].attrs["beam"] == name
            assert file["counts"].shape == (2, 6, 1, 5)
