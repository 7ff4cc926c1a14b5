"""The scatter estimate reaches the requested accuracy, and its standard error is correct."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
import torch
from support.cylinders import (
    ALL,
    FEW,
    FEW_GRID,
    GRID,
    SIXTEEN_CHUNKS,
    SIXTY_keV,
    ideal,
    of_total,
    small,
    tube,
    upright,
)
from support.scanners import FOUR_BINS, silicon

from pcctlearn.montecarlo.object.scene import scene_of
from pcctlearn.montecarlo.object.transport import ObjectScatter, follow


@pytest.mark.physics
def test_standard_errors_are_correct():
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
def test_requested_accuracy_is_reached_and_not_exceeded():
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
def test_noisiest_bin_determines_the_histories():
    scene = scene_of(upright(5.0, 12.0, FEW_GRID), FEW_GRID, ["water"], FEW, tube(), pixel_cm=1.6)
    registered = ideal(scene.spectrum.energies_keV)
    scatter = ObjectScatter(0.04, pixel_cm=1.6, chunk_histories=50)
    estimate = scatter.estimate(scene, 0, registered, 1)
    assert estimate.relative_noise.max() <= 0.04
    one = scatter.estimate(scene, 0, registered.sum(0, keepdim=True), 1)
    assert one.n_histories < estimate.n_histories


def test_max_histories_limits_the_histories():
    estimate = SIXTEEN_CHUNKS.estimate(small(pixel_cm=1.6), 0, ALL, 1)
    assert estimate.n_histories == 16 * 500
    assert estimate.relative_noise.max() > 1e-9


def central_mean(estimate, registered):
    """Mean counts of the middle half of the panel, and their error for fully correlated pixels."""
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
    [{"pixel_cm": 0.8}, {"pixel_cm": 3.2}],
    ids=str,
)
def test_tallied_pixel_size_does_not_change_scatter(changes):
    scatter = ObjectScatter(0.01)
    reference, error = central_mean(scatter.estimate(small(pixel_cm=1.6), 0, ALL, 1), ALL)
    other = small(**{"pixel_cm": 1.6, **changes})
    changed, its_error = central_mean(scatter.estimate(other, 0, ALL, 2), ALL)
    assert abs(changed - reference) < 3 * torch.hypot(error, its_error)
    assert error < 0.02 * reference


@pytest.mark.physics
def test_voxel_size_does_not_change_scatter():
    maps, scatter = upright(5.0, 12.0, GRID), ObjectScatter(0.01)
    (fine, error), (coarse, its_error) = (
        central_mean(
            scatter.estimate(scene_of(maps, GRID, ["water"], FEW, SIXTY_keV, **sizes), 0, ALL, 1),
            ALL,
        )
        for sizes in ({"pixel_cm": 1.6}, {"pixel_cm": 1.6, "voxel_cm": 0.64})
    )
    assert abs(fine - coarse) < 3 * torch.hypot(error, its_error)


@pytest.mark.physics
def test_counts_refer_to_the_true_pixels():
    fine = replace(FEW, n_rows=16, n_columns=24, pixel_cm=1.6)
    scatter, maps = ObjectScatter(0.01), upright(5.0, 12.0, FEW_GRID)
    beam = replace(SIXTY_keV, fluence=1e5 * SIXTY_keV.fluence)
    large, small_ = (
        scene_of(maps, FEW_GRID, ["water"], g, beam, pixel_cm=1.6) for g in (FEW, fine)
    )
    (a, a_error), (b, b_error) = (
        central_mean(scatter.estimate(scene, 0, ALL, seed), ALL)
        for seed, scene in enumerate((large, small_))
    )
    # fluence is per pixel, so large and small pixels have equal counts
    assert abs(a - b) < 3 * torch.hypot(a_error, b_error)


@pytest.mark.physics
def test_energy_groups_do_not_change_scatter():
    maps, energies = upright(5.0, 12.0, FEW_GRID), tube().energies_keV
    above = silicon().above(torch.tensor(FOUR_BINS), energies)
    registered = above[:-1] - above[1:]
    totals, errors = [], []
    for stride in (1, 3):
        beam = replace(tube(), stride=stride)
        scene = scene_of(maps, FEW_GRID, ["water"], FEW, beam, pixel_cm=1.6)
        columns = registered.flip(-1)[:, ::stride].flip(-1)
        estimate = ObjectScatter(0.015).estimate(scene, 0, columns, stride)
        assert torch.equal(estimate.groups_keV, beam.groups_keV)
        totals.append(estimate.counts(columns)[:, 2:6, 3:9].mean((1, 2)))
        errors.append(estimate.standard_error[:, 2:6, 3:9].mean((1, 2)))
    assert (abs(totals[0] - totals[1]) < 3 * torch.hypot(*errors)).all()


@pytest.mark.physics
def test_round_object_scatters_equally_in_every_view():
    scatter = ObjectScatter(0.01)
    counts, errors = zip(
        *(
            central_mean(scatter.estimate(small(pixel_cm=1.6), view, ALL, view), ALL)
            for view in (0, 1, 4)
        ),
        strict=True,
    )
    for other, error in zip(counts[1:], errors[1:], strict=True):
        assert abs(other - counts[0]) < 3 * torch.hypot(error, errors[0])


@pytest.mark.physics
def test_opposite_view_is_mirrored():
    """An object shifted along the columns has the opposite shift after half a turn."""
    maps = upright(3.0, 12.0, FEW_GRID, center_cm=(4.0, 0.0))
    scene = scene_of(maps, FEW_GRID, ["water"], FEW, SIXTY_keV)
    half_turn = 4
    assert scene.geometry.angles_rad[half_turn] == pytest.approx(pi)
    front, front_error = of_total(follow(scene, scene.panel(0), 1, 20, 4000))
    back, back_error = of_total(follow(scene, scene.panel(half_turn), 2, 20, 4000))
    away = (front - back[:, ::-1]) / np.hypot(front_error, back_error[:, ::-1])
    assert abs(away).max() < 4.5
    assert np.sqrt((away**2).mean()) == pytest.approx(1, abs=0.25)
    same = (front - back) / np.hypot(front_error, back_error)
    assert np.sqrt((same**2).mean()) > 5
    # columns increase with x in view 0
    assert front[:, 6:].sum() > 1.5 * front[:, :6].sum()
    # upper and lower rows are equal
    up_down = (front - front[::-1]) / np.hypot(front_error, front_error[::-1])
    assert np.sqrt((up_down**2).mean()) == pytest.approx(1, abs=0.25)


def test_response_of_each_pixel():
    scene = scene_of(upright(5.0, 12.0, FEW_GRID), FEW_GRID, ["water"], FEW, tube())
    registered = ideal(scene.spectrum.energies_keV)
    estimate = SIXTEEN_CHUNKS.estimate(scene, 0, registered, 1)
    shared = estimate.counts(registered)
    assert shared.shape == (4, 8, 12)
    torch.testing.assert_close(estimate.counts(registered.expand(8, 12, -1, -1)), shared)
    torch.testing.assert_close(estimate.counts(registered.expand(12, -1, -1)), shared)
    # a learned response and single precision are accepted
    learned = registered.float().requires_grad_()
    again = SIXTEEN_CHUNKS.estimate(scene, 0, learned, 1)
    torch.testing.assert_close(again.counts(learned).detach(), shared)
    gains = torch.linspace(0.5, 1.5, 12)
    individual = estimate.counts(gains[:, None, None] * registered)
    torch.testing.assert_close(individual, gains * shared)


def test_views_and_seeds_are_independent():
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
    ("name", "value", "words"),
    [
        *((name, zero, rf".* {zero}$") for name, zero in POSITIVE.items()),
        *((name, zero - 1, rf".* {zero - 1}$") for name, zero in POSITIVE.items()),
        ("accuracy", float("nan"), ".* nan$"),
        ("smoothing_cm", -0.1, ".* -0.1$"),
        ("voxel_cm", -0.1, ".* -0.1$"),
    ],
)
def test_invalid_parameters_raise(name, value, words):
    with pytest.raises(ValueError, match=f"{name}{words}"):
        ObjectScatter(**{name: value})


def test_response_for_other_groups_raises():
    with pytest.raises(ValueError, match="56 groups, got 40"):
        SIXTEEN_CHUNKS.estimate(small(), 0, torch.ones(1, 40), 1)
