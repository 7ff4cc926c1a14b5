"""Scans for training are flat-field corrected, with their truth, with or without noise."""

from dataclasses import replace

import pytest
import torch
from support.scanners import scanner

from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.scans.data_set import NEEDED, ScanSet, collate
from pcctlearn.scans.file import read_scan, write_scan
from pcctlearn.scans.flat_field import flat_fielded
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    torch.set_default_dtype(torch.float64)
    geometry = ConeBeam(2, 4, 6, 4.0, 62.5, 109.7)
    scatter = ObjectScatter(0.3, chunk_histories=50, pixel_cm=4.0)
    simulator = ScanSimulator(
        geometry, VolumeGrid(8, 10, 10, 1.0), scanner(photons=1e5), scatter, spr=0.1
    )
    maps = torch.zeros(2, 8, 10, 10)
    maps[0, :, 3:7, 3:7] = 1.0
    for seed in (1, 2):
        write_scan(folder / f"scan_{seed}.h5", simulator.scan(maps.float(), f"scan {seed}", seed))
    return sorted(folder.iterdir())


def test_without_noise_counts_are_primary_and_scatter_in_the_air_of_the_model(paths):
    air = scanner(photons=1e5).air().detach()
    scan = ScanSet(paths, air, noise=False)[0]
    counts, fraction = scan.at("counts"), scan.at("scatter_fraction")
    torch.testing.assert_close(counts * (1 - fraction), scan.at("corrected_counts"))
    corner = scan.at("corrected_counts")[:, 0, 0, 0]  # beside the object
    torch.testing.assert_close(corner.double(), air, rtol=1e-5, atol=0)


def test_corrected_counts_share_the_noise_of_the_measured_counts(paths):
    air = scanner(photons=1e5).air().detach()
    noisy, free = ScanSet(paths, air)[0], ScanSet(paths, air, noise=False)[0]
    for stage in ("counts", "corrected_counts"):
        z = (noisy.at(stage) - free.at(stage)) / free.at(stage).sqrt()
        assert z.mean().abs() < 5 / z.numel() ** 0.5
        assert 0.7 < z.std() < 1.3
    assert torch.equal(noisy.at("scatter_fraction"), free.at("scatter_fraction"))
    left = noisy.at("counts") * (1 - noisy.at("scatter_fraction"))
    assert torch.equal(noisy.at("corrected_counts"), left)


def test_views_of_unequal_exposure_train_as_those_of_equal_exposure(paths, tmp_path):
    air, exposure = scanner(photons=1e5).air().detach(), torch.tensor([0.8, 1.25])
    recorded = read_scan(paths[0])
    photons = ("counts", "primary", "scatter")
    brighter = {name: recorded.at(name) * exposure[:, None, None] for name in photons}
    write_scan(tmp_path / "scan.h5", replace(recorded, exposure=exposure, **brighter))
    for noise in (True, False):
        equal, unequal = (
            ScanSet([path], air, noise)[0] for path in (paths[0], tmp_path / "scan.h5")
        )
        for stage in ("counts", "scatter_fraction", "corrected_counts"):
            torch.testing.assert_close(unequal.at(stage), equal.at(stage))


def test_the_scatter_fraction_is_zero_in_a_pixel_without_photons(paths):
    recorded = read_scan(paths[0], NEEDED)
    for part in (recorded.primary, recorded.scatter):
        part[0, 0, 0, 0] = 0
    scan = flat_fielded(recorded, recorded.air.mean((1, 2))).scan(noise=False)
    assert scan.at("scatter_fraction")[0, 0, 0, 0] == 0
    assert scan.at("scatter_fraction").isfinite().all()


def test_a_batch_has_every_stage(paths):
    scans = ScanSet(paths, scanner(photons=1e5).air().detach())
    batch = collate([scans[0], scans[1]])
    assert batch.at("counts").shape == (2, 4, 2, 4, 6)
    assert batch.maps is None


def test_another_number_of_bins_and_no_scans_are_refused(paths):
    with pytest.raises(ValueError, match=r"4 bins.* 2"):
        ScanSet(paths, torch.ones(2))
    with pytest.raises(ValueError, match="paths is empty"):
        ScanSet([], torch.ones(4))
