"""Angular widths of views, the gaps between them, and distances from the gaps."""

from math import pi, radians

import numpy as np
import pytest

from pcctlearn.tomography.geometry.angular_coverage import AngularCoverage

STEP = radians(10)


def of_degrees(*degrees, bridged_deg=25):
    return AngularCoverage.of(np.radians(degrees), STEP, radians(bridged_deg))


def test_a_full_turn_has_no_gap():
    coverage = of_degrees(*range(5, 365, 10))
    assert coverage.gaps_rad.shape == (0, 2)
    assert coverage.arc_rad == pytest.approx(2 * pi)
    np.testing.assert_allclose(coverage.view_weights_rad, STEP)
    assert (coverage.taper(np.linspace(-9, 9, 50)) == 1).all()


def test_neighbours_of_lost_views_are_wider():
    coverage = of_degrees(*range(0, 100, 10), *range(110, 360, 10))
    assert not len(coverage.gaps_rad)
    np.testing.assert_allclose(
        coverage.view_weights_rad[[8, 9, 10, 11]], STEP * np.array([1, 1.5, 1.5, 1])
    )
    np.testing.assert_allclose(np.degrees(coverage.centers_rad[[9, 10]]), [92.5, 107.5])


def test_widths_and_gaps_tile_the_circle():
    rng = np.random.default_rng(3)
    angles = rng.uniform(-20, 20, 60)
    coverage = AngularCoverage.of(angles, STEP, radians(12))
    lengths = np.diff(coverage.gaps_rad)[:, 0]
    assert len(lengths) > 3
    assert (lengths > 0).all()
    assert coverage.arc_rad + lengths.sum() == pytest.approx(2 * pi)
    starts = coverage.centers_rad - coverage.view_weights_rad / 2
    edges = np.sort(np.concatenate([starts % (2 * pi), coverage.gaps_rad[:, 0] % (2 * pi)]))
    ends = np.concatenate([starts + coverage.view_weights_rad, coverage.gaps_rad[:, 1]])
    np.testing.assert_allclose(np.sort(ends % (2 * pi)), edges, atol=1e-12)


def test_the_taper_falls_to_zero_beside_gaps_only():
    coverage = of_degrees(*range(0, 200, 10), *range(300, 360, 10))  # a gap from 195° to 295°
    angles = np.radians([195, 210, 225, 0, 260, 280, 265, 295, 194.9])
    expected = [0, 0, 0, 1, 0, 0, 0, 0, np.sin(pi / 2 * 0.1 / 30) ** 2]
    np.testing.assert_allclose(coverage.taper(angles), expected, atol=1e-12)
    middle = np.radians([180, 165, 310])  # 15°, 30° and 15° from the gap
    np.testing.assert_allclose(coverage.taper(middle), [0.5, 1, 0.5], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_missing_angles_lie_in_a_gap_before_and_after_a_rotation(seed):
    rng = np.random.default_rng(seed)
    coverage = AngularCoverage.of(rng.uniform(0, 2 * pi, 15), STEP, radians(15))
    circle = (np.arange(20000) + 0.5) / 20000 * 2 * pi
    turns = rng.uniform(-7, 7, 6)

    def is_in_gap(angles):
        return coverage.distance_to_gap_rad(angles) < 1e-9

    expected = [2 * pi * (is_in_gap(circle) & is_in_gap(circle + turn)).mean() for turn in turns]
    np.testing.assert_allclose(coverage.missing_rad(turns), expected, atol=5e-3)


def test_an_angle_listed_twice_raises_an_error():
    with pytest.raises(ValueError, match=r"view_angles_rad .* twice"):
        AngularCoverage.median_step_rad(np.array([0.3, 1.0, 0.3 + 2 * pi]))
