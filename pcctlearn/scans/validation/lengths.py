"""Doubts about the unit of lengths, from the size of a scanner and the attenuation of objects."""

import numpy as np

from pcctlearn.scans.validation.pixels import PerPixel, Sample
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import DivergentGeometry, ParallelBeam

_LONGEST_CM, _SHORTEST_CM = 300.0, 3.0  # from the source to the detector
_LARGEST_PIXEL_CM = 5.0
_WIDEST_CM, _SMALLEST_PIXEL_CM = 60.0, 0.001  # of the detector of a parallel beam
_LEAST_PER_CM = 0.05  # a quarter of that of water at 60 keV; lengths in mm make it a tenth
_LEAST_PROJECTION = 0.1  # of the darkest rays, in which an object is found
_SHADOW = 0.1  # of the projection of the darkest rays


def length_doubts(geometry: Geometry) -> list[str]:
    """A sentence if source_to_detector_cm or pixel_cm is probably in another unit than cm.

    Clinical and laboratory scanners have 10 to 200 cm from the source to the detector. A distance
    above 300 cm is probably in mm, and one below 3 cm in m. A parallel beam has no such distance:
    its detector is no wider than the field of view of a body scanner, 60 cm, and the pixels of
    photon-counting detectors are larger than 0.001 cm.
    """
    pixel = geometry.column_cm
    if isinstance(geometry, ConeBeam):
        pixel = max(geometry.row_cm, pixel)
    if isinstance(geometry, DivergentGeometry):
        distance = geometry.source_to_detector_cm
        found = f"source_to_detector_cm is {distance:.4g} and pixel_cm {pixel:.4g}"
        is_long, is_short = distance > _LONGEST_CM, distance < _SHORTEST_CM
    else:
        width = geometry.n_columns * pixel
        found = f"pixel_cm is {pixel:.4g} and the detector {width:.4g} cm wide"
        is_long, is_short = width > _WIDEST_CM, pixel < _SMALLEST_PIXEL_CM
    if pixel > _LARGEST_PIXEL_CM or is_long:
        unit, remedy = "mm", "divide all of them by 10"
    elif is_short:
        unit, remedy = "m", "multiply all of them by 100"
    else:
        return []
    return [
        f"{found}: if the lengths of geometry are in {unit}, {remedy}, those of geometry/volume too"
    ]


def attenuation_doubts(geometry: ParallelBeam, counts: Sample, air: PerPixel) -> list[str]:
    """A sentence if the object of a parallel beam attenuates far less than water does.

    A disc of attenuation μ and diameter w has projections p with Σ p Δx = μ π w²/4, where w is also
    the width of its shadow. Lengths in mm make μ ten times too small, 0.02 per cm for water. Other
    beams have a distance between source and detector that tells the unit.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = -np.log(counts.sum(0, dtype=np.float64) / air.sum(0, dtype=np.float64))
    p = np.where(np.isfinite(p), p, 0.0)[:, 0]  # (view, column)
    dark = p > max(_LEAST_PROJECTION, _SHADOW * float(np.quantile(p, 0.99)))
    if not (dark.any(1) & ~dark.all(1)).all():
        return []  # no object, or one that is wider than the detector
    width = geometry.column_cm * dark.sum(1)
    per_cm = float(np.median((p * dark).sum(1) * geometry.column_cm / (np.pi / 4 * width**2)))
    if per_cm >= _LEAST_PER_CM:
        return []
    return [
        f"the object attenuates {per_cm:.2g} per cm, where water has 0.2: if pixel_cm, "
        f"{geometry.column_cm:.4g}, is in mm, divide all lengths of geometry by 10, those of "
        "geometry/volume too; if the object is as light as foam, nothing is wrong"
    ]
