"""Solids in three dimensions, painted one over another in the coordinates of a patient."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from math import cos, radians, sin
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import avg_pool3d

from pcctlearn.phantoms.textures import Positions, Texture, normal
from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.units import AIR_HU

SLAB_POINTS = 2**19  # points painted at a time, few enough for the processor's cache

Points = Float[Tensor, "3 z y x"]  # (x, y, z) in cm, in coordinates of the patient
Field = Float[Tensor, "z y x"]
Mask = Bool[Tensor, "z y x"]
Box = tuple[slice, slice, slice]


class Solid(NamedTuple):
    """Superellipsoid |u/a|^p + |v/b|^p + |w/c|^q < 1 around (x, y, z) in cm.

    x points to the patient's left, y to the front. (u, v, w) are rotated by turn about z, tip about
    x and roll about y. p is power and q is end_power, or p if that is 0; a large q gives a column
    with flat ends.
    """

    HU: float
    x: float
    y: float
    z: float
    a: float
    b: float
    c: float
    turn_deg: float = 0.0
    tip_deg: float = 0.0
    roll_deg: float = 0.0
    power: float = 2.0
    end_power: float = 0.0

    @property
    def mirrored(self) -> "Solid":
        """The same solid on the other side of the patient."""
        return self._replace(x=-self.x, turn_deg=-self.turn_deg, roll_deg=-self.roll_deg)

    @property
    def rotation(self) -> Float[Tensor, "3 3"]:
        """R_z(turn) R_x(tip) R_y(roll); its columns are the directions of u, v and w."""
        return rotation(float(self.turn_deg), float(self.tip_deg), float(self.roll_deg))

    def scaled(self, points: Points) -> Points:
        """(|u/a|, |v/b|, |w/c|)."""
        center, axes = points.new_tensor(self[1:4]), points.new_tensor(self[4:7])
        offsets = points - center[:, None, None, None]
        if self.turn_deg or self.tip_deg or self.roll_deg:
            offsets = (self.rotation.to(points).T @ offsets.flatten(1)).view_as(offsets)
        return (offsets / axes[:, None, None, None]).abs_()

    def contains(self, points: Points) -> Mask:
        """True inside."""
        scaled = self.scaled(points)
        if self.end_power:
            scaled[2] = scaled[2] ** (self.end_power / self.power)
        powers = scaled.square_() if self.power == 2 else scaled.pow_(self.power)
        return powers.sum(0) < 1

    def depth_cm(self, points: Points) -> Field:
        """Distance to the surface, positive inside: (1 − s) / |∇s| with s^p = Σ |uᵢ/aᵢ|^p.

        Exact on the surface and along the axes, approximate elsewhere; end_power is ignored.
        """
        scaled, p = self.scaled(points).clamp_(min=1e-3), self.power
        # exp and log take half the time of pow
        slopes = scaled if p == 2 else (scaled.log() * (p - 1)).exp_()
        total = (slopes * scaled).sum(0)
        s = (total.log() / p).exp_()
        axes = points.new_tensor(self[4:7])[:, None, None, None]
        return (1 - s) * (total / s) / (slopes / axes).square_().sum(0).sqrt_()


@dataclass
class Frame:
    """Coordinates of a patient: q = matrix (p − shift_cm) + bend_cm · bend(p).

    The bend, a random texture, moves no point by more than margin_cm.
    """

    matrix: Float[Tensor, "3 3"]
    shift_cm: Float[Tensor, "3"]
    bend: Texture
    bend_cm: float
    _bounds: dict[Solid, list[tuple[float, float]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._inverse = torch.linalg.inv(self.matrix)

    @cached_property
    def margin_cm(self) -> float:
        """Largest displacement by the bend: a spline does not exceed its knots."""
        return self.bend_cm * float(self.bend.knots.abs().max())

    def points(self, positions: Positions) -> Points:
        """Patient coordinates of every voxel."""
        z, y, x = positions
        straight = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None]))
        offsets = straight - self.shift_cm[:, None, None, None]
        local = (self.matrix @ offsets.flatten(1)).view_as(offsets)
        return local.add_(self.bend.on(positions), alpha=self.bend_cm)

    def bounds(self, solid: Solid) -> list[tuple[float, float]]:
        """Lower and upper bound of the solid along z, y and x of the grid."""
        if solid not in self._bounds:
            center = self._inverse @ self._inverse.new_tensor(solid[1:4]) + self.shift_cm
            half = (self._inverse @ solid.rotation).abs() @ self._inverse.new_tensor(solid[4:7])
            half += self._inverse.abs().sum(1) * self.margin_cm
            lower, upper = (center - half).tolist(), (center + half).tolist()
            self._bounds[solid] = list(zip(lower, upper, strict=True))[::-1]
        return self._bounds[solid]

    def box(self, solid: Solid, positions: Positions) -> Box | None:
        """Box of the voxels within the bounds of a solid; None if there are none."""
        slices = []
        for (lower, upper), along in zip(self.bounds(solid), positions, strict=True):
            if upper < along.min() or lower > along.max():
                return None
            within = ((along >= lower) & (along <= upper)).nonzero()
            if len(within) == 0:
                return None
            slices.append(slice(int(within[0]), int(within[-1]) + 1))
        return slices[0], slices[1], slices[2]


class Canvas:
    """The part of a slab around the body: its points, and HU that start as air."""

    def __init__(self, frame: Frame, positions: Positions, body: Sequence[Solid]) -> None:
        boxes = [box for solid in body if (box := frame.box(solid, positions)) is not None]
        self.box = _union(boxes)
        self.shape = tuple(len(along) for along in positions)
        self.frame, self.positions = frame, _cut(positions, self.box)
        self.points = frame.points(self.positions)
        self.hounsfield = torch.full_like(self.points[0], AIR_HU)

    @property
    def slab(self) -> Field:
        """HU of the whole slab."""
        slab = torch.full(self.shape, AIR_HU).to(self.hounsfield)
        slab[self.box] = self.hounsfield
        return slab

    def in_frame(self, frame: Frame) -> "Canvas":
        """A canvas with other coordinates that paints into the same HU."""
        other = copy(self)
        other.frame, other.points = frame, frame.points(self.positions)
        return other

    def depth_cm(self, solids: Iterable[Solid]) -> Field:
        """Depth below the surface of the union of solids, −1 outside their bounds."""
        depth = torch.full_like(self.hounsfield, -1.0)
        for solid in solids:
            box = self.frame.box(solid, self.positions)
            if box is not None:
                depth[box] = torch.maximum(depth[box], solid.depth_cm(self.points[:, *box]))
        return depth

    def paint(
        self,
        solids: Iterable[Solid],
        within: Mask | None = None,
        where: Callable[[Positions], Mask] | None = None,
    ) -> None:
        """Overwrite HU inside each solid, within a mask and at positions that ``where`` selects."""
        for solid in solids:
            box = self.frame.box(solid, self.positions)
            if box is None:
                continue
            inside = solid.contains(self.points[:, *box])
            if within is not None:
                inside &= within[box]
            if where is not None:
                inside &= where(_cut(self.positions, box))
            self.hounsfield[box].masked_fill_(inside, solid.HU)


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box that contains all boxes."""
    if not boxes:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    z, y, x = (
        slice(min(part.start for part in along), max(part.stop for part in along))
        for along in zip(*boxes, strict=True)
    )
    return z, y, x


