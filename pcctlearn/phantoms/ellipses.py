"""Phantoms made of ellipses, with exact line integrals to test projectors with.

Positions have two components (x, y), or three for ellipsoids (x, y, z).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, sin

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pcctlearn.physics.attenuation import density_g_cm3
from pcctlearn.tomography.grids import ImageGrid


@dataclass(frozen=True)
class Ellipse:
    """Densities, one per material, added inside an ellipse or an ellipsoid; tilt is about z."""

    center_cm: Sequence[float]
    semi_axes_cm: Sequence[float]
    densities_g_cm3: Sequence[float]
    tilt_rad: float = 0.0

    def __post_init__(self) -> None:
        if not min(self.semi_axes_cm) > 0:
            raise ValueError(f"semi_axes_cm must be positive, got {list(self.semi_axes_cm)}")
        if len(self.semi_axes_cm) != len(self.center_cm):
            raise ValueError(
                f"center_cm and semi_axes_cm must have as many components, got "
                f"{list(self.center_cm)} and {list(self.semi_axes_cm)}"
            )

    def to_unit_disc(self, vectors: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """Turn and scale vectors so that the ellipse, once centred, is the unit disc (or ball)."""
        c, s = cos(self.tilt_rad), sin(self.tilt_rad)
        turn_back = torch.eye(len(self.center_cm), dtype=vectors.dtype)
        turn_back[:2, :2] = vectors.new_tensor([[c, -s], [s, c]])
        return vectors @ turn_back / vectors.new_tensor(self.semi_axes_cm)

    def chords_cm(
        self, points: Float[Tensor, "*ray d"], directions: Float[Tensor, "*ray d"]
    ) -> Float[Tensor, "*ray"]:
        """Length of the line p + t v inside: |q + t u|² = 1 has two roots t, and this is their gap.

        q and u are p and v seen from the unit disc; v has length one.
        """
        q = self.to_unit_disc(points - points.new_tensor(self.center_cm))
        u = self.to_unit_disc(directions)
        uu, qu, qq = (u * u).sum(-1), (q * u).sum(-1), (q * q).sum(-1)
        return 2 * (qu**2 - uu * (qq - 1)).clamp(min=0).sqrt() / uu

    def contains(self, points: Float[Tensor, "*point d"]) -> Float[Tensor, "*point"]:
        """One inside, zero outside."""
        q = self.to_unit_disc(points - points.new_tensor(self.center_cm))
        return ((q * q).sum(-1) <= 1).to(points.dtype)


class EllipsePhantom:
    """A sum of ellipses; ``materials`` names the densities of each of them."""

    def __init__(
        self, ellipses: Sequence[Ellipse], materials: Sequence[str] = ("water", "calcium")
    ) -> None:
        for ellipse in ellipses:
            if len(ellipse.densities_g_cm3) != len(materials):
                raise ValueError(
                    f"an ellipse needs one density for each of {list(materials)}, "
                    f"got {list(ellipse.densities_g_cm3)}"
                )
        self.ellipses = tuple(ellipses)
        self.materials = tuple(materials)
        self.densities = torch.tensor(
            [ellipse.densities_g_cm3 for ellipse in ellipses], dtype=torch.float64
        )

    def line_integrals(
        self, points: Float[np.ndarray, "*ray d"], directions: Float[np.ndarray, "*ray d"]
    ) -> Float[Tensor, "material *ray"]:
        """Area densities, exact, along the whole lines through ``points`` along unit vectors."""
        p, v = (torch.as_tensor(a, dtype=torch.float64) for a in (points, directions))
        total = p.new_zeros(len(self.materials), *p.shape[:-1])
        for ellipse, densities in zip(self.ellipses, self.densities, strict=True):
            total += densities.view(-1, *(1,) * (p.ndim - 1)) * ellipse.chords_cm(p, v)
        return total

    def maps(self, grid: ImageGrid, oversampling: int = 8) -> Float[Tensor, "material y x"]:
        """Densities averaged over each voxel on oversampling² points."""
        n_y, n_x = (n * oversampling for n in grid.shape)
        points = voxel_centers(n_y, n_x, grid.voxel_cm / oversampling, dtype=torch.float64)
        maps = torch.zeros(len(self.materials), *grid.shape, dtype=torch.float64)
        for ellipse, densities in zip(self.ellipses, self.densities, strict=True):
            covered = avg_pool2d(ellipse.contains(points)[None], oversampling)
            maps += densities[:, None, None] * covered
        return maps


def voxel_centers(
    n_y: int, n_x: int, voxel_cm: float, dtype: torch.dtype | None = None
) -> Float[Tensor, "y x 2"]:
    """Positions (x, y) of a centred grid: x grows along a row, y falls from row to row."""
    x = (torch.arange(n_x, dtype=dtype) - (n_x - 1) / 2) * voxel_cm
    y = ((n_y - 1) / 2 - torch.arange(n_y, dtype=dtype)) * voxel_cm
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def water_calcium_phantom(
    water_size_cm: Sequence[float] = (26.88, 9.6),
    insert_size_cm: Sequence[float] = (3.84, 2.30),
    insert_x_cm: float = 6.5,
    calcium_g_cm3: float = 0.62,
) -> EllipsePhantom:
    """Calibration phantom of [1]: a water ellipse with a calcium insert on either side.

    Sizes are full widths and heights. Our choices: the inserts sit at ±insert_x_cm on the long
    axis, and calcium takes the place of its own volume of water, calcium_g_cm3 / 1.55, so that an
    insert holds 0.6 g/cm³ of water beside its 0.62 g/cm³ of calcium.
    """
    displaced = calcium_g_cm3 / density_g_cm3("calcium")
    half_water, half_insert = ([size / 2 for size in s] for s in (water_size_cm, insert_size_cm))
    water = Ellipse((0.0, 0.0), half_water, (1.0, 0.0))
    inserts = [
        Ellipse((x, 0.0), half_insert, (-displaced, calcium_g_cm3))
        for x in (-insert_x_cm, insert_x_cm)
    ]
    return EllipsePhantom([water, *inserts])
