"""Each fault of a scan file is reported in one sentence with its remedy."""

import re

import h5py
import numpy as np
import pytest
import torch
from support.frames import WRONG_FRAMES
from support.scan_files import (
    ANGLES,
    N_BINS,
    as_group,
    change,
    drop,
    edit,
    everything_one,
    label,
    logarithms,
    replaced,
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


# what is done to the file, and the words that its fault must have: names, values and remedy
IN_FILE = {
    "no schema": (unlabel("/", "schema"), "schema 'nothing' set"),
    "another schema": (label("/", schema="mine"), "schema 'mine' set"),
    "no version": (unlabel("/", "schema_version"), "schema_version missing 2"),
    "version in words": (label("/", schema_version="one"), "schema_version 'one' whole"),
    "newer": (label("/", schema_version=3), "schema_version 3 update"),
    "older": (label("/", schema_version=0), "schema_version 0 write"),
    "not counted": (unlabel("/", "counted"), "counted 'bins' 'above' missing set"),
    "counted otherwise": (label("/", counted="both"), "counted 'bins' 'above' 'both' set"),
    "no beam": (unlabel("geometry", "beam"), "beam geometry 'cone' 'fan' 'parallel' missing"),
    "another beam": (label("geometry", beam="spiral"), "beam geometry 'cone' 'spiral' set"),
    "no name": (unlabel("/", "name"), "name missing"),
    "seed": (label("/", seed=1.5), "seed 1.5 whole"),
    "negative factor": (label("/", grid_transmission=-1.0), "grid_transmission -1.0 negative"),
    "no counts": (drop("counts"), "counts missing bin view row column photons"),
    "no air": (drop("air"), "air missing bin row column photons"),
    "monitor readings": (scaled("exposure", 1e5), "exposure 9.9e+04 view 0 monitor about 1"),
    "no thresholds": (drop("thresholds_keV"), "thresholds_keV missing edge keV"),
    "half a spectrum": (drop("spectrum/fluence"), "spectrum/fluence missing others"),
    "half a response": (drop("response/deposited_keV"), "response/deposited_keV missing others"),
    "misspelt": (lambda file: file.move("counts", "Counts"), "Counts counts rename"),
    "no geometry": (drop("geometry"), "geometry missing ConeBeam"),
    "maps without a grid": (without_grids, "maps geometry/volume voxel_cm center_cm"),
    "group for dataset": (as_group("air"), "air dataset group"),
    "dataset for group": (replaced("spectrum", np.ones(3)), "spectrum group dataset"),
    "data type for group": (replaced("geometry", np.dtype("f4")), "geometry group type"),
    "text": (lambda file: store(file, "counts", ["many"]), "counts object float32"),
    "complex": (scaled("maps", 1j), "maps complex float32"),
    "axes": (sliced("counts", 0), "counts 3 (6, 4, 5) bin view row column"),
    "empty": (sliced("skew_cm", slice(0)), "skew_cm empty (0, 4, 5)"),
    "no unit": (unlabel("air", "unit"), "air unit 'photons'"),
    "eV": (label("thresholds_keV", unit="eV"), "thresholds_keV 'keV' 'eV' divide 1000"),
    "mm": (label("skew_cm", unit="mm"), "skew_cm 'cm' 'mm' divide 10"),
    "degrees": (
        label("geometry/measured_angles_rad", unit="deg"),
        "geometry/measured_angles_rad 'rad' 'deg' multiply π 180",
    ),
    "mg/ml": (label("maps", unit="mg/ml"), "maps 'g/cm3' 'mg/ml' divide 1000"),
    "odd unit": (label("counts", unit="mA"), "counts 'photons' 'mA' convert"),
    "columns": (sliced("air", ..., slice(4)), "air 4 column counts 5"),
    "transposed": (reversed_axes("counts"), "counts (5, 4, 6, 2) (2, 6, 4, 5) transpose"),
    "views": (sliced("scatter", slice(None), slice(5)), "scatter 5 view counts 6"),
    "bins": (sliced("primary", slice(1)), "primary 1 bin counts 2"),
    "geometry rows": (label("geometry", n_rows=9), "geometry (n_rows) 9 row counts 4"),
    "maps of a grid": (
        lambda file: [unlabel("maps", name)(file) for name in MAPS_GRID],
        "geometry/volume (n_z) 3 z maps 2 voxel_cm center_cm",
    ),
    "half a grid": (unlabel("maps", "center_cm"), "maps voxel_cm center_cm both"),
    "odd grid": (label("maps", voxel_cm=-0.1), "maps voxel_cm -0.1"),
    "materials of maps": (sliced("maps", slice(2)), "maps 2 material line_integrals 3"),
    "energies": (sliced("spectrum/fluence", slice(9)), "spectrum/fluence 9 energy 28"),
    "few edges": (sliced("thresholds_keV", slice(2)), "thresholds_keV 2 edges bins counts upper"),
    "NaN": (
        edit("primary", (1, 4, 2, 3), np.nan),
        "primary: 240 bin 1, view 4, row 2, column 3, NaN photons",
    ),
    "infinite": (edit("maps", (0, 1, 2, 3), np.inf), "maps: 72 x 3, infinite g/cm3"),
    "negative": (
        edit("counts", (0, slice(2, 4), 1, 1), -3),
        "counts: 240 bin 0, view 2, row 1, column 1, negative offset",
    ),
    "falling": (
        edit("thresholds_keV", 1, 10.0),
        "thresholds_keV increase edge [20.0, 10.0, 120.0]",
    ),
    "falling whole numbers": (
        lambda file: store(file, "thresholds_keV", np.array([20, 10, 120], np.uint8)),
        "thresholds_keV increase edge [20.0, 10.0, 120.0]",
    ),
    "falling in a pixel": (
        edit("true_thresholds_keV", (2, 2, 1), 10.0),
        "true_thresholds_keV increase edge lowest",
    ),
    "more than air": (scaled("counts", 10.0), "counts exceed air dark-corrected"),
    "scatter of another scale": (scaled("scatter", 1000.0), "counts primary scatter exposure"),
    "no expected photons": (
        lambda file: [scaled(name, 0.0)(file) for name in ("primary", "scatter")],
        "counts primary scatter 0 exposure",
    ),
    "transmissions": (everything_one, "air 1 transmissions photons"),
    "logarithms": (logarithms, "counts 3.3 air logarithms photons"),
    "absent parameter": (unlabel("geometry", "pixel_cm"), "geometry pixel_cm add"),
    "unknown parameter": (label("geometry", offset_mm=3.0), "offset_mm geometry offset_cm"),
    "unknown to the volume": (label("geometry/volume", kind=1), "kind geometry/volume n_z"),
    "parameter in words": (
        label("geometry", source_to_axis_cm="far"),
        "source_to_axis_cm geometry number 'far'",
    ),
    "parameters": (label("geometry", pixel_cm=np.ones(3)), "pixel_cm geometry 1 2 number"),
    "impossible": (
        label("geometry", source_to_axis_cm=1.0),
        "geometry: source_to_axis_cm exceed 1.0",
    ),
    "infinitely many": (label("geometry", n_rows=np.inf), "n_rows geometry whole inf"),
    "angles": (edit("geometry/measured_angles_rad", 1, ANGLES[0]), "geometry: view twice"),
    "unknown material": (label("maps", materials=["watr", "Ca", "I"]), "maps: 'watr' 'water'"),
    "too few materials": (label("skew_cm", materials=["tin"]), "skew_cm 2 ['tin']"),
    "filter of no density": (label("skew_cm", materials=["tin", "Pb"]), "skew_cm: density 'Pb'"),
    "two bases": (label("maps", materials=["water", "Ca", "I"]), "line_integrals maps materials"),
    "other energies": (
        edit("response/energies_keV", 5, 33.0),
        "spectrum, response thresholds_keV fit grids 32.5",
    ),
    "uncovered": (edit("thresholds_keV", 0, 11.0), "spectrum, response thresholds_keV fit 12.5"),
    "uneven table": (
        edit("response/deposited_keV", 0, 1.0),
        "spectrum, response fit deposited_keV",
    ),
}


def has(found, words):
    """Whether one of the faults has all the words."""
    return any(all(word in fault for word in words.split()) for fault in found)


@pytest.mark.parametrize("case", IN_FILE)
def test_a_fault_is_named_with_its_remedy(copy, case):
    what, words = IN_FILE[case]
    change(copy, what)
    found = faults(copy)
    assert has(found, words), found
    rest = f" ({len(found) - 1} more: python -m pcctlearn check {copy})"
    with pytest.raises(ValueError, match=re.escape(found[0])) as raised:
        read_scan(copy)
    assert str(raised.value) == f"{copy}: {found[0]}" + (rest if len(found) > 1 else "")


@pytest.mark.parametrize(
    "case", ["no unit", "eV", "mm", "columns", "transposed", "few edges", "NaN", "impossible"]
)
def test_a_fault_is_reported_once(copy, case):
    change(copy, IN_FILE[case][0])
    assert len(faults(copy)) == 1


def test_large_arrays_are_read_in_blocks(copy, monkeypatch):
    monkeypatch.setattr(scan_schema, "_BLOCK_BYTES", 2 * 4 * N_BINS * 4 * 5)
    with h5py.File(copy) as file:
        assert [(start, len(values[0])) for start, values in blocks(file["counts"])] == [
            (0, 2),
            (2, 2),
            (4, 2),
        ]
    change(copy, edit("counts", (slice(None), slice(3, 6), 2, 3), np.inf))
    assert has(faults(copy), "counts: 6 240 bin 0, view 3, row 2, column 3")


def test_independent_faults_are_all_reported(copy):
    independent = ("no name", "no unit", "NaN", "mm", "unknown material", "impossible")
    for case in independent:
        change(copy, IN_FILE[case][0])
    found = faults(copy)
    for case in independent:
        assert has(found, IN_FILE[case][1]), case


@pytest.mark.parametrize(
    "harmless",
    [
        lambda file: store(file, "counts", file["counts"][()].astype("uint16")),
        lambda file: store(file, "air", file["air"][()].astype(">f8")),
        scaled("counts", 0.9),
        label("/", name=np.bytes_("ASCII"), schema=np.array(["pcctlearn scan"], dtype="S")),
        label("geometry", CLASS="GROUP", n_views=6.0, source_to_axis_cm=np.array([[5.0]])),
        lambda file: file.create_dataset("notes", data="my own"),
    ],
)
def test_variants_of_other_programs_are_accepted(copy, harmless):
    change(copy, harmless)
    assert faults(copy) == []
    assert read_scan(copy).at("counts").dtype == torch.float32


def test_a_missing_file(tmp_path):
    (fault,) = faults(tmp_path / "none.h5")
    assert "no such file" in fault
    with pytest.raises(FileNotFoundError, match=r"no scan .*none\.h5"):
        read_scan(tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"bin,view,row,column\n" * 50, r"docs/scan_file\.md"),
        (lambda data: b"", r"docs/scan_file\.md|truncated"),
    ],
)
def test_a_file_that_is_not_hdf5(copy, spoil, word):
    copy.write_bytes(spoil(copy.read_bytes()))
    assert re.search(word, faults(copy)[0])
    with pytest.raises(ValueError, match=rf"mine\.h5: .*({word})"):
        read_scan(copy)


