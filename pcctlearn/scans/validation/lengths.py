"""Lengths of a scanner that suggest another unit than cm."""

from pcctlearn.tomography.geometry.cone import ConeBeam

_LONGEST_CM, _SHORTEST_CM = 300.0, 3.0  # from the source to the detector
_LARGEST_PIXEL_CM = 5.0


def length_doubts(geometry: ConeBeam) -> list[str]:
    """One sentence where source_to_detector_cm or pixel_cm hardly belongs to a CT scanner.

    Clinical and laboratory scanners have 10 to 200 cm from the source to the detector. A distance
    beyond 300 cm is probably in mm, and one below 3 cm in m.
    """
    distance, pixel = geometry.source_to_detector_cm, max(geometry.row_cm, geometry.column_cm)
    found = f"source_to_detector_cm is {distance:.4g} and pixel_cm {pixel:.4g}"
    if distance > _LONGEST_CM or pixel > _LARGEST_PIXEL_CM:
        return [
            f"{found}: if the lengths of geometry are in mm, divide all of them by 10, those of "
            "geometry/volume too"
        ]
    if distance < _SHORTEST_CM:
        return [
            f"{found}: if the lengths of geometry are in m, multiply all of them by 100, those of "
            "geometry/volume too"
        ]
    return []
