"""Faulty pixels are found, and no healthy pixel is reported."""

import numpy as np
import pytest
import torch
from support.scanners import scanner

from pcctlearn.scans.validation.pixels import noise_free, pixel_faults
from pcctlearn.simulation.simulator import ScanSimulator
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

N_BINS, FULL_PANEL = 4, (8, 48)
pytestmark = pytest.mark.filterwarnings("ignore:truncated")


def ellipsoids(grid, rng):
    """Water and calcium in ellipsoids anywhere, or a cylinder with a rod on the axis."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij")
    water, calcium = np.zeros((2, *grid.shape))
    if rng.random() < 0.5:
        radius, length, rod = rng.uniform([0.2, 0.2, 0.05], [0.9, 1.2, 0.3])
        water[(x**2 + y**2 < radius**2) & (abs(z) < length)] = 1
        calcium[x**2 + y**2 < rod**2] = rng.uniform(0, 1)
    else:
        for _ in range(rng.integers(1, 8)):
            (c_z, c_y, c_x), (a, b, c) = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.05, 0.8, 3)
            within = ((z - c_z) / a) ** 2 + ((y - c_y) / b) ** 2 + ((x - c_x) / c) ** 2 < 1
            target, most = (water, 1.1) if rng.random() < 0.7 else (calcium, 1.5)
            target[within] = rng.uniform(0, most)
    return torch.from_numpy(np.stack([water, calcium])).float()


def random_scan(seed, panel=None, photons=None, n_views=None, most_keV=2):
    """Counts and air of a scan with a random panel, dose and object, and an imperfect detector.

    most_keV: greatest standard deviation of the threshold errors.
    """
    rng = np.random.default_rng(seed)
    n_rows, n_columns = panel or (int(rng.choice([1, 4, 8, 16])), int(rng.choice([12, 32, 80])))
    width_cm = rng.uniform(20, 45)
    field_cm = width_cm / 1.755
    height_cm = rng.uniform(0.5, 2) * n_rows * field_cm / n_columns
    edge_cm = rng.uniform(0.4, 1.2) * field_cm / 24
    grid = VolumeGrid(16, 24, 24, (height_cm / 16, edge_cm, edge_cm))
    n_views = n_views or int(rng.choice([6, 12, 24, 60]))
    beam = ConeBeam(n_views, n_rows, n_columns, width_cm / n_columns, 62.5, 109.7)
    simulated = ScanSimulator(
        beam,
        grid,
        scanner(photons=photons or 10 ** rng.uniform(0, 6)),
        threshold_error_keV=float(rng.uniform(0, most_keV)),
        skew_cm={} if rng.random() < 0.5 else {"aluminium": 0.008},
        noise=photons is not None or rng.random() < 0.85,
        seed=seed,
    )
    scan = simulated.scan(ellipsoids(grid, rng), "random", seed)
    return scan.at("counts").numpy(), scan.air.numpy(), rng


@pytest.mark.parametrize("seed", range(60))
def test_no_healthy_pixel_is_reported(seed):
    """At every dose from 1 to 10⁶ photons, with object edges, panel edges and rods on the axis."""
    counts, air, _ = random_scan(seed)
    found = pixel_faults(counts, air)
    assert {kind: np.argwhere(mask).tolist() for kind, mask in found.items() if mask.any()} == {}


def near_an_edge(counts, air):
    """Pixels that differ by a factor of 1.5 from one within three pixels."""
    T = counts.sum(1) / air / counts.shape[1]
    near = [np.roll(T, shift, axis) for shift in (-3, -2, -1, 1, 2, 3) for axis in (-1, -2)]
    return (np.abs(np.log(np.stack(near) / T)) > np.log(1.5)).any((0, 1))


FAULTS = {  # counts of a faulty pixel in one bin: expected kind, and function of the true counts
    "dead": ("cold", lambda n, air, rng: 0 * n),
    "a tenth": ("cold", lambda n, air, rng: rng.poisson(n / 10)),
    "threefold": ("hot", lambda n, air, rng: rng.poisson(3 * n)),
    "tenfold": ("hot", lambda n, air, rng: rng.poisson(10 * n)),
    "stuck": ("stuck", lambda n, air, rng: 0 * n + np.round(1 + n.mean() * rng.uniform(0.1, 2))),
    "stuck at air": ("stuck", lambda n, air, rng: 0 * n + air),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(4))
def test_every_simulated_fault_is_found_and_nothing_else(fault, seed):
    counts, air, rng = random_scan(seed, FULL_PANEL, photons=1e5, n_views=48, most_keV=1)
    kind, change = FAULTS[fault]
    smooth = np.argwhere(~near_an_edge(counts, air))
    places = {tuple(place) for place in rng.permutation(smooth)[::20][:5].tolist()}
    for row, column in places:
        b = rng.integers(N_BINS)
        counts[b, :, row, column] = change(counts[b, :, row, column], air[b, row, column], rng)
    found = pixel_faults(counts, air)
    everything = np.any([*found.values()], 0).any(0)
    assert {tuple(place) for place in np.argwhere(everything).tolist()} == places
    assert found[kind].any()


@pytest.mark.parametrize("factor", [0.0, 1 / 3, 3.0])
def test_a_column_with_another_gain_is_found(factor):
    counts, air, rng = random_scan(11, FULL_PANEL, photons=1e5, n_views=48, most_keV=1)
    for column in (8, 24):
        changed = counts.copy()
        changed[..., column] = rng.poisson(factor * counts[..., column])
        found = np.any([*pixel_faults(changed, air).values()], 0).any(0)
        assert found[:, column].mean() > 0.9
        assert not np.delete(found, column, 1).any()


def test_clusters_are_found():
    counts, air, rng = random_scan(0, FULL_PANEL, photons=1e5, n_views=48, most_keV=1)
    cluster = np.zeros(FULL_PANEL, bool)
    cluster[3:5, 10:12] = cluster[6, 40:42] = True
    counts[..., cluster] = rng.poisson(8 * counts[..., cluster])
    found = np.any([*pixel_faults(counts, air).values()], 0).any(0)
    assert (found == cluster).all()


def test_a_rod_on_the_axis_is_not_a_fault():
    grid = VolumeGrid(8, 60, 60, (1.0, 0.25, 0.25))
    beam = ConeBeam(36, 8, 41, 0.6, 62.5, 109.7)
    maps = torch.zeros(2, *grid.shape)
    maps[1, :, 29:31, 29:31] = 5.0
    scan = ScanSimulator(beam, grid, scanner()).scan(maps, "rod", 0)
    found = pixel_faults(scan.at("counts").numpy(), scan.air.numpy())
    assert not np.any([*found.values()])
    profile = scan.at("counts").sum((0, 1, 2)) / scan.air.sum((0, 1))
    assert profile[20] < 0.8 * profile[18], "the rod is narrow and dense"


def test_low_counts_are_not_a_fault():
    """With one expected photon in all views together, a pixel may count none."""
    counts, air, _ = random_scan(3, FULL_PANEL, photons=1.0, n_views=6)
    counts[1, :, 4, 20] = 0
    assert not np.any([*pixel_faults(counts, air).values()])


def test_scans_without_noise_have_no_faults():
    counts, air, _ = random_scan(4, FULL_PANEL, photons=1e5, n_views=24)
    assert not noise_free(counts, air)
    constant = np.broadcast_to(air[:, None], counts.shape) * 0.999999
    assert not np.any([*pixel_faults(constant.astype(np.float32), air).values()])
    with_air = np.broadcast_to(air[:, None], counts.shape).copy()
    assert noise_free(with_air, air)


@pytest.mark.parametrize(
    "where",
    [np.s_[5, :], np.s_[5, 3:-3], np.s_[3:7, 10:20], np.s_[:4, :], np.s_[:, :]],
    ids=["row", "part of a row", "module", "part of the panel", "panel"],
)
@pytest.mark.parametrize("b", [0, -1])
def test_many_pixels_that_never_count_in_a_bin_are_cold(where, b):
    counts, air = random_scan(0, FULL_PANEL, photons=1e5, n_views=48, most_keV=1)[:2]
    expected = np.zeros(air.shape, bool)
    expected[b][where] = True
    counts = np.where(expected[:, None], 0, counts)
    cold = pixel_faults(counts, air)["cold"]
    assert (cold == expected).all()
