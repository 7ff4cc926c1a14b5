"""Phantoms made of ellipses, with exact line integrals for tests of projectors.

Positions have two components (x, y), or three for ellipsoids (x, y, z).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pcctlearn.physics.attenuation import density_g_cm3
from pcctlearn.tomography.grids import ImageGrid


@dataclass(frozen=True)
class Ellipse:
    """An ellipse or ellipsoid that adds one density for each material; it is tilted about z."""

    center_cm: Sequence[float]
    semi_axes_cm: Sequence[float]
    densities_g_cm3: Sequence[float]
    tilt_rad: float = 0.0

    def __post_init__(self) -> None:
        if not min(self.semi_axes_cm) > 0:
            raise ValueError(f"semi_axes_cm must be positive, got {list(self.semi_axes_cm)}")
        if len(self.semi_axes_cm) != len(self.center_cm):
            raise ValueError(
                "center_cm and semi_axes_cm must have the same number of components, got "
                f"{list(self.center_cm)} and {list(self.semi_axes_cm)}"
            )

    def to_unit_disc(self, vectors: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """Rotate and scale vectors so that the centered ellipse becomes the unit disc (or ball)."""
        c, s = cos(self.tilt_rad), sin(self.tilt_rad)
        rotation = torch.eye(len(self.center_cm), dtype=vectors.dtype)
        rotation[:2, :2] = vectors.new_tensor([[c, -s], [s, c]])
        return vectors @ rotation / vectors.new_tensor(self.semi_axes_cm)

    def chords_cm(
        self, points: Float[Tensor, "*ray d"], directions: Float[Tensor, "*ray d"]
    ) -> Float[Tensor, "*ray"]:
        """Chord length of the line p + t v: the difference of the two roots t of |q + t u|² = 1.

        q and u are p − center and v in coordinates of the unit disc; v has length one.
        """
        q = self.to_unit_disc(points - points.new_tensor(self.center_cm))
        u = self.to_unit_disc(directions)
        uu, qu, qq = (u * u).sum(-1), (q * u).sum(-1), (q * q).sum(-1)
        return 2 * (qu**2 - uu * (qq - 1)).clamp(min=0).sqrt() / uu

    def contains(self, points: Float[Tensor, "*point d"]) -> Float[Tensor, "*point"]:
        """1 inside, 0 outside."""
        q = self.to_unit_disc(points - points.new_tensor(self.center_cm))
        return ((q * q).sum(-1) <= 1).to(points.dtype)


class EllipsePhantom:
    """A sum of ellipses whose densities are those of ``materials``."""

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
        """Exact area densities along lines through ``points`` with unit ``directions``, g/cm²."""
        p, v = (torch.as_tensor(a, dtype=torch.float64) for a in (points, directions))
        total = p.new_zeros(len(self.materials), *p.shape[:-1])
        for ellipse, densities in zip(self.ellipses, self.densities, strict=True):
            total += densities.view(-1, *(1,) * (p.ndim - 1)) * ellipse.chords_cm(p, v)
        return total

    def densities_at(self, points: Float[Tensor, "*point d"]) -> Float[Tensor, "material *point"]:
        """Densities at these positions, g/cm³."""
        total = points.new_zeros(len(self.materials), *points.shape[:-1])
        for ellipse, densities in zip(self.ellipses, self.densities, strict=True):
            total += densities.to(points).view(-1, *(1,) * (points.ndim - 1)) * ellipse.contains(
                points
            )
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
    """Positions (x, y) of a centered grid: x increases along a row, y decreases down a column."""
    x = (torch.arange(n_x, dtype=dtype) - (n_x - 1) / 2) * voxel_cm
    y = ((n_y - 1) / 2 - torch.arange(n_y, dtype=dtype)) * voxel_cm
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def water_calcium_phantom(
    water_size_cm: Sequence[float] = (26.88, 9.6),
    insert_size_cm: Sequence[float] = (3.84, 2.30),
    insert_x_cm: float | Sequence[float] = 6.5,
    calcium_g_cm3: float = 0.62,
) -> EllipsePhantom:
    """Calibration phantom of [1]: a water ellipse with a calcium insert on either side.

    Sizes are full widths and heights. Not given in [1] and chosen here: the inserts are at
    ±insert_x_cm on the long axis (or at each of several places), and calcium displaces its own
    volume of water, calcium_g_cm3 / 1.55, so that an insert contains 0.6 g/cm³ of water and
    0.62 g/cm³ of calcium.
    """
    displaced = calcium_g_cm3 / density_g_cm3("calcium")
    half_water, half_insert = ([size / 2 for size in s] for s in (water_size_cm, insert_size_cm))
    water = Ellipse((0.0, 0.0), half_water, (1.0, 0.0))
    places = insert_x_cm if isinstance(insert_x_cm, Sequence) else (-insert_x_cm, insert_x_cm)
    inserts = [Ellipse((x, 0.0), half_insert, (-displaced, calcium_g_cm3)) for x in places]
    return EllipsePhantom([water, *inserts])


def multi_energy_phantom(
    diameter_cm: float = 18.0,
    iodine_mg_mL: Sequence[float] = (2.0, 5.0, 10.0),
    calcium_mg_mL: float = 100.0,
    rod_diameter_cm: float = 2.8,
    rod_radius_cm: float = 5.5,
) -> EllipsePhantom:
    """A water cylinder with rods of iodine and one of calcium, as that of [2, Fig. 11].

    The rods lie evenly on a circle of rod_radius_cm, the first on the right, counted
    counterclockwise, calcium last. Iodine is dissolved in water of 1 g/cm³; calcium displaces its
    own volume. Not given in [2] and chosen here: all sizes, and the calcium.
    """
    contents = [(0.0, iodine / 1000, 0.0) for iodine in iodine_mg_mL]
    calcium = calcium_mg_mL / 1000
    contents.append((-calcium / density_g_cm3("calcium"), 0.0, calcium))
    cylinder = Ellipse((0.0, 0.0), [diameter_cm / 2] * 2, (1.0, 0.0, 0.0))
    rods = []
    for number, content in enumerate(contents):
        angle = 2 * pi * number / len(contents)
        center = (rod_radius_cm * cos(angle), rod_radius_cm * sin(angle))
        rods.append(Ellipse(center, [rod_diameter_cm / 2] * 2, content))
    return EllipsePhantom([cylinder, *rods], ("water", "iodine", "calcium"))


def iodine_abdomen() -> EllipsePhantom:
    """An abdomen 22 cm wide: fat, soft tissue, liver, bones, and iodine of 2 to 10 mg/mL."""
    materials = ("water", "adipose", "cortical_bone", "iodine")
    fat, bone = 0.92, 1.85  # g/cm³

    def ellipse(x, y, a, b, tilt=0.0, water=0.0, adipose=0.0, cortical=0.0, iodine=0.0):
        densities = (water, fat * adipose, bone * cortical, iodine)
        return Ellipse((x, y), (a, b), densities, tilt)

    return EllipsePhantom(
        [
            ellipse(0.0, 0.0, 11.2, 8.2, adipose=1.0),
            ellipse(0.0, 0.0, 10.2, 7.2, adipose=-1.0, water=1.0),
            ellipse(-4.5, 1.2, 3.8, 3.2, 0.3, water=0.05),
            ellipse(0.0, -4.5, 1.6, 1.3, cortical=0.55, water=-0.45),
            ellipse(-3.5, -5.0, 0.6, 0.4, 0.4, cortical=0.6, water=-0.5),
            ellipse(3.5, -5.0, 0.6, 0.4, -0.4, cortical=0.6, water=-0.5),
            ellipse(8.5, 2.0, 0.4, 0.9, 0.2, cortical=0.6, water=-0.5),
            ellipse(-8.7, 2.0, 0.4, 0.9, -0.2, cortical=0.6, water=-0.5),
            ellipse(3.0, 3.0, 0.9, 0.9, iodine=0.002),
            ellipse(5.5, 0.0, 0.9, 0.9, iodine=0.005),
            ellipse(3.0, -2.0, 0.9, 0.9, iodine=0.010),
            ellipse(-1.0, 4.5, 1.0, 0.8, iodine=0.003),
        ],
        materials,
    )
