"""Random scans: weights sum to one over every line, or the scan is rejected.

Rays and their conjugates are paired by their angles, and weights are interpolated between views.
"""

from math import pi

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam, ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.weights import redundancy_weights

N_BEAMS, N_RAYS = 2000, 300
SUM_TOLERANCE = 1e-3
BRIDGED_RAD = np.radians(5)


def random_beam(rng):
    """Random type, arc, offsets, image size and lost views."""
    n_views, n_columns = int(rng.integers(24, 300)), int(rng.integers(8, 32))
    pixel_cm, offset_cm = 10 / n_columns, 0.0
    if rng.random() < 0.6:
        offset_cm = pixel_cm / 2 * float(rng.integers(-n_columns, n_columns + 1))
    if rng.random() < 0.3:
        offset_cm += rng.uniform(-1, 1)
    n = int(rng.choice([6, 12, 24]))
    image = ImageGrid(n, n, rng.uniform(2, 16) / n)
    kind = rng.choice(["parallel", "fan", "cone"])
    if kind == "parallel":
        arc_rad = pi * float(rng.integers(1, 5))
        start_rad = rng.uniform(-9, 9)
        return ParallelBeam(n_views, n_columns, pixel_cm, arc_rad, offset_cm, start_rad), image
    source_cm = image.corner_radius_cm + 2.1 * image.voxel_cm + rng.uniform(1, 60)
    setup = {
        "source_to_axis_cm": source_cm,
        "source_to_detector_cm": source_cm * rng.uniform(1, 2),
        "offset_cm": offset_cm,
        "start_rad": rng.uniform(-9, 9),
        "axis_offset_cm": float(rng.choice([0.0, 0.0, rng.uniform(-0.5, 0.5)])),
    }
    arc_rad = float(rng.choice([2 * pi, rng.uniform(pi, 2 * pi)]))
    angles = setup["start_rad"] + arc_rad / n_views * np.arange(n_views)
    if rng.random() < 0.6:
        lost = np.zeros(n_views, bool)
        for _ in range(rng.integers(1, 4)):
            first = rng.integers(n_views)
            lost[first : first + rng.choice([1, 2, 3, n_views // 20, n_views // 6])] = True
        angles = rng.permutation(angles[~lost] + 2 * pi * rng.integers(-1, 2))
        setup["view_angles_rad"] = tuple(angles)
    else:
        setup["arc_rad"] = arc_rad
    if kind == "fan":
        return FanBeam(len(angles), n_columns, pixel_cm, **setup), image
    volume = VolumeGrid(1, image.n_y, image.n_x, image.voxel_cm)
    return ConeBeam(len(angles), 20, n_columns, pixel_cm, **setup), volume


def unresolved(weights):
    """Error bound of linear interpolation: the largest second difference nearby."""
    second = [np.zeros_like(weights), np.zeros_like(weights)]
    second[0][1:-1] = np.abs(np.diff(weights, 2, axis=0))
    second[1][:, 1:-1] = np.abs(np.diff(weights, 2, axis=1))
    return maximum_filter(second[0], 3) + maximum_filter(second[1], 3)


class Rays:
    """Weights of a scan, as functions of the angle and of the position on the detector."""

    def __init__(self, beam, weights):
        self.beam, self.weights = beam, weights
        self.is_parallel = isinstance(beam, ParallelBeam)
        self.angles, self.axis_rad = beam.angles_rad, 0.0
        is_typed = self.is_parallel or beam.view_angles_rad is None
        if not self.is_parallel:  # three turns of the circle
            self.axis_rad = np.arctan(beam.axis_offset_cm / beam.source_to_axis_cm)
            order = np.argsort(self.angles % (2 * pi))
            turns = 2 * pi * np.arange(-1, 2)[:, None] + (self.angles % (2 * pi))[order]
            self.angles, self.weights = turns.ravel(), np.tile(self.weights[order], (3, 1))
        self.steps = np.diff(self.angles)
        usual = np.median(self.steps)
        self.is_gap = self.steps > max((1.01 if is_typed else 2.5) * usual, BRIDGED_RAD)
        self.half_step = usual / 2 * (1 + 1e-9)
        self.unresolved = unresolved(self.weights)

    def gammas(self, columns_cm):
        """Angle of a ray from the ray through the axis."""
        if self.is_parallel:
            return 0.0 * columns_cm
        return np.arctan(columns_cm / self.beam.source_to_detector_cm) - self.axis_rad

    def mirrored_cm(self, columns_cm):
        """Position of the conjugate ray on the detector."""
        if self.is_parallel:
            return -columns_cm
        return self.beam.source_to_detector_cm * np.tan(self.axis_rad - self.gammas(columns_cm))

    def at(self, angles, columns_cm):
        """Weight of the ray (zero if it is not measured), error bound of its interpolation, and
        whether the weight is known. It is unknown at edges of the panel and of gaps.
        """
        beam = self.beam
        column = (columns_cm - beam.columns_cm[0]) / beam.column_cm
        last = beam.n_columns - 1
        on_panel = (column >= 0) & (column <= last)
        beside_panel = (column < -0.5) | (column > last + 0.5)
        left = np.clip(column.astype(int), 0, last - 1)
        after = np.clip(np.searchsorted(self.angles, angles), 1, len(self.angles) - 1)
        before = after - 1
        to_either = np.stack([angles - self.angles[before], self.angles[after] - angles])
        in_arc = ~self.is_gap[before] & (to_either >= 0).all(0)
        in_gap = ~in_arc & (np.abs(to_either) > self.half_step).all(0)
        right_part, after_part = column - left, to_either[0] / self.steps[before]

        def interpolated(values):
            rows = [
                np.take_along_axis(values[k], left[:, None] + [0, 1], 1) for k in (before, after)
            ]
            ends = [row[:, 0] * (1 - right_part) + row[:, 1] * right_part for row in rows]
            return np.where(on_panel & in_arc, ends[0] * (1 - after_part) + ends[1] * after_part, 0)

        is_known = (on_panel & in_arc) | beside_panel | in_gap
        return interpolated(self.weights), interpolated(self.unresolved), is_known

    def line(self, angles, columns_cm):
        """All rays of a line: (angles, columns_cm) of each."""
        if self.is_parallel:
            return [(angles + j * pi, (-1) ** j * columns_cm) for j in range(-4, 5)]
        conjugate = angles + pi - 2 * self.gammas(columns_cm)
        both = [(angles, columns_cm), (conjugate, self.mirrored_cm(columns_cm))]
        return [(angles % (2 * pi), columns_cm) for angles, columns_cm in both]

    def sums(self, views, columns):
        """Sum of the weights of a ray and of all other rays of its line."""
        line = self.line(self.beam.angles_rad[views], self.beam.columns_cm[columns])
        total, missed, is_known = zip(*(self.at(*ray) for ray in line), strict=True)
        return sum(total), sum(missed), np.all(is_known, 0)

    def distances_cm(self, columns_cm):
        """Signed distances of rays from the axis."""
        if self.is_parallel:
            return columns_cm
        radius_cm = self.beam.source_to_axis_cm / np.cos(self.axis_rad)
        return radius_cm * np.sin(self.gammas(columns_cm))

    def measures(self, angles, columns_cm):
        """Whether a view and a column lie near each of these rays."""
        column = (columns_cm - self.beam.columns_cm[0]) / self.beam.column_cm
        after = np.clip(np.searchsorted(self.angles, angles), 1, len(self.angles) - 1)
        in_arc = ~self.is_gap[after - 1] & (angles >= self.angles[0]) & (angles <= self.angles[-1])
        neighbours = np.stack([self.angles[after], self.angles[after - 1]])
        nearest = np.abs(angles - neighbours).min(0)
        on_panel = (column > -0.5 - 1e-6) & (column < self.beam.n_columns - 0.5 + 1e-6)
        return on_panel & (in_arc | (nearest <= self.half_step))


@pytest.fixture(scope="module")
def scans():
    """Random beams, grids and weights; None for rejected scans."""
    rng, drawn = np.random.default_rng(7), []
    for _ in range(N_BEAMS):
        beam, grid = random_beam(rng)
        try:
            drawn.append((beam, grid, redundancy_weights(beam, grid)))
        except ValueError:
            drawn.append((beam, grid, None))
    return drawn


@pytest.mark.physics
def test_weights_sum_to_one_over_every_measured_line(scans):
    rng, exact, known = np.random.default_rng(8), [], []
    accepted = [(beam, weights) for beam, _, weights in scans if weights is not None]
    assert len(accepted) > 0.5 * N_BEAMS
    for beam, weights in accepted:
        views, columns = (rng.integers(0, n, N_RAYS) for n in (beam.n_views, beam.n_columns))
        total, missed, is_known = Rays(beam, weights).sums(views, columns)
        error = np.abs(total - 1)[is_known]
        assert (error <= SUM_TOLERANCE + missed[is_known]).all(), beam
        exact.append((error <= SUM_TOLERANCE).mean())
        known.append(is_known.mean())
    assert np.mean(known) > 0.95
    assert np.mean(exact) > 0.8  # the others lie where weights are steep for the steps of the scan


@pytest.mark.physics
def test_weights_of_views_around_the_circle_sum_to_one_turn(scans):
    """∫ w(θ, γ) + w(θ, −γ) dθ = 2π, for steps of any size."""
    n_checked = 0
    for beam, _, weights in scans:
        is_mirrored = np.isclose((2 * beam.offset_cm / beam.column_cm) % 1, [[0], [1]]).any()
        if weights is None or beam.axis_shift_cm or not is_mirrored:
            continue
        total = beam.view_weights_rad @ weights
        for column, u in enumerate(beam.columns_cm):
            mirrored = np.flatnonzero(np.isclose(beam.columns_cm, -u))
            if len(mirrored):
                assert total[column] + total[mirrored[0]] == pytest.approx(2 * pi, rel=1e-3), beam
            elif not beam.is_short_scan:
                assert total[column] == pytest.approx(2 * pi, rel=1e-3), beam
            n_checked += 1
    assert n_checked > 5000


@pytest.mark.physics
def test_scans_with_unmeasured_lines_are_rejected(scans):
    circle, unexplained = np.linspace(0, 2 * pi, 180)[:, None], 0
    for beam, grid, weights in scans:
        rays = Rays(beam, np.ones((beam.n_views, beam.n_columns)))
        columns_cm = np.concatenate([beam.columns_cm, rays.mirrored_cm(beam.columns_cm)])
        angles, columns_cm = np.broadcast_arrays(circle, columns_cm)
        unmeasured = ~np.any([rays.measures(*ray) for ray in rays.line(angles, columns_cm)], 0)
        distances_cm = np.abs(rays.distances_cm(columns_cm))
        if weights is None:
            unexplained += min(beam.detector_extent_cm) > 0 and not unmeasured.any()
            continue
        # up to two columns of a panel that is truncated on both sides
        visible_cm = distances_cm.max() - 2 * beam.column_cm / beam.magnification
        within = distances_cm < min(grid.fov_radius_cm, visible_cm)
        assert not (unmeasured & within).any(), beam
    assert unexplained <= 0.01 * N_BEAMS  # holes narrower than two degrees
