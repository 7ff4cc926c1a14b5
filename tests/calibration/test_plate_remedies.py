"""Every fault of a plate file names a remedy, and the file is valid once it is applied."""

from dataclasses import replace
from functools import cache

import h5py
import numpy as np
import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.plate_file import PlateRecord, plate_faults, read_plates, write_plates
from pcctlearn.scans.record import ResponseRecord, SpectrumRecord

N_PIXELS = 60


@cache
def recorded() -> PlateRecord:
    truth, model = flawed(n_pixels=N_PIXELS, bias_keV=0.6), cdte_scanner()
    response = model.response
    return PlateRecord(
        "plates",
        plates_of(truth, 1e8, seed=3),
        SpectrumRecord(model.energies_keV, model.fluence),
        ResponseRecord(response.energies_keV, response.deposited_keV, response.response_per_keV),
        frames=torch.full((5,), 10.0),
        true_thresholds_keV=truth.thresholds_keV,
    )


def put(file, name, values, **attributes):
    """Write a dataset anew; its attributes stay unless others are given."""
    old = dict(file[name].attrs) if name in file else {"unit": "1"}
    if name in file:
        del file[name]
    file[name] = values
    file[name].attrs.update(old | attributes)


def changed(name, change, **attributes):
    return lambda file: put(file, name, change(file[name][()]), **attributes)


