"""Followed photons keep the laws that scatter and primary have, and know their own error."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import pi
from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from scanners import FOUR_BINS, SPECTRA, silicon
from single_scatter import Cylinder, single_scatter

from pcctlearn.montecarlo.scene import Beam, scene_of, thick_fan
from pcctlearn.montecarlo.tracking import (
    ABSORBED,
    COMPTON_ONCE,
    EMITTED,
    ESCAPED,
    MULTIPLE,
    PRIMARY,
    RAYLEIGH_ONCE,
)
from pcctlearn.montecarlo.transport import ObjectScatter, follow
from pcctlearn.phantoms.ellipses import Ellipse
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.physics.attenuation import attenuation_table, mass_attenuation
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.geometry import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid

GRID = VolumeGrid(64, 64, 64, 0.32)
PANEL = ConeBeam(8, 16, 24, 1.6, GRID, 62.5, 109.7)  # 38.4 × 25.6 cm
CENTRE = (slice(6, 10), slice(10, 14))  # 4×4 pixels
BROAD = (slice(2, 14), slice(4, 20))  # 12×16 pixels
# one photon energy, and the groups that Compton scattering takes it to
SIXTY_keV = Beam(torch.arange(5.0, 61.0), torch.zeros(56).index_fill(0, torch.tensor(55), 1.0))
ALL = torch.ones(1, 56, dtype=torch.float64)
FEW = ConeBeam(8, 8, 12, 3.2, VolumeGrid(32, 32, 32, 0.64), 62.5, 109.7)
FINE = replace(FEW, volume=GRID)
# as far from the accuracy as may be: what is asked for is the number of photons
SIXTEEN_CHUNKS = ObjectScatter(1e-9, pixel_cm=1.6, chunk_histories=500, max_histories=8000)


def upright(radius_cm, length_cm, grid, center_cm=(0.0, 0.0), oversampling=8):
    """Water in a cylinder along z, as the share of each voxel that it fills."""
    parts = (np.arange(oversampling) + 0.5) / oversampling - 0.5

    def positions(n, size_cm):
        return ((np.arange(n)[:, None] - (n - 1) / 2 + parts) * size_cm).ravel()

    dz, dy, dx = grid.spacing_cm
    x, y = positions(grid.n_x, dx) - center_cm[0], positions(grid.n_y, -dy) - center_cm[1]
    inside = (x**2 + y[:, None] ** 2 < radius_cm**2).astype(float)
    inside = inside.reshape(grid.n_y, oversampling, grid.n_x, oversampling).mean((1, 3))
    along = np.abs(positions(grid.n_z, dz)) < length_cm / 2
    along = along.reshape(grid.n_z, oversampling).mean(1)
    return torch.from_numpy(along[:, None, None] * inside)[None]


@cache
def water(radius_cm=8.0, length_cm=20.0):
    return scene_of(upright(radius_cm, length_cm, GRID), ["water"], PANEL, SIXTY_keV)


@cache
def small(**changes):
    maps = upright(5.0, 12.0, FEW.volume)
    return scene_of(maps, ["water"], FEW, SIXTY_keV, **changes)


@cache
def tube():
    """120 kV, 2 mm of aluminium, one photon in all."""
    spectrum = Spectrum(
        SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2}, photons_per_pixel=1.0
    )
    return Beam(spectrum.energies_keV, spectrum.fluence)


def ideal(energies_keV):
    """A detector that counts every photon in the bin of its energy."""
    edges = [*FOUR_BINS[:-1], 1000.0]
    bins = pairwise(edges)
    return torch.stack([((energies_keV >= a) & (energies_keV < b)).double() for a, b in bins])


def of_kind(tally, region):
    """Mean over a region and its standard error, for each kind: over all groups."""
    values = tally.values.sum(-1)[:, :, *region].mean((2, 3))
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def of_total(tally):
    """Image of all scatter and its standard error."""
    values = tally.values.sum((1, 4))
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


class SPR(NamedTuple):
    """Scatter-to-primary ratio of all counts, and of those in each bin."""

    total: float
    bins: np.ndarray


def scatter_to_primary(scene, line_integrals):
    """Scatter of the central 4×4 pixels over what the central ray brings, and its error."""
    registered = ideal(scene.beam.energies_keV)
    mu = attenuation_table(
        ["water", "cortical_bone"][: len(line_integrals)], scene.beam.energies_keV
    )
    primary = (registered @ (scene.beam.fluence * torch.exp(-line_integrals @ mu))).numpy()
    tally = follow(scene, scene.panel(0), 3, 20, 20_000)
    bins = tally.values[:, 0, *CENTRE].mean((1, 2)) @ registered.numpy().T
    total = bins.sum(1) / primary.sum()
    bins = bins / primary
    mean = SPR(total.mean(), bins.mean(0))
    return mean, SPR(total.std(ddof=1) / np.sqrt(20), bins.std(0, ddof=1) / np.sqrt(20))


@cache
def analog_tally():
    return follow(water(), water().panel(0), 1, 20, 500_000, n_points=None)


@cache
def forced_tally():
    return follow(water(), water().panel(0), 2, 20, 20_000, by_kind=True)


@pytest.mark.physics
def test_primary_photons_obey_beer_lambert():
    window_cm = (-3.2, 3.2, -3.2, 3.2)  # the central 4×4 pixels
    tally = follow(water(), water().panel(0, window_cm), 5, 20, 500_000, n_points=None)
    (primary, *_), (error, *_) = of_kind(tally, CENTRE)
    a = (np.arange(64) - 31.5) * 0.1
    rays = np.stack([*np.meshgrid(a, a), np.full((64, 64), 109.7)], -1)
    length = np.linalg.norm(rays, axis=-1)
    column, _, toward = np.moveaxis(rays / length[..., None], -1, 0)
    # chords of the cylinder, 62.5 cm from the source
    across = np.hypot(column, toward)
    chord = 2 * np.sqrt(8.0**2 - (62.5 * column / across) ** 2) / across
    mu = mass_attenuation("water", [60.0]).item()
    expected = ((109.7 / length) ** 3 * np.exp(-mu * chord)).mean()
    assert expected == pytest.approx(0.0383, rel=0.01)  # an independent Monte Carlo: .03826
    assert error < 0.002 * expected
    assert primary == pytest.approx(expected, rel=0.003)


@pytest.mark.physics
def test_nothing_in_the_beam_gives_the_flat_field():
    maps = torch.zeros(1, *FEW.volume.shape)
    maps[0, 0, 0, 0] = 1e-9
    beam = replace(SIXTY_keV, fluence=5e3 * SIXTY_keV.fluence)
    wide = replace(FEW, pixel_cm=8.0)  # cos³ is 0.74 at its corners
    scene = scene_of(maps, ["water"], wide, beam, pixel_cm=16.0)
    tally = follow(scene, scene.panel(3), 1, 20, 20_000, n_points=None)
    primary = tally.values[:, PRIMARY].sum(-1).mean(0)
    rows, columns = scene.positions_cm()
    cosine = 109.7 / np.sqrt(109.7**2 + rows[:, None] ** 2 + columns**2)
    # four true pixels in each; Poisson noise of 17 000 histories in each
    np.testing.assert_allclose(primary, 4 * 5e3 * cosine**3, rtol=0.035)
    assert tally.values[:, PRIMARY:].sum() == pytest.approx(tally.values[..., -1].sum())


@pytest.mark.physics
def test_single_scatter_is_the_integral_over_the_object():
    places = [((i - 1.5) * 1.6, (j - 1.5) * 1.6) for i in range(4) for j in range(4)]
    expected = single_scatter(Cylinder(8.0, 20.0), 60.0, PANEL, places, (24, 32, 32)).mean(0)
    # an independent Monte Carlo: integral, forced and analog
    np.testing.assert_allclose(expected, (0.00457, 0.00529), rtol=0.005)
    np.testing.assert_allclose(expected, (0.00459, 0.00539), rtol=0.02)
    single = slice(COMPTON_ONCE, RAYLEIGH_ONCE + 1)
    forced, error = of_kind(forced_tally(), CENTRE)
    assert (error[single] < 0.008 * expected).all()
    np.testing.assert_allclose(forced[single], expected, rtol=0.02)
    # 4×4 pixels of the analog tally hold 2000 of each kind, one standard error is 2 %
    analog, error = of_kind(analog_tally(), CENTRE)
    np.testing.assert_allclose(analog[single], expected, rtol=0.06)


@pytest.mark.physics
def test_analog_forced_and_deterministic_agree_over_the_panel():
    rows, columns = PANEL.rows_cm[BROAD[0]], PANEL.columns_cm[BROAD[1]]
    places = [(column, row) for row in rows[:6] for column in columns[:8]]  # a quarter
    nodes = (16, 24, 24)
    expected = single_scatter(Cylinder(8.0, 20.0), 60.0, PANEL, places, nodes).mean(0)
    single = slice(COMPTON_ONCE, RAYLEIGH_ONCE + 1)
    analog, analog_error = of_kind(analog_tally(), BROAD)
    forced, forced_error = of_kind(forced_tally(), BROAD)
    assert (analog_error[single] < 0.01 * analog[single]).all()
    np.testing.assert_allclose(analog[single], expected, rtol=0.02)
    np.testing.assert_allclose(forced[single], expected, rtol=0.02)
    error = np.hypot(analog_error, forced_error)[MULTIPLE]
    assert error < 0.01 * analog[MULTIPLE]
    assert forced[MULTIPLE] == pytest.approx(analog[MULTIPLE], abs=3 * error)


@pytest.mark.physics
def test_scatter_falls_in_the_same_groups_either_way():
    groups = [t.values[:, 1:, *BROAD].sum(1).mean((1, 2)) for t in (analog_tally(), forced_tally())]
    wide = [g.reshape(20, 8, 7).sum(-1) for g in groups]  # 7 keV each
    (a, b), errors = (w.mean(0) for w in wide), [w.std(0, ddof=1) / np.sqrt(20) for w in wide]
    assert (abs(a - b) < 4 * np.hypot(*errors) + 1e-9).all()


@pytest.mark.physics
def test_analog_photons_keep_their_energy():
    for ledger in analog_tally().ledger:
        left = ledger[EMITTED] - ledger[ABSORBED] - ledger[ESCAPED]
        assert abs(left) < 1e-11 * ledger[EMITTED]
    ledger = analog_tally().ledger.sum(0)
    assert (ledger[[ABSORBED, ESCAPED]] > 0).all()


@pytest.mark.physics
@pytest.mark.parametrize(
    ("radius_cm", "total", "bins"),
    # an independent Monte Carlo, as printed
    [(8.0, 0.47, (2.1, 1.07, 0.61, 0.30)), (10.0, 0.81, None)],
    ids=["16 cm", "20 cm"],
)
def test_scatter_to_primary_of_cylinders(radius_cm, total, bins):
    scene = scene_of(upright(radius_cm, 20.0, GRID), ["water"], PANEL, tube())
    spr, error = scatter_to_primary(scene, torch.tensor([2 * radius_cm]))
    # 20 cm: .841 ± .002, as analog photons have it within 1 %; over the primary of the same 4×4
    # pixels .823
    assert spr.total == pytest.approx(total, rel=0.02 if bins else 0.06)
    assert error.total < 0.005 * total
    if bins:
        # the last printed digit is 1-2 % of it, and the width of their centre is not told
        np.testing.assert_allclose(spr.bins, bins, rtol=0.05)


@pytest.mark.physics
def test_scatter_to_primary_of_a_head():
    head = EllipsoidPhantom(
        [
            Ellipse((0.0, 0.0, 0.0), (7.5, 9.5, 10.0), (1.0, 0.0)),
            Ellipse((0.0, 0.0, 0.0), (7.0, 9.0, 9.5), (-1.0, 1.85)),  # skull
            Ellipse((0.0, 0.0, 0.0), (6.4, 8.4, 8.9), (1.0, -1.85)),
        ],
        ["water", "cortical_bone"],
    )
    maps = head.volumes(GRID, 4).clamp(min=0)
    scene = scene_of(maps, ["water", "cortical_bone"], PANEL, tube())
    spr, error = scatter_to_primary(scene, torch.tensor([17.8, 1.2 * 1.85]))
    assert error.total < 0.01 * spr.total
    assert spr.total == pytest.approx(0.48, rel=0.03)


@pytest.mark.parametrize("n_points", [None, 4], ids=["analog", "forced"])
def test_the_same_seed_gives_the_same_counts(n_points):
    """On one thread and on two, and however chunks are shared out among calls."""
    before = numba.get_num_threads()
    scene = small()

    def run(n_chunks=6, first_chunk=0, seed=4, view=1):
        panel = scene.panel(view)
        return follow(scene, panel, seed, n_chunks, 300, first_chunk, n_points, by_kind=True)

    try:
        numba.set_num_threads(1)
        one = run()
        numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
        two = run()
    finally:
        numba.set_num_threads(before)
    parts = [run(2), run(1, 2), run(3, 3)]
    for field in ("values", "ledger"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
        together = np.concatenate([getattr(part, field) for part in parts])
        assert np.array_equal(getattr(one, field), together)
    assert one.values.any()
    assert not np.array_equal(one.values, run(seed=5).values)
    assert not np.array_equal(one.values[0], one.values[1])


def test_kinds_add_up():
    scene = small()
    panel = scene.panel(0)
    apart, together = (
        follow(scene, panel, 1, 4, 300, by_kind=by_kind) for by_kind in (True, False)
    )
    assert together.values.shape[1] == 1
    np.testing.assert_allclose(apart.values.sum(1), together.values[:, 0], rtol=1e-10, atol=1e-15)
    assert not apart.values[:, PRIMARY].any()


def test_photons_below_the_lowest_energy_are_left_out():
    maps = upright(5.0, 12.0, FEW.volume)
    lone = Beam(torch.tensor([60.0]), torch.ones(1))
    scenes = (scene_of(maps, ["water"], FEW, beam) for beam in (lone, SIXTY_keV))
    narrow, wide = (
        follow(scene, scene.panel(0), 1, 4, 500, by_kind=True).values.sum((0, 2, 3, 4))
        for scene in scenes
    )
    assert narrow[COMPTON_ONCE] == 0 < wide[COMPTON_ONCE]
    assert narrow[RAYLEIGH_ONCE] == pytest.approx(wide[RAYLEIGH_ONCE])


@pytest.mark.physics
def test_more_points_give_the_same_scatter_with_less_noise():
    scene = small()
    total = {}
    for n_points in (1, 4, 16):
        values = follow(scene, scene.panel(0), 1, 20, 2000, n_points=n_points).values
        total[n_points] = values.sum((1, 4))[:, 2:6, 3:9]
    means = [v.mean((1, 2)) for v in total.values()]
    errors = [m.std(ddof=1) / np.sqrt(20) for m in means]
    for mean, error in zip(means[1:], errors[1:], strict=True):
        assert abs(mean.mean() - means[0].mean()) < 4 * np.hypot(error, errors[0])
    noise = [v.std(0).mean() for v in total.values()]
    assert noise[0] > 1.5 * noise[1] > 1.5 * noise[2]


@pytest.mark.physics
def test_standard_errors_are_true():
    scene = small(pixel_cm=1.6)
    estimates = [SIXTEEN_CHUNKS.estimate(scene, 0, ALL, seed) for seed in range(24)]
    counts = torch.stack([estimate.counts(ALL)[0] for estimate in estimates])
    claimed = torch.stack([estimate.standard_error[0] for estimate in estimates])
    bright = counts.mean(0) > 0.3 * counts.mean(0).max()
    spread = counts.var(0)[bright].mean().sqrt().item()
    assert spread == pytest.approx(claimed.square().mean(0)[bright].mean().sqrt().item(), rel=0.2)
    relative = (claimed / counts)[:, bright].mean().item()
    noise = torch.stack([estimate.relative_noise[0] for estimate in estimates]).mean().item()
    assert noise == pytest.approx(relative, rel=0.05)


@pytest.mark.physics
def test_what_is_asked_for_is_reached_and_no_more():
    scene, histories = small(pixel_cm=1.6), {}
    for accuracy in (0.04, 0.02, 0.01):
        scatter = ObjectScatter(accuracy, pixel_cm=1.6, chunk_histories=50)
        estimate = scatter.estimate(scene, 2, ALL, 7)
        assert estimate.relative_noise.max() <= accuracy
        assert estimate.relative_noise.max() > 0.8 * accuracy
        histories[accuracy] = estimate.n_histories
    assert histories[0.02] / histories[0.04] == pytest.approx(4, rel=0.3)
    assert histories[0.01] / histories[0.02] == pytest.approx(4, rel=0.3)


@pytest.mark.physics
def test_the_noisiest_bin_decides():
    scene = scene_of(upright(5.0, 12.0, FEW.volume), ["water"], FEW, tube(), pixel_cm=1.6)
    registered = ideal(scene.beam.energies_keV)
    scatter = ObjectScatter(0.04, pixel_cm=1.6, chunk_histories=50)
    estimate = scatter.estimate(scene, 0, registered, 1)
    assert estimate.relative_noise.max() <= 0.04
    one = scatter.estimate(scene, 0, registered.sum(0, keepdim=True), 1)
    assert one.n_histories < estimate.n_histories


def test_photons_run_out_before_the_accuracy():
    estimate = SIXTEEN_CHUNKS.estimate(small(pixel_cm=1.6), 0, ALL, 1)
    assert estimate.n_histories == 16 * 500
    assert estimate.relative_noise.max() > 1e-9


def centre(estimate, registered):
    """Counts of the middle half of the panel and their error, as if pixels were wholly alike."""
    n_rows, n_columns = estimate.photons.shape[1:]
    half = (
        slice(n_rows // 4, n_rows - n_rows // 4),
        slice(n_columns // 4, n_columns - n_columns // 4),
    )
    error = estimate.standard_error.sum(0)[half].mean()
    return estimate.counts(registered).sum(0)[half].mean(), error


@pytest.mark.physics
@pytest.mark.parametrize(
    "changes",
    [{"margin_cm": 6.4}, {"pixel_cm": 0.8}, {"pixel_cm": 3.2}],
    ids=str,
)
def test_how_scatter_is_tallied_changes_no_more_than_its_error(changes):
    scatter = ObjectScatter(0.01)
    reference, error = centre(scatter.estimate(small(pixel_cm=1.6), 0, ALL, 1), ALL)
    other = small(**{"pixel_cm": 1.6, **changes})
    changed, its_error = centre(scatter.estimate(other, 0, ALL, 2), ALL)
    assert abs(changed - reference) < 3 * torch.hypot(error, its_error)
    assert error < 0.02 * reference


@pytest.mark.physics
def test_scatter_does_not_see_small_voxels():
    maps, scatter = upright(5.0, 12.0, GRID), ObjectScatter(0.01)
    (fine, error), (coarse, its_error) = (
        centre(
            scatter.estimate(scene_of(maps, ["water"], FINE, SIXTY_keV, **sizes), 0, ALL, 1), ALL
        )
        for sizes in ({"pixel_cm": 1.6}, {"pixel_cm": 1.6, "voxel_cm": 0.64})
    )
    assert abs(fine - coarse) < 3 * torch.hypot(error, its_error)


@pytest.mark.physics
def test_counts_are_those_of_a_pixel_of_the_true_panel():
    fine = replace(FEW, n_rows=16, n_columns=24, pixel_cm=1.6)
    scatter, maps = ObjectScatter(0.01), upright(5.0, 12.0, FEW.volume)
    beam = replace(SIXTY_keV, fluence=1e5 * SIXTY_keV.fluence)
    large, small_ = (scene_of(maps, ["water"], g, beam, pixel_cm=1.6) for g in (FEW, fine))
    (a, a_error), (b, b_error) = (
        centre(scatter.estimate(scene, 0, ALL, seed), ALL)
        for seed, scene in enumerate((large, small_))
    )
    # as fluence is per pixel, large pixels and small ones count alike
    assert abs(a - b) < 3 * torch.hypot(a_error, b_error)


@pytest.mark.physics
def test_groups_may_be_few():
    maps, energies = upright(5.0, 12.0, FEW.volume), tube().energies_keV
    above = silicon().above(torch.tensor(FOUR_BINS), energies)
    registered = above[:-1] - above[1:]
    totals, errors = [], []
    for stride in (1, 3):
        beam = replace(tube(), stride=stride)
        scene = scene_of(maps, ["water"], FEW, beam, pixel_cm=1.6)
        columns = registered.flip(-1)[:, ::stride].flip(-1)
        estimate = ObjectScatter(0.015).estimate(scene, 0, columns, stride)
        assert torch.equal(estimate.groups_keV, beam.groups_keV)
        totals.append(estimate.counts(columns)[:, 2:6, 3:9].mean((1, 2)))
        errors.append(estimate.standard_error[:, 2:6, 3:9].mean((1, 2)))
    assert (abs(totals[0] - totals[1]) < 3 * torch.hypot(*errors)).all()


def test_a_thick_fan_scatters_as_the_row_of_a_cone():
    fan = FanBeam(4, 24, 1.6, ImageGrid(64, 64, 0.32), 62.5, 109.7)
    slices = upright(8.0, 0.32, replace(GRID, n_z=1))[:, 0]
    thick, slab = thick_fan(fan, slices, row_cm=4.8, object_cm=GRID.n_z * 0.32)
    cone = replace(PANEL, n_views=4, n_rows=3)  # of 1.6 cm each
    tall = slices[:, None].expand(-1, GRID.n_z, -1, -1)
    fan_scene = scene_of(slab, ["water"], thick, SIXTY_keV)
    cone_scene = scene_of(tall, ["water"], cone, SIXTY_keV)
    one, three = (
        follow(scene, scene.panel(1), 1, 4, 4000).values.sum((0, 1, 4))
        for scene in (fan_scene, cone_scene)
    )
    # the same photons; a pixel three rows high has the fluence of one that is one row high
    np.testing.assert_allclose(one[0], three.mean(0), rtol=1e-6)


@pytest.mark.physics
def test_a_round_object_looks_alike_in_every_view():
    scatter = ObjectScatter(0.01)
    counts, errors = zip(
        *(
            centre(scatter.estimate(small(pixel_cm=1.6), view, ALL, view), ALL)
            for view in (0, 1, 4)
        ),
        strict=True,
    )
    for other, error in zip(counts[1:], errors[1:], strict=True):
        assert abs(other - counts[0]) < 3 * torch.hypot(error, errors[0])


@pytest.mark.physics
def test_an_object_off_the_axis_is_mirrored_from_the_other_side():
    """Moved along the columns: from behind, the panel's columns run the other way."""
    maps = upright(3.0, 12.0, FEW.volume, center_cm=(4.0, 0.0))
    scene = scene_of(maps, ["water"], FEW, SIXTY_keV)
    half_turn = 4
    assert scene.geometry.angles_rad[half_turn] == pytest.approx(pi)
    front, front_error = of_total(follow(scene, scene.panel(0), 1, 20, 4000))
    back, back_error = of_total(follow(scene, scene.panel(half_turn), 2, 20, 4000))
    away = (front - back[:, ::-1]) / np.hypot(front_error, back_error[:, ::-1])
    assert abs(away).max() < 4.5
    assert np.sqrt((away**2).mean()) == pytest.approx(1, abs=0.25)
    same = (front - back) / np.hypot(front_error, back_error)
    assert np.sqrt((same**2).mean()) > 5
    # column positions rise with x in view 0
    assert front[:, 6:].sum() > 1.5 * front[:, :6].sum()
    # above and below are alike
    up_down = (front - front[::-1]) / np.hypot(front_error, front_error[::-1])
    assert np.sqrt((up_down**2).mean()) == pytest.approx(1, abs=0.25)


