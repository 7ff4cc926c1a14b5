"""What is wrong with a scan file is said, with its remedy, one sentence each."""

import re

import h5py
import numpy as np
import pytest
import torch
from support.frames import WRONG_FRAMES
from support.scan_files import (
    ANGLES,
    N_BINS,
    as_dataset,
    as_group,
    change,
    drop,
    edit,
    everything_one,
    label,
    logarithms,
    reversed_axes,
    scaled,
    sliced,
    store,
    unlabel,
)

from pcctlearn.scans import schema as scan_schema
from pcctlearn.scans.file import faults, read_scan
from pcctlearn.scans.schema import ARRAYS, MAPS_GRID, blocks


def without_grids(file):
    del file["geometry/volume"]
    for name in MAPS_GRID:
        del file["maps"].attrs[name]


IN_FILE = {
    "no schema": (unlabel("/", "schema"), "schema must be 'pcctlearn scan', got 'nothing': set it"),
    "another schema": (label("/", schema="mine"), "'pcctlearn scan', got 'mine': set it"),
    "no version": (unlabel("/", "schema_version"), "schema_version is missing: write 1"),
    "version in words": (label("/", schema_version="one"), "schema_version must be a whole number"),
    "newer": (label("/", schema_version=2), "schema_version is 2, .* reads 1: update pcctlearn"),
    "older": (label("/", schema_version=0), "schema_version is 0, .*: write the file again"),
    "no name": (unlabel("/", "name"), "name is missing: say in a few words"),
    "seed": (label("/", seed=1.5), "seed must be a whole number, .* got 1.5: write it as one"),
    "factor": (
        label("/", grid_transmission=-1.0),
        "grid_transmission must be a number, not negative",
    ),
    "no counts": (
        drop("counts"),
        "counts is missing: add it, axes bin view row column, in photons",
    ),
    "no air": (drop("air"), "air is missing: add it, axes bin row column"),
    "no thresholds": (
        drop("thresholds_keV"),
        "thresholds_keV is missing: add it, axes edge, or as",
    ),
    "half a spectrum": (drop("spectrum/fluence"), "spectrum/fluence is missing beside the others"),
    "half a response": (
        drop("response/deposited_keV"),
        "deposited_keV is missing beside the other",
    ),
    "misspelt": (
        lambda f: f.move("counts", "Counts"),
        "Counts is no name .* counts is absent: rename",
    ),
    "no geometry": (drop("geometry"), "the group geometry is missing: add it"),
    "maps without a grid": (without_grids, "the grid of maps is unknown: add geometry/volume"),
    "group for dataset": (as_group("air"), "air must be a dataset, got a group: store one array"),
    "dataset for group": (as_dataset("spectrum"), "spectrum must be a group, got a dataset: store"),
    "text": (
        lambda f: store(f, "counts", ["many"]),
        "counts holds object, not numbers: .* float32",
    ),
    "complex": (scaled("maps", 1j), "maps holds complex.*, not numbers: write it as float32"),
    "axes": (
        sliced("counts", 0),
        r"counts has 3 axes, shape \(6, 4, 5\): store it with axes bin v",
    ),
    "empty": (
        sliced("skew_cm", slice(0)),
        r"skew_cm is empty, shape \(0, 4, 5\): fill it, or leave",
    ),
    "no unit": (unlabel("air", "unit"), "air has no attribute unit: set it to 'photons'"),
    "eV": (
        label("thresholds_keV", unit="eV"),
        "unit of thresholds_keV must be 'keV', not 'eV': divide by 1000",
    ),
    "mm": (label("skew_cm", unit="mm"), "unit of skew_cm must be 'cm', not 'mm': divide by 10 and"),
    "degrees": (
        label("geometry/measured_angles_rad", unit="deg"),
        "measured_angles_rad must be 'rad', not 'deg': multiply by π / 180",
    ),
    "mg/ml": (label("maps", unit="mg/ml"), "maps must be 'g/cm3', not 'mg/ml': divide by 1000"),
    "odd unit": (label("counts", unit="mA"), "counts must be 'photons', not 'mA': convert the val"),
    "columns": (
        sliced("air", ..., slice(4)),
        "air has 4 along its axis column, counts 5: store both of the same scan",
    ),
    "transposed": (
        reversed_axes("counts"),
        r"counts has shape \(5, 4, 6, 2\), .* row column would be \(2, 6, 4, 5\): transpose it",
    ),
    "views": (
        sliced("scatter", slice(None), slice(5)),
        "scatter has 5 along its axis view, counts 6",
    ),
    "bins": (sliced("primary", slice(1)), "primary has 1 along its axis bin, counts 2"),
    "geometry rows": (
        label("geometry", n_rows=9),
        r"geometry \(n_rows\) has 9 .* row, counts 4: st",
    ),
    "maps of a grid": (
        lambda file: [unlabel("maps", n)(file) for n in ("voxel_cm", "center_cm")],
        r"volume \(n_z\) has 3 along its axis z, maps 2: .* need the attributes voxel_cm and cent",
    ),
    "half a grid": (unlabel("maps", "center_cm"), "maps have one of the attributes .*: give both"),
    "odd grid": (label("maps", voxel_cm=-0.1), "the grid of maps: voxel_cm must be positive"),
    "materials of maps": (
        sliced("maps", slice(2)),
        "maps has 2 along its axis material, line_integrals 3: st",
    ),
    "energies": (
        sliced("spectrum/fluence", slice(9)),
        "fluence has 9 along .* spectrum energy, spec",
    ),
    "few edges": (
        sliced("thresholds_keV", slice(2)),
        "thresholds_keV has 2 edges for the 2 bins of counts: list one edge more",
    ),
    "NaN": (
        edit("primary", (1, 4, 2, 3), np.nan),
        "primary: 1 of 240 values, the first at bin 1, view 4, row 2, column 3, are NaN: store",
    ),
    "infinite": (
        edit("maps", (0, 1, 2, 3), np.inf),
        "maps: 1 of 72 .* x 3, are infinite: store the values of maps in g/cm3",
    ),
    "negative": (
        edit("counts", (0, slice(2, 4), 1, 1), -3),
        "counts: 2 of 240 values, the first at bin 0, view 2, row 1, column 1, are negative: is an",
    ),
    "falling": (
        edit("thresholds_keV", 1, 10.0),
        r"thresholds_keV must increase along its axis edge, got \[20.0, 10.0, 120.0\]: list it",
    ),
    "falling whole numbers": (
        lambda file: store(file, "thresholds_keV", np.array([20, 10, 120], np.uint8)),
        r"thresholds_keV must increase along its axis edge, got \[20.0, 10.0, 120.0\]: list it",
    ),
    "falling in a pixel": (
        edit("true_thresholds_keV", (2, 2, 1), 10.0),
        "true_thresholds_keV must increase along its axis edge, .*: list it from the lowest",
    ),
    "more than air": (
        scaled("counts", 10.0),
        "counts exceed air: .* in the bins of the brightest rays; store dark-corr",
    ),
    "scatter of another scale": (
        scaled("scatter", 1000.0),
        "counts are 0.00.* times primary and scatter together: store the expected photons",
    ),
    "transmissions": (everything_one, "air is 1 everywhere: are counts transmissions.*in photons"),
    "logarithms": (
        logarithms,
        "counts are at most 3.3 and not whole, air .* logarithms.*in photons",
    ),
    "absent parameter": (
        unlabel("geometry", "pixel_cm"),
        "geometry has no attribute pixel_cm: add",
    ),
    "unknown parameter": (
        label("geometry", offset_mm=3.0),
        "unknown attribute offset_mm of geometry: did you mean offset_cm",
    ),
    "unknown to the volume": (
        label("geometry/volume", kind=1),
        "unknown attribute kind of geometry/volume: accepted: n_z",
    ),
    "parameter in words": (
        label("geometry", source_to_axis_cm="far"),
        "source_to_axis_cm of geometry must be 1 number.*, got 'far'",
    ),
    "parameters": (
        label("geometry", pixel_cm=np.ones(3)),
        r"pixel_cm of geometry must be 1 or 2 num",
    ),
    "impossible": (
        label("geometry", source_to_axis_cm=1.0),
        "geometry: source_to_axis_cm must exceed 1.* got 1.0",
    ),
    "infinitely many": (
        label("geometry", n_rows=np.inf),
        "n_rows of geometry must be a whole number, got inf: coun",
    ),
    "angles": (
        edit("geometry/measured_angles_rad", 1, ANGLES[0]),
        "geometry: .* a view twice.*: dro",
    ),
    "unknown material": (
        label("maps", materials=["watr", "Ca", "I"]),
        "the attribute materials of maps: unknown material 'watr': did you mean 'water'",
    ),
    "too few materials": (
        label("skew_cm", materials=["tin"]),
        r"skew_cm must name 2, got \['tin'\]",
    ),
    "filter of no density": (
        label("skew_cm", materials=["tin", "Pb"]),
        "materials of skew_cm: no density is known for 'Pb': use one of",
    ),
    "two bases": (
        label("maps", materials=["water", "Ca", "I"]),
        "line_integrals are of .* maps of .*: give both the same materials",
    ),
    "other energies": (
        edit("response/energies_keV", 5, 33.0),
        "do not fit together: response and spectrum are on different grids: .* 32.5 keV .*: re",
    ),
    "uncovered": (
        edit("thresholds_keV", 0, 11.0),
        "do not fit together: energies from 12.5 .* lower",
    ),
    "uneven table": (
        edit("response/deposited_keV", 0, 1.0),
        "fit together: deposited_keV must incr",
    ),
}