def said(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def taken(which, *names):
    """Some of the exposures, of the datasets named or all."""

    def apply(file):
        for name in names or ("counts", "exposure", "frames"):
            put(file, name, file[name][()][which])
        if not names:
            put(file, "plates_cm", file["plates_cm"][()][:, which])

    return apply


def in_bins(counts):
    return np.stack([counts[:, 0] - counts[:, 1], counts[:, 1]], 1)


def split_exposure(file):
    """Half of the photons of exposure 2 as an exposure of its own."""
    counts = file["counts"][()]
    half = np.random.default_rng(0).binomial(counts[2].astype(int), 0.5)
    counts[2] -= half
    put(file, "counts", np.concatenate([counts, half[None]]))
    put(file, "plates_cm", np.concatenate([file["plates_cm"][()], [[1.0]]], 1))
    for name in ("exposure", "frames"):
        values = file[name][()]
        put(file, name, np.array([*values[:2], values[2] / 2, *values[3:], values[2] / 2]))


def sum_exposures(file):
    counts = file["counts"][()]
    counts[2] += counts[5]
    put(file, "counts", counts[:5])
    put(file, "plates_cm", file["plates_cm"][()][:, :5])
    for name in ("exposure", "frames"):
        values = file[name][()]
        values[2] += values[5]
        put(file, name, values[:5])


def clip(file):
    """25 pixels are brighter, and cut at a limit that the others do not reach."""
    counts = file["counts"][()]
    limit = 1.01 * counts.max()
    counts[..., :25] *= 3
    put(file, "counts", counts.clip(max=limit))


def mark(name, n):
    def apply(file):
        put(file, name, (np.arange(N_PIXELS) < n).astype(float))

    return apply


def without_threshold(file):
    put(file, "counts", file["counts"][()][:, :1])
    put(file, "thresholds_keV", file["thresholds_keV"][()][:1])
    put(file, "true_thresholds_keV", file["true_thresholds_keV"][()][:, :1])


def empty(*which):
    def apply(file):
        file["counts"][which] = 0

    return apply


MANY = slice(0, 40)
EVERY = slice(None)
REMEDIES = {
    "the same plates twice": (
        split_exposure,
        "sum of their counts, and of their entries in the datasets exposure and frames",
        sum_exposures,
    ),
    "exposures of 0": (
        changed("exposure", lambda v: 0 * v),
        "set it to ones",
        changed("exposure", np.ones_like),
    ),
    "unknown exposures": (
        changed("exposure", lambda v: 0 * v),
        "leave it out",
        lambda f: f.pop("exposure"),
    ),
    "no photons behind a plate": (
        empty(3, EVERY, MANY),
        "leave this exposure out",
        taken([0, 1, 2, 4]),
    ),
    "no photons above a threshold": (
        empty(EVERY, 1),
        "leave this threshold out",
        without_threshold,
    ),
    "plates in reverse order": (
        taken([4, 3, 2, 1, 0], "counts"),
        "check the order of the plates",
        taken([4, 3, 2, 1, 0], "counts"),
    ),
    "an exposure that is wrong": (
        changed("exposure", lambda v: v * [1, 3, 3, 3, 3]),
        "check the exposures",
        changed("exposure", np.ones_like),
    ),
    "lengths in mm": (
        changed("plates_cm", lambda v: 10 * v),
        "divide them by 10",
        changed("plates_cm", lambda v: v / 10),
    ),
    "the unit mm": (
        changed("plates_cm", lambda v: 10 * v, unit="mm"),
        "divide by 10 and set",
        changed("plates_cm", lambda v: v / 10, unit="cm"),
    ),
    "thresholds in eV": (
        changed("thresholds_keV", lambda v: 1000 * v),
        "Divide by 1000",
        changed("thresholds_keV", lambda v: v / 1000),
    ),
    "thresholds from high to low": (
        changed("thresholds_keV", lambda v: v[::-1]),
        "from the lowest to the highest",
        changed("thresholds_keV", lambda v: v[::-1]),
    ),
    "thresholds beyond the spectrum": (
        changed("thresholds_keV", lambda v: v * [1, 2]),
        "correct thresholds_keV",
        changed("thresholds_keV", lambda v: v / [1, 2]),
    ),
    "counts from high to low": (
        changed("counts", lambda v: v[:, ::-1]),
        "counts[:, ::-1]",
        changed("counts", lambda v: v[:, ::-1]),
    ),
    "bins from high to low": (
        lambda file: (
            said("counted", "bins")(file),
            changed("counts", lambda v: in_bins(v)[:, ::-1])(file),
        ),
        "counts[:, ::-1]",
        changed("counts", lambda v: v[:, ::-1]),
    ),
    "bins": (changed("counts", in_bins), "counted of the file to 'bins'", said("counted", "bins")),
    "counts above thresholds": (
        said("counted", "bins"),
        "counted of the file to 'above'",
        said("counted", "above"),
    ),
    "another word": (said("counted", "both"), "'above' or 'bins'", said("counted", "above")),
    "a counter at its limit": (
        clip,
        "mark the pixels in the dataset saturated",
        mark("saturated", 25),
    ),
    "counts that are negative": (
        changed("counts", lambda v: np.where(np.arange(N_PIXELS) < 3, -1, v)),
        "Store 0",
        changed("counts", lambda v: v.clip(0)),
    ),
    "plates of an unknown material": (
        changed("plates_cm", np.copy, materials=["alu"]),
        "use one of",
        changed("plates_cm", np.copy, materials=["aluminium"]),
    ),
    "a voltage in words": (said("tube_kV", "high"), "must be a number", said("tube_kV", 120.0)),
}


@pytest.mark.parametrize("kind", REMEDIES)
def test_the_remedy_makes_the_file_valid(tmp_path, kind):
    damage, named, remedy = REMEDIES[kind]
    path = tmp_path / "plates.h5"
    write_plates(path, recorded())
    with h5py.File(path, "r+") as file:
        damage(file)
    assert any(named in fault for fault in plate_faults(path)), plate_faults(path)
    with h5py.File(path, "r+") as file:
        remedy(file)
    assert plate_faults(path) == []
    record = read_plates(path)
    if record.plates.exposure is None:
        return
    found = EtbCal().fit(record.plates, record.nominal_model())
    error = (found.thresholds_keV - record.true_thresholds_keV)[found.calibrated]
    assert error.abs().max() < 0.05
    assert not found.warnings


def test_a_missing_monitor_is_replaced_as_the_message_says(tmp_path):
    path = tmp_path / "plates.h5"
    plates = replace(recorded().plates, exposure=None)
    write_plates(path, replace(recorded(), plates=plates))
    record = read_plates(path)
    with pytest.raises(ValueError, match="dataset exposure of the file to ones"):
        EtbCal().fit(record.plates, record.nominal_model())
    with h5py.File(path, "r+") as file:
        put(file, "exposure", np.ones(5))
    record = read_plates(path)
    assert EtbCal().fit(record.plates, record.nominal_model()).calibrated.all()


def test_dead_pixels_may_be_the_majority(tmp_path):
    path = tmp_path / "plates.h5"
    write_plates(path, recorded())
    for damage in (empty(EVERY, EVERY, MANY), mark("dead", 40)):
        with h5py.File(path, "r+") as file:
            damage(file)
        record = read_plates(path)
        found = EtbCal().fit(record.plates, record.nominal_model())
        assert found.calibrated.nonzero().flatten().tolist() == list(range(40, N_PIXELS))
