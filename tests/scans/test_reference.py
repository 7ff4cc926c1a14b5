"""References for training: unbiased, and with noise of their own unless they say otherwise."""

import h5py
import pytest
import torch
from support.scanners import scanner

from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.scans.data_set import ScanSet
from pcctlearn.scans.file import write_scan
from pcctlearn.scans.reference import KnownObject, Measured, NoReference, SecondScan, SharedNoise
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

MEASURABLE = [SecondScan(), SecondScan(dose=16.0), Measured(), KnownObject()]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "scan.h5"
    torch.set_default_dtype(torch.float64)
    geometry = ConeBeam(24, 16, 24, 1.2, 62.5, 109.7)
    scatter = ObjectScatter(0.3, chunk_histories=50, pixel_cm=4.0)
    simulator = ScanSimulator(
        geometry, VolumeGrid(8, 10, 10, 1.0), scanner(photons=1e5), scatter, spr=0.1
    )
    maps = torch.zeros(2, 8, 10, 10)
    maps[0, :, 3:7, 3:7] = 1.0
    write_scan(path, simulator.scan(maps.float(), "scan", 1))
    return path


def noise(path, reference):
    """Counts and reference, minus their expected values, in standard deviations of the counts."""
    air = scanner(photons=1e5).air().detach()
    scan = ScanSet([path], air, reference)[0]
    with h5py.File(path) as file:
        gain = air.float()[:, None, None, None] / torch.from_numpy(file["air"][()])[:, None]
        primary, scatter = (torch.from_numpy(file[name][()]) for name in ("primary", "scatter"))
    errors = (
        scan.at("counts") - gain * (primary + scatter),
        scan.at("corrected_counts") - gain * primary,
    )
    return scan, [error / (gain * (primary + scatter)).sqrt() for error in errors]


@pytest.mark.parametrize("reference", [*MEASURABLE, SharedNoise()])
def test_a_reference_is_unbiased_and_completes_the_record(path, reference):
    scan, (_, error) = noise(path, reference)
    assert error.mean().abs() < 5 / error.numel() ** 0.5
    left = scan.at("counts") * (1 - scan.at("scatter_fraction"))
    torch.testing.assert_close(left, scan.at("corrected_counts"))


@pytest.mark.parametrize("reference", MEASURABLE)
def test_its_noise_is_its_own(path, reference):
    _, errors = noise(path, reference)
    correlation = (errors[0] * errors[1]).mean()
    assert correlation.abs() < 5 / errors[0].numel() ** 0.5
    dose = getattr(reference, "dose", torch.inf)
    assert errors[1].square().mean() == pytest.approx(0.93 / dose, rel=0.1, abs=1e-4)


def test_the_shared_reference_has_the_noise_of_the_counts(path):
    _, errors = noise(path, SharedNoise())
    assert (errors[0] * errors[1]).mean() > 0.8


def test_the_noise_depends_on_the_seed_only(path):
    air = scanner(photons=1e5).air().detach()
    first, again, other = (
        ScanSet([path], air, SecondScan(seed=seed))[0].at("corrected_counts") for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("reference", MEASURABLE)
def test_a_measurable_reference_needs_no_simulated_scatter(path, reference, tmp_path):
    copy = tmp_path / "scan.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        del file["scatter"], file["scatter_standard_error"]
    air = scanner(photons=1e5).air().detach()
    assert ScanSet([copy], air, reference)[0].at("corrected_counts").isfinite().all()


def test_a_reference_needs_a_dose():
    with pytest.raises(ValueError, match="dose must be positive"):
        SecondScan(dose=0.0)


def test_without_a_reference_a_scan_has_its_counts_alone(path, tmp_path):
    copy = tmp_path / "scan.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        for name in ("primary", "scatter", "scatter_standard_error", "line_integrals", "maps"):
            del file[name]
    scan = ScanSet([copy], scanner(photons=1e5).air().detach(), NoReference())[0]
    assert scan.corrected_counts is None
    assert scan.at("counts").isfinite().all()
