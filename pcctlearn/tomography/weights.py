"""Weights of rays in filtered back-projection: obliquity and redundancy."""

from math import ceil, pi

import numpy as np

from pcctlearn.tomography.geometry.angular_coverage import AngularCoverage
from pcctlearn.tomography.geometry.base import ARC_TOLERANCE_RAD, Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import DivergentGeometry
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.validation import FloatArray

_SAMPLES_PER_VIEW, _SAMPLES_PER_TURN = 4, 2000  # least numbers for averages of redundancy weights


def cosine_weights(beam: Geometry) -> FloatArray:
    """([row,] column): cosine (obliquity) weight of each ray on a flat detector.

    w = D / √(D² + u² + v²) · (1 + δ/R · u/D), with the distances D from the source to the detector
    and R to the axis, the axis offset δ, and (u, v) on the detector from the central ray; one for
    a parallel beam. In the plane of the orbit this is cos γ + δ/R sin γ, which is 1/R times the
    Jacobian from fan coordinates (θ, γ) to parallel ones.

    L. A. Feldkamp, L. C. Davis and J. W. Kress, "Practical cone-beam algorithm",
    J. Opt. Soc. Am. A 1 (1984). doi:10.1364/JOSAA.1.000612
    G. T. Gullberg, C. R. Crawford and B. M. W. Tsui, "Reconstruction algorithm for fan beam with a
    displaced center-of-rotation", IEEE Trans. Med. Imaging 5 (1986). doi:10.1109/TMI.1986.4307737
    """
    gamma = beam.gammas_rad
    weights = np.cos(gamma) + np.tan(beam.axis_gamma_rad) * np.sin(gamma)
    return weights / beam.obliquity() if isinstance(beam, ConeBeam) else weights


def redundancy_weights(beam: Geometry, grid: SliceGrid) -> FloatArray:
    """(view, column): weight of each ray within its line, so that every measured line counts once.

    A line is measured by the ray (θ, γ) and by its conjugate (θ + π − 2γ, −γ), if a view and a
    column exist for it; for a parallel beam by (θ, s) and (θ + π, −s). With a confidence c ≥ 0 of
    every ray, which is zero for rays that are not measured,

        w(θ, γ) = c(θ, γ) / (c(θ, γ) + c(θ + π − 2γ, −γ)),

    averaged over the angular width of a view. c is the product of a taper over the 30° beside gaps
    between views and, for a displaced detector, of a taper over the columns whose lines are
    measured twice.

    F. Noo, M. Defrise, R. Clackdoyle and H. Kudo, "Image reconstruction from fan-beam projections
    on less than a short scan", Phys. Med. Biol. 47 (2002). doi:10.1088/0031-9155/47/14/311
    G. Wang, "X-ray micro-CT with a displaced detector array", Med. Phys. 29 (2002).
    doi:10.1118/1.1489043
    """
    _require_measured(beam, grid)
    positions = _positions(beam, beam.columns_cm)
    direct, conjugate = (_column_confidence(beam, grid, side * positions) for side in (1, -1))
    if isinstance(beam, DivergentGeometry):
        return _over_the_turn(beam, direct, conjugate)
    return _over_half_turns(beam, direct, conjugate)


def extended_weights(
    beam: Geometry, weights: FloatArray, n_before: int, n_after: int
) -> FloatArray:
    """Redundancy weights (view, column), extended by n_before and n_after columns.

    Added columns have the weight of their edge. In a full turn with a displaced detector, columns
    beyond the shorter side have weight zero, because the longer side measures their lines.
    """
    wide = np.pad(weights, ((0, 0), (n_before, n_after)), mode="edge")
    extents = _end_positions(beam, beam.detector_extent_cm)
    is_displaced = np.abs(_positions(beam, beam.columns_cm)).max() > extents.min()
    if is_displaced and not beam.is_short_scan:
        beyond = slice(0, n_before) if extents.argmin() == 0 else slice(-n_after or wide.size, None)
        wide[:, beyond] = 0
    return wide


def _over_half_turns(beam: Geometry, direct: FloatArray, conjugate: FloatArray) -> FloatArray:
    """Weights of a parallel beam, whose n half turns measure a line from alternate sides."""
    n = round(beam.arc_rad / pi)
    half_turns = np.arange(beam.n_views + 1) * n / beam.n_views
    odd_half_turns = half_turns // 2 + np.maximum(half_turns % 2 - 1, 0)  # covered up to each view
    odd_part = np.diff(odd_half_turns)[:, None] * beam.n_views / n
    n_even, n_odd = (n + 1) // 2, n // 2
    even = direct / (n_even * direct + n_odd * conjugate)
    odd = direct / (n_odd * direct + n_even * conjugate) if n_odd else 0 * direct
    return (1 - odd_part) * even + odd_part * odd


def _over_the_turn(
    beam: DivergentGeometry, direct: FloatArray, conjugate: FloatArray
) -> FloatArray:
    """Weights of a fan, from the confidence of its columns and of their mirror images."""
    coverage, turn = beam.coverage(), pi - 2 * (beam.gammas_rad - beam.axis_gamma_rad)
    if not beam.is_short_scan:
        return np.tile(direct / (direct + conjugate), (beam.n_views, 1))
    n_samples = max(_SAMPLES_PER_VIEW, ceil(_SAMPLES_PER_TURN / beam.n_views))
    weights = np.zeros((beam.n_views, beam.n_columns))
    for offset in (np.arange(n_samples) + 0.5) / n_samples - 0.5:
        theta = (coverage.centers_rad + offset * coverage.view_weights_rad)[:, None]
        ray = coverage.taper(theta) * direct
        weights += ray / (ray + coverage.taper(theta + turn) * conjugate) / n_samples
    return weights