@pytest.mark.parametrize("case", IN_FILE)
def test_what_is_wrong_is_named_with_its_remedy(copy, case):
    what, sentence = IN_FILE[case]
    change(copy, what)
    found = faults(copy)
    assert any(re.search(sentence, fault) for fault in found), found
    rest = f" ({len(found) - 1} more: python -m pcctlearn check {copy})"
    with pytest.raises(ValueError, match=re.escape(found[0])) as raised:
        read_scan(copy)
    assert str(raised.value) == f"{copy}: {found[0]}" + (rest if len(found) > 1 else "")


@pytest.mark.parametrize(
    "case", ["no unit", "eV", "mm", "columns", "transposed", "few edges", "NaN", "impossible"]
)
def test_one_thing_wrong_is_told_once(copy, case):
    change(copy, IN_FILE[case][0])
    assert len(faults(copy)) == 1


def test_large_arrays_are_looked_at_in_blocks(copy, monkeypatch):
    monkeypatch.setattr(scan_schema, "_BLOCK_BYTES", 2 * 4 * N_BINS * 4 * 5)
    with h5py.File(copy) as file:
        assert [(start, len(values[0])) for start, values in blocks(file["counts"])] == [
            (0, 2),
            (2, 2),
            (4, 2),
        ]
    change(copy, edit("counts", (slice(None), slice(3, 6), 2, 3), np.inf))
    assert "counts: 6 of 240 values, the first at bin 0, view 3, row 2, column 3" in faults(copy)[0]