def _cut(positions: Positions, box: Box) -> Positions:
    z, y, x = (along[part] for along, part in zip(positions, box, strict=True))
    return z, y, x


def sample(
    hounsfield: Callable[[Positions], Field], grid: VolumeGrid, oversampling: int
) -> Float[Tensor, "material z y x"]:
    """Water and calcium densities averaged over oversampling³ points of each voxel, float32."""
    k = oversampling
    parts = (torch.arange(k, dtype=torch.float64) + 0.5) / k - 0.5  # of a voxel
    (dx, _, left), (_, dy, top), _ = grid.index_to_cm.tolist()
    z, y, x = (
        (first + step * (torch.arange(n)[:, None] + parts).flatten()).float()
        for first, step, n in (
            (float(grid.slices_cm[0]), grid.spacing_cm[0], grid.n_z),
            (top, dy, grid.n_y),
            (left, dx, grid.n_x),
        )
    )
    thick = max(1, SLAB_POINTS // (k * len(y) * len(x))) * k
    slabs = [
        avg_pool3d(water_and_calcium(hounsfield((heights, y, x))), k) for heights in z.split(thick)
    ]
    return torch.cat(slabs, 1)


def require_field(grid: VolumeGrid, y_cm: float, x_cm: float, what: str) -> None:
    """Raise ValueError for a grid narrower than the patient along y or x."""
    for axis, needed, n, size, center in zip(
        "yx", (y_cm, x_cm), grid.shape[1:], grid.slice_spacing_cm, grid.slice_center_cm, strict=True
    ):
        reach = n * size - 2 * abs(center)
        if reach < needed - 1e-6:
            raise ValueError(
                f"{what} needs {needed} cm along {axis} around the axis, the grid has {reach:.1f} "
                f"cm: use more or larger voxels along {axis}"
            )


def rotation(turn_deg: float, tip_deg: float, roll_deg: float) -> Float[Tensor, "3 3"]:
    """R_z(turn) R_x(tip) R_y(roll), float32."""
    (c, s), (d, t), (e, r) = (
        (cos(radians(angle)), sin(radians(angle))) for angle in (turn_deg, tip_deg, roll_deg)
    )
    about_z = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float32)
    about_x = torch.tensor([[1, 0, 0], [0, d, -t], [0, t, d]], dtype=torch.float32)
    about_y = torch.tensor([[e, 0, r], [0, 1, 0], [-r, 0, e]], dtype=torch.float32)
    return about_z @ about_x @ about_y


def varied(
    generator: Generator, solids: Sequence[Solid], shift_cm: float, growth: float
) -> list[Solid]:
    """Solids moved together and scaled together about the first one, both at random."""
    dx, dy, dz, gx, gy, gz = normal(generator, 6).clamp(-2, 2).tolist()
    first, grown = solids[0], [1 + growth * g for g in (gx, gy, gz)]
    return [
        solid._replace(
            x=first.x + grown[0] * (solid.x - first.x) + shift_cm * dx,
            y=first.y + grown[1] * (solid.y - first.y) + shift_cm * dy,
            z=first.z + grown[2] * (solid.z - first.z) + shift_cm * dz,
            a=solid.a * grown[0], b=solid.b * grown[1], c=solid.c * grown[2],
        )
        for solid in solids
    ]  # fmt: skip


def varied_pair(
    generator: Generator, solids: Sequence[Solid], shift_cm: float = 0.08, growth: float = 0.05
) -> list[Solid]:
    """``varied`` for the left side and, with other random numbers, mirrored for the right side."""
    left = varied(generator, solids, shift_cm, growth)
    return left + [s.mirrored for s in varied(generator, solids, shift_cm, growth)]