def _positions(beam: Geometry, columns_cm: FloatArray) -> FloatArray:
    """γ of points on the detector, from the ray through the axis; cm for a parallel beam."""
    if beam.source_curvature == 0:
        return columns_cm
    gamma = np.arctan(columns_cm * beam.source_curvature / beam.magnification)
    return gamma - beam.axis_gamma_rad


def _end_positions(beam: Geometry, extent_cm: tuple[float, float]) -> FloatArray:
    """|Position| of both ends of an extent such as detector_extent_cm."""
    ends_cm = beam.magnification * beam.axis_shift_cm + np.array([-1, 1]) * extent_cm
    return np.abs(_positions(beam, ends_cm))


def _column_confidence(beam: Geometry, grid: SliceGrid, positions: FloatArray) -> FloatArray:
    """Confidence of rays at these positions, which falls as sin² to zero at the shorter end.

    The taper extends over all columns whose lines are measured twice. If the shorter side contains
    the grid, the taper is steeper and lies beyond the grid, which gives less noise.
    """
    extents, needed = (
        _end_positions(beam, cm) for cm in (beam.detector_extent_cm, beam.needed_extent_cm(grid))
    )
    shorter = int(extents.argmin())
    short, long = extents[shorter], extents[1 - shorter]
    if np.abs(positions).max() <= short:
        return np.ones_like(positions)  # every line is measured twice
    width = 2 * short
    if not beam.is_truncated(grid)[shorter]:
        width = min(width, max(short - needed[shorter], long - short))
    from_end = short + (positions if shorter == 0 else -positions)
    return np.sin(pi / 2 * np.clip(from_end / width, 0, 1)) ** 2


def _require_measured(beam: Geometry, grid: SliceGrid) -> None:
    """Raise ValueError if some lines through the grid are not measured."""
    short_cm = min(beam.detector_extent_cm)
    if short_cm <= 0:
        raise ValueError(
            f"the detector ends {abs(short_cm):.4g} cm before the axis, so that the center of the "
            "grid is not measured: change offset_cm"
        )
    if not beam.is_short_scan:
        return
    _require_centered(beam, grid)
    if not isinstance(beam, DivergentGeometry):
        _require_half_turn(beam)
        return
    coverage, gamma = beam.coverage(), beam.gammas_rad - beam.axis_gamma_rad
    shortest = pi + 2 * float(np.abs(gamma).max())
    if len(coverage.gaps_rad) == 1 and beam.arc_rad < shortest - ARC_TOLERANCE_RAD:
        raise ValueError(
            f"the views cover an arc of {beam.arc_rad:.6g} rad, and filtered back-projection "
            f"needs π + fan angle = {shortest:.6g} or more: add views, use fewer columns, or "
            "reconstruct iteratively"
        )
    is_inside = np.abs(gamma) <= min(_end_positions(beam, beam.detector_extent_cm))
    missing = coverage.missing_rad(pi - 2 * gamma[is_inside])
    if missing.max() > ARC_TOLERANCE_RAD:
        raise _gaps_left(coverage, missing.mean() / (2 * pi))


def _require_half_turn(beam: Geometry) -> None:
    """Raise ValueError if listed views of a parallel beam leave gaps in the half turn."""
    missing = 1 - beam.arc_rad / pi
    if beam.view_angles_rad is not None and missing > ARC_TOLERANCE_RAD:
        raise _gaps_left(beam.coverage(), missing)


def _gaps_left(coverage: AngularCoverage, share: float) -> ValueError:
    gaps = ", ".join(f"{a:.4g} to {b:.4g}" for a, b in coverage.gaps_rad[:4])
    return ValueError(
        f"{100 * share:.2g} % of the lines through the grid are not measured: the views leave gaps "
        f"at {gaps} rad; add views there, or reconstruct iteratively"
    )


def _require_centered(beam: Geometry, grid: SliceGrid) -> None:
    """Raise ValueError for a displaced detector that truncates the grid, without a full turn."""
    shorter = int(np.argmin(beam.detector_extent_cm))
    short, long = beam.detector_extent_cm[shorter], beam.detector_extent_cm[1 - shorter]
    if not beam.is_truncated(grid)[shorter] or long - short <= 2 * beam.column_cm:
        return
    n_beyond = round((long - short) / beam.column_cm)
    shift_cm = (n_beyond if shorter == 1 else -n_beyond) / 2 * beam.column_cm
    raise ValueError(
        f"the detector extends {short:.4g} cm to one side of the axis and {long:.4g} cm to the "
        f"other, and the views cover {beam.arc_rad:.4g} rad, so that some lines beyond the shorter "
        "side are not measured: use views of a full turn, leave out the last "
        f"{n_beyond} columns of the longer side (n_columns={beam.n_columns - n_beyond}, "
        f"offset_cm={beam.offset_cm + shift_cm:.6g}), or reconstruct iteratively"
    )
