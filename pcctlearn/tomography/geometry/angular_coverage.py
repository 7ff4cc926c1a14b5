"""Angular widths of the views of a scan, and the gaps between them."""

from math import pi
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcctlearn.validation import FloatArray

_TAPER_RAD = pi / 6  # width of the taper beside a gap


class AngularCoverage(NamedTuple):
    """The arc of each view on the circle, and the gaps between the arcs.

    The arc of a view extends half the distance to either neighbour. If a neighbour is farther away
    than largest_bridged_rad, the arc extends half of step_rad on that side; the rest is a gap.

    centers_rad and view_weights_rad (view): center and width of every arc, in the order of the
    views; gaps_rad (gap, 2): start in [0, 2π) and end of every gap.
    """

    centers_rad: FloatArray
    view_weights_rad: FloatArray
    gaps_rad: FloatArray

    @classmethod
    def of(
        cls, angles_rad: FloatArray, step_rad: float, largest_bridged_rad: float
    ) -> "AngularCoverage":
        """Coverage by views at angles_rad, in any order and modulo 2π, typically step_rad apart."""
        order, views, distances = _around_the_circle(angles_rad)
        is_gap = distances > largest_bridged_rad
        after = np.where(is_gap, np.minimum(step_rad, distances), distances) / 2
        before = np.roll(after, 1)
        centers, steps = np.empty_like(views), np.empty_like(views)
        centers[order], steps[order] = views + (after - before) / 2, after + before
        starts, lengths = (views + after)[is_gap], (distances - 2 * after)[is_gap]
        return cls(centers, steps, np.stack([starts % (2 * pi), starts % (2 * pi) + lengths], -1))

    @staticmethod
    def median_step_rad(angles_rad: FloatArray) -> float:
        """The median distance from view to view around the circle."""
        _, _, distances = _around_the_circle(angles_rad)
        if not (distances > 1e-9).all():
            raise ValueError(
                "view_angles_rad lists an angle twice (modulo 2π): drop one of the two"
            )
        return float(np.median(distances))

    @property
    def arc_rad(self) -> float:
        """The sum of the widths."""
        return float(self.view_weights_rad.sum())

    def missing_rad(self, turn_rad: FloatArray) -> FloatArray:
        """Total width of the angles that lie in a gap both before and after a rotation by turn."""
        starts, lengths = self.gaps_rad[:, 0], np.diff(self.gaps_rad)[:, 0]
        later = (starts - starts[:, None] - turn_rad[:, None, None]) % (2 * pi)
        begins_later = np.clip(lengths[:, None] - later, 0, lengths)
        began_before = np.clip(later + lengths - 2 * pi, 0, lengths[:, None])
        return (begins_later + began_before).sum((1, 2))

    def distance_to_gap_rad(self, angles_rad: FloatArray) -> FloatArray:
        """Distance from each angle to the nearest gap; zero in a gap, infinite without gaps."""
        if not len(self.gaps_rad):
            return np.full(np.shape(angles_rad), np.inf)
        starts, ends = self.gaps_rad[np.argsort(self.gaps_rad[:, 0])].T
        lengths = np.append(starts[1:], starts[0] + 2 * pi) - ends  # of the arc after each gap
        nodes = np.stack([starts, ends, ends + lengths / 2], -1).ravel()
        distances = np.stack([0 * lengths, 0 * lengths, lengths / 2], -1).ravel()
        return np.interp(angles_rad % (2 * pi), nodes, distances, period=2 * pi)

    def taper(self, angles_rad: FloatArray) -> FloatArray:
        """Weights that fall from one to zero as sin² over the 30° beside a gap."""
        fraction = np.minimum(self.distance_to_gap_rad(angles_rad) / _TAPER_RAD, 1)
        return np.sin(pi / 2 * fraction) ** 2


def _around_the_circle(angles_rad: FloatArray) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """Order of the views around the circle, their angles in [0, 2π), and the steps between them."""
    on_circle = angles_rad % (2 * pi)
    order = np.argsort(on_circle)
    views = on_circle[order]
    return order, views, np.diff(views, append=views[0] + 2 * pi)