def test_pixels_of_their_own_count_as_shared_ones_when_all_are_alike():
    scene = scene_of(upright(5.0, 12.0, FEW.volume), ["water"], FEW, tube())
    registered = ideal(scene.beam.energies_keV)
    estimate = SIXTEEN_CHUNKS.estimate(scene, 0, registered, 1)
    shared = estimate.counts(registered)
    assert shared.shape == (4, 8, 12)
    torch.testing.assert_close(estimate.counts(registered.expand(8, 12, -1, -1)), shared)
    torch.testing.assert_close(estimate.counts(registered.expand(12, -1, -1)), shared)
    # what is learned, or in single precision, counts as well
    learned = registered.float().requires_grad_()
    again = SIXTEEN_CHUNKS.estimate(scene, 0, learned, 1)
    torch.testing.assert_close(again.counts(learned).detach(), shared)
    gains = torch.linspace(0.5, 1.5, 12)
    own = estimate.counts(gains[:, None, None] * registered)
    torch.testing.assert_close(own, gains * shared)


def test_views_and_seeds_have_photons_of_their_own():
    scene = small(pixel_cm=1.6)
    first = SIXTEEN_CHUNKS.estimate(scene, 0, ALL, 1)
    assert torch.equal(first.photons, SIXTEEN_CHUNKS.estimate(scene, 0, ALL, 1).photons)
    for view, seed in ((1, 1), (0, 2)):
        other = SIXTEEN_CHUNKS.estimate(scene, view, ALL, seed)
        assert not torch.allclose(first.photons, other.photons, rtol=1e-4)


POSITIVE = {
    "accuracy": 0.0,
    "pixel_cm": 0.0,
    "n_points": 0,
    "group_stride": 0,
    "chunk_histories": 0,
    "max_histories": 0,
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((name, zero, "must be positive, got 0") for name, zero in POSITIVE.items()),
        *((name, zero - 1, "must be positive, got -1") for name, zero in POSITIVE.items()),
        ("accuracy", float("nan"), "must be positive, got nan"),
        ("smoothing_cm", -0.1, "must be 0 or more, got -0.1"),
        ("voxel_cm", -0.1, "must be 0 or more, got -0.1"),
    ],
)
def test_numbers_that_make_no_simulation_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"{name} of the scatter simulation {message}"):
        ObjectScatter(**{name: value})


def test_a_response_for_other_groups_is_refused():
    with pytest.raises(ValueError, match="column for each of 56 groups, got 40"):
        SIXTEEN_CHUNKS.estimate(small(), 0, torch.ones(1, 40), 1)
