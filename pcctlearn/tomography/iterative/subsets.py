"""Subsets of the views of a cone-beam scan."""

from collections.abc import Sequence
from dataclasses import replace

from pcctlearn.tomography.geometry.cone import ConeBeam


def ordered_subsets(beam: ConeBeam, n: int) -> list[ConeBeam]:
    """Subset i has the views i, i + n, i + 2n … and the data ``sinogram[..., i::n, :, :]``."""
    if not 1 <= n <= beam.n_views // 2:
        raise ValueError(
            f"n_subsets must lie in 1 … {beam.n_views // 2}, so that each has two of the "
            f"{beam.n_views} views, got {n}"
        )
    return [of_views(beam, range(i, beam.n_views, n)) for i in range(n)]


def of_views(beam: ConeBeam, views: Sequence[int]) -> ConeBeam:
    """The scan reduced to two or more of its views."""
    angles = beam.angles_rad[list(views)]
    return replace(beam, n_views=len(angles), view_angles_rad=angles)