def test_all_faults_are_found(copy):
    independent = ("no name", "no unit", "NaN", "mm", "unknown material", "impossible")
    for case in independent:
        change(copy, IN_FILE[case][0])
    found = faults(copy)
    for case in independent:
        assert any(re.search(IN_FILE[case][1], fault) for fault in found), case


@pytest.mark.parametrize(
    "harmless",
    [
        lambda file: store(file, "counts", file["counts"][()].astype("uint16")),
        lambda file: store(file, "air", file["air"][()].astype(">f8")),
        scaled("counts", 0.9),
        label("/", name=np.bytes_("ASCII"), schema=np.array(["pcctlearn scan"], dtype="S")),
        label("geometry", CLASS="GROUP", n_views=6.0, source_to_axis_cm=np.array([5.0])),
        lambda file: file.create_dataset("notes", data="my own"),
    ],
)
def test_what_other_programs_write(copy, harmless):
    change(copy, harmless)
    assert faults(copy) == []
    assert read_scan(copy).at("counts").dtype == torch.float32


def test_a_missing_file(tmp_path):
    assert faults(tmp_path / "none.h5") == ["there is no such file: check its name and folder"]
    with pytest.raises(FileNotFoundError, match=r"no scan at .*none.h5: check its name"):
        read_scan(tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: data[: len(data) // 2], "the file is truncated: copy or download it again"),
        (lambda data: b"bin,view,row,column\n" * 50, "it is no HDF5 file: write it as docs/scan"),
        (lambda data: b"", "it is no HDF5 file|truncated"),
    ],
)
def test_a_file_that_is_no_hdf5(copy, spoil, sentence):
    copy.write_bytes(spoil(copy.read_bytes()))
    assert re.search(sentence, faults(copy)[0])
    with pytest.raises(ValueError, match=f"mine.h5: .*({sentence})"):
        read_scan(copy)


