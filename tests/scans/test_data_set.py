"""Scans for training are flat-field corrected, and have a reference."""

from dataclasses import replace

import pytest
import torch
from support.scanners import scanner

from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.scans.data_set import TRUTH, ScanSet, collate
from pcctlearn.scans.file import read_scan, write_scan
from pcctlearn.scans.flat_field import flat_fielded
from pcctlearn.scans.reference import KnownObject, SecondScan, SharedNoise
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


def test_views_of_unequal_exposure_train_as_those_of_equal_exposure(paths, tmp_path):
    air, exposure = scanner(photons=1e5).air().detach(), torch.tensor([0.8, 1.25])
    recorded = read_scan(paths[0])
    photons = ("counts", "primary", "scatter")
    brighter = {name: recorded.at(name) * exposure[:, None, None] for name in photons}
    write_scan(tmp_path / "scan.h5", replace(recorded, exposure=exposure, **brighter))
    for reference in (SharedNoise(), KnownObject()):
        equal, unequal = (
            ScanSet([path], air, reference)[0] for path in (paths[0], tmp_path / "scan.h5")
        )
        for stage in ("counts", "scatter_fraction", "corrected_counts"):
            torch.testing.assert_close(unequal.at(stage), equal.at(stage))


def test_the_scatter_fraction_is_zero_in_a_pixel_without_photons(paths):
    recorded = read_scan(paths[0], TRUTH)
    for part in (recorded.primary, recorded.scatter):
        part[0, 0, 0, 0] = 0
    scan = flat_fielded(recorded, recorded.air.mean((1, 2))).scan(noise=False)
    assert scan.at("scatter_fraction")[0, 0, 0, 0] == 0
    assert scan.at("scatter_fraction").isfinite().all()


def test_a_batch_has_every_stage(paths):
    scans = ScanSet(paths, scanner(photons=1e5).air().detach(), SecondScan())
    batch = collate([scans[0], scans[1]])
    assert batch.at("counts").shape == (2, 4, 2, 4, 6)
    assert batch.maps is None


def test_another_number_of_bins_and_no_scans_are_refused(paths):
    with pytest.raises(ValueError, match=r"4 bins.* 2"):
        ScanSet(paths, torch.ones(2), SecondScan())
    with pytest.raises(ValueError, match="paths is empty"):
        ScanSet([], torch.ones(4), SecondScan())
