"""Plate files: written and read back equal, and every fault named with its remedy."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.plate_file import PlateRecord, plate_faults, read_plates, write_plates
from pcctlearn.scans.record import ResponseRecord, SpectrumRecord


def recorded(shape=(1, 40), seed=3):
    plates, model = plates_of(flawed(), 1e8, seed), cdte_scanner()
    response = model.response
    return PlateRecord(
        "plates",
        replace(plates, counts=plates.counts.reshape(5, *shape, 2)),
        SpectrumRecord(model.energies_keV, model.fluence),
        ResponseRecord(response.energies_keV, response.deposited_keV, response.response_per_keV),
        frames=torch.full((5,), 10.0),
        tube_kV=120.0,
        true_thresholds_keV=flawed().thresholds_keV.reshape(*shape, 2),
        skew_cm=flawed().thickness_cm.T.reshape(1, *shape),
        filter_materials=("CdTe",),
        seed=3,
    )


@pytest.fixture
def file(tmp_path):
    """A valid plate file."""
    write_plates(tmp_path / "plates.h5", recorded())
    return tmp_path / "plates.h5"


@pytest.mark.parametrize("shape", [(40,), (1, 40), (5, 8)])
def test_what_is_written_is_read(tmp_path, shape):
    record = recorded(shape)
    write_plates(tmp_path / "plates.h5", record)
    found = read_plates(tmp_path / "plates.h5")
    assert torch.equal(found.plates.counts, record.plates.counts)
    assert torch.equal(found.plates.plates_cm, record.plates.plates_cm)
    assert found.plates.materials == ("aluminium",)
    assert torch.equal(found.plates.exposure, record.plates.exposure)
    assert torch.equal(found.true_thresholds_keV, record.true_thresholds_keV)
    assert torch.equal(found.skew_cm, record.skew_cm)
    assert (found.tube_kV, found.seed, found.filter_materials) == (120.0, 3, ("CdTe",))


def test_calibration_from_a_file_is_that_of_its_record(file):
    found = read_plates(file)
    here = EtbCal().fit(recorded().plates, cdte_scanner())
    there = EtbCal().fit(found.plates, found.nominal_model())
    # the model of the file has a higher last edge, above which nothing is registered
    torch.testing.assert_close(there.thresholds_keV, here.thresholds_keV, rtol=0, atol=1e-9)
    torch.testing.assert_close(there.thickness_cm, here.thickness_cm, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_file_says_whether_its_counts_have_noise(tmp_path, seed):
    write_plates(tmp_path / "plates.h5", recorded(seed=seed))
    assert read_plates(tmp_path / "plates.h5").plates.noise_free == (seed is None)


def test_counts_in_bins_are_summed(file):
    above = read_plates(file).plates.counts
    with h5py.File(file, "r+") as stored:
        stored["counts"][:, 0] -= stored["counts"][:, 1]
        stored.attrs["counted"] = "bins"
    torch.testing.assert_close(read_plates(file).plates.counts, above)


def test_marked_pixels_are_flagged(tmp_path):
    record = recorded((40,))
    dead, saturated = torch.zeros(2, 40, dtype=torch.bool)
    dead[3], saturated[7] = True, True
    plates = replace(record.plates, flags={"dead": dead, "saturated": saturated})
    plates.counts[:, 3] = torch.nan
    write_plates(tmp_path / "plates.h5", replace(record, plates=plates))
    found = read_plates(tmp_path / "plates.h5")
    model = EtbCal().fit(found.plates, found.nominal_model())
    assert model.flags["dead"].nonzero().tolist() == [[3]]
    assert model.flags["saturated"].nonzero().tolist() == [[7]]
    assert (~model.calibrated).nonzero().flatten().tolist() == [3, 7]


def changed(values, name, change):
    def apply(stored):
        stored[name][...] = change(stored[name][()])

    return pytest.param(apply, values, id=f"{name} {values}")


def absent(name):
    return pytest.param(lambda stored: stored.pop(name), name, id=f"no {name}")


def attribute(name, value, named):
    return pytest.param(lambda stored: stored.attrs.__setitem__(name, value), named, id=named)


def unit(name, value):
    return pytest.param(
        lambda stored: stored[name].attrs.__setitem__("unit", value), value, id=f"{name} {value}"
    )


def replaced(name, values, named):
    def apply(stored):
        attributes = dict(stored[name].attrs)
        del stored[name]
        stored[name] = values
        stored[name].attrs.update(attributes)

    return pytest.param(apply, named, id=f"{name} {named}")


def in_bins(counts):
    return np.stack([counts[:, 0] - counts[:, 1], counts[:, 1]], 1)


def summed(counts):
    return np.stack([counts[:, 0] + counts[:, 1], counts[:, 1]], 1)


def saturated(counts):
    counts[0, 0] = np.minimum(counts[0, 0], np.quantile(counts[0, 0], 0.2))
    return counts


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        absent("counts"),
        absent("plates_cm"),
        absent("thresholds_keV"),
        absent("spectrum/fluence"),
        absent("response/response_per_keV"),
        attribute("schema", "pcctlearn scan", "pcctlearn plates"),
        attribute("schema_version", 7, "schema_version"),
        attribute("counted", "both", "counted"),
        attribute("tube_kV", "high", "tube_kV"),
        unit("thresholds_keV", "eV"),
        unit("plates_cm", "mm"),
        changed("Divide by 1000", "thresholds_keV", lambda v: 1000 * v),
        changed("increase", "thresholds_keV", lambda v: v[::-1]),
        changed("5 mm aluminium", "plates_cm", lambda v: np.array([[0, 0.5, 0.5, 1.5, 2.0]])),
        changed("check the order", "plates_cm", lambda v: v[:, ::-1]),
        changed("negative", "plates_cm", lambda v: -v),
        changed("from_bins", "counts", lambda v: v[:, ::-1]),
        changed("negative", "counts", lambda v: v - 1e7),
        changed("positive", "exposure", lambda v: 0 * v),
        changed("saturated", "counts", saturated),
        changed("reverse the axis", "counts", lambda v: v[:, ::-1]),
        changed("in mm", "plates_cm", lambda v: 10 * v),
        changed("expects", "exposure", lambda v: v * [1, 3, 3, 3, 3]),
        changed("'bins'", "counts", in_bins),
        changed("store those above each threshold", "counts", summed),
        changed("spectrum/energies_keV", "thresholds_keV", lambda v: np.array([40.0, 150.0])),
        replaced("plates_cm", np.zeros((1, 4)), "exposure 4"),
        replaced("exposure", np.ones(4), "4 along its axis exposure"),
        replaced("thresholds_keV", np.array([40.0]), "1 along its axis threshold"),
        pytest.param(
            lambda stored: stored["plates_cm"].attrs.__setitem__("materials", ["unobtainium"]),
            "unobtainium",
            id="materials",
        ),
    ],
)
def test_each_fault_is_named(file, damage, named):
    with h5py.File(file, "r+") as stored:
        damage(stored)
    faults = plate_faults(file)
    assert faults
    assert any(named.replace("exposure 4", "axis exposure") in fault for fault in faults)
    with pytest.raises(ValueError, match=r"plates\.h5"):
        read_plates(file)


def test_lengths_in_mm_are_found_without_exposures(file):
    with h5py.File(file, "r+") as stored:
        del stored["exposure"]
    assert plate_faults(file) == []
    with h5py.File(file, "r+") as stored:
        stored["plates_cm"][...] *= 10
    assert any("in mm" in fault for fault in plate_faults(file))


def test_bins_in_reverse_order_are_refused(file):
    with h5py.File(file, "r+") as stored:
        stored["counts"][...] = in_bins(stored["counts"][()])[:, ::-1]
        stored.attrs["counted"] = "bins"
    assert any("reverse order" in fault for fault in plate_faults(file))


def test_frames_are_the_exposures_where_these_are_absent_and_frames_differ(file):
    frames = np.array([1.0, 2.0, 2.0, 4.0, 4.0])
    with h5py.File(file, "r+") as stored:
        stored["counts"][...] *= frames[:, None, None, None]
        del stored["exposure"]
    assert read_plates(file).plates.exposure is None  # all frames are 10
    with h5py.File(file, "r+") as stored:
        stored["frames"][...] = frames
    found = read_plates(file)
    assert found.plates.exposure.tolist() == frames.tolist()
    assert EtbCal().fit(found.plates, found.nominal_model()).calibrated.all()


def test_an_invalid_record_is_not_written(tmp_path):
    record = recorded()
    wrong = replace(record, frames=torch.full((5,), -1.0))
    with pytest.raises(ValueError, match="frames"):
        write_plates(tmp_path / "plates.h5", wrong)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.h5"):
        read_plates(tmp_path / "no.h5")
    (tmp_path / "text.h5").write_text("counts")
    assert "docs/plate_file.md" in plate_faults(tmp_path / "text.h5")[0]