def test_damaged_bytes(copy):
    with h5py.File(copy) as file:
        place = file["counts"].id.get_chunk_info(3)
    data = bytearray(copy.read_bytes())
    data[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    copy.write_bytes(data)
    assert has(faults(copy)[:1], "counts damaged copy")


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
def test_a_message_is_one_printable_line_whatever_text_the_file_holds(copy, place, text):
    if len(text) > 60_000:
        text = text[:60_000]
    change(copy, lambda file: place(file, text))
    found = faults(copy)
    assert found
    assert all(fault.isprintable() and len(fault) < 700 for fault in found)


IN_RANGE = {
    "thresholds in eV": (scaled("thresholds_keV", 1000.0), "thresholds_keV 120000 keV eV? 1000"),
    "thresholds in MeV": (scaled("thresholds_keV", 1e-3), "thresholds_keV 0.12 keV MeV? 1000"),
    "energies in eV": (scaled("spectrum/energies_keV", 1e3), "spectrum/energies_keV 120500 eV?"),
    "angles in degrees": (
        scaled("geometry/measured_angles_rad", 180 / np.pi),
        "geometry/measured_angles_rad 326.586 rad degrees?",
    ),
    "maps in mg/cm3": (scaled("maps", 1000.0), "maps g/cm3 mg/cm3?"),
    "events": (scaled("response/response_per_keV", 1e3), "registers events per photon"),
    "fluence": (scaled("spectrum/fluence", -1.0), "spectrum/fluence: 28 negative"),
    "inf threshold": (edit("thresholds_keV", 2, np.inf), "thresholds_keV: infinite"),
    "NaN spectrum": (edit("spectrum/fluence", 3, np.nan), "spectrum/fluence: NaN"),
}


@pytest.mark.parametrize("case", IN_RANGE)
def test_impossible_magnitudes_are_refused(copy, case):
    what, words = IN_RANGE[case]
    change(copy, what)
    found = faults(copy)
    assert has(found, words), found
    assert not has(found, "dead pixel")


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
def test_an_impossible_frame_of_the_patient_is_refused(kind, copy):
    frame, words = WRONG_FRAMES[kind]
    change(copy, lambda file: store(file, "scanner_to_patient", frame))
    (fault,) = faults(copy)
    assert "scanner_to_patient" in fault
    assert kind == "nan" or re.search(words, fault)  # values that are not finite are found before