def test_damaged_bytes(copy):
    with h5py.File(copy) as file:
        place = file["counts"].id.get_chunk_info(3)
    data = bytearray(copy.read_bytes())
    data[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    copy.write_bytes(data)
    assert re.search(
        r"counts cannot be read .*: the file is damaged, copy it again", faults(copy)[0]
    )


@pytest.mark.parametrize("text", ["a\x1b[31m\nb", "x" * 100_000, "\u202e\r\x07"])
@pytest.mark.parametrize(
    "place",
    [
        lambda file, text: file.attrs.__setitem__("schema", text),
        lambda file, text: file["counts"].attrs.__setitem__("unit", text),
        lambda file, text: file["geometry"].attrs.__setitem__(text, 1.0),
        lambda file, text: file["geometry"].attrs.__setitem__("pixel_cm", text),
        lambda file, text: file["maps"].attrs.__setitem__("materials", [text] * 3),
        lambda file, text: file["maps"].attrs.__setitem__("materials", [text]),
        lambda file, text: file.attrs.__setitem__("seed", text),
    ],
)
def test_text_of_a_file_stays_in_its_line(copy, place, text):
    if len(text) > 60_000:
        text = text[:60_000]
    change(copy, lambda file: place(file, text))
    found = faults(copy)
    assert found
    assert all(fault.isprintable() and len(fault) < 700 for fault in found)


IN_RANGE = {
    "thresholds in eV": (scaled("thresholds_keV", 1000.0), "thresholds_keV goes to 120000 keV: is"),
    "thresholds in MeV": (scaled("thresholds_keV", 1e-3), "goes to 0.12 keV: is it in MeV?"),
    "energies in eV": (
        scaled("spectrum/energies_keV", 1e3),
        "spectrum/energies_keV goes to 120500 keV",
    ),
    "angles in degrees": (
        scaled("geometry/measured_angles_rad", 180 / np.pi),
        "measured_angles_rad goes to 326.586 rad: is it in degrees",
    ),
    "maps in mg/cm3": (scaled("maps", 1000.0), "maps goes to .* g/cm3: is it in mg/cm3"),
    "events": (scaled("response/response_per_keV", 1e3), "registers at most .* events per photon"),
    "fluence": (scaled("spectrum/fluence", -1.0), "spectrum/fluence: 28 of 28 values, .* negative"),
    "inf threshold": (edit("thresholds_keV", 2, np.inf), "are infinite: store the values of thr"),
    "NaN spectrum": (edit("spectrum/fluence", 3, np.nan), "are NaN: store the values of spectrum"),
}


@pytest.mark.parametrize("case", IN_RANGE)
def test_magnitudes_that_no_scan_has(copy, case):
    what, sentence = IN_RANGE[case]
    change(copy, what)
    found = faults(copy)
    assert any(re.search(sentence, fault) for fault in found), found
    assert not any("dead pixel" in fault for fault in found)


@pytest.mark.parametrize("name", [n for n in ARRAYS if n != "scanner_to_patient"])
def test_values_that_float32_cannot_hold(copy, name):
    def spoil(file):
        values = file[name][()].astype("float64")
        values.flat[-1] = 1e300
        store(file, name, values)

    change(copy, spoil)
    found = faults(copy)
    assert any(f"{name}: 1 of" in f and "beyond the range of float32" in f for f in found), found


@pytest.mark.parametrize("kind", WRONG_FRAMES)
def test_a_scanner_that_is_nowhere_in_the_patient(kind, copy):
    frame, words = WRONG_FRAMES[kind]
    change(copy, lambda file: store(file, "scanner_to_patient", frame))
    (fault,) = faults(copy)
    assert "scanner_to_patient" in fault
    assert kind == "nan" or re.search(words, fault)  # values that are not finite are found before
