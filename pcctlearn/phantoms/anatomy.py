"""Abdomens drawn from a seed: superellipses painted back to front on slightly bent coordinates."""

from collections.abc import Iterable
from math import atan2, cos, degrees, radians, sin
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.textures import normal, uniform
from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.units import AIR_HU

FIELD_CM = 38.4  # every abdomen fits into a circle of this width
GAS, FAT, FLUID, SKIN, MUSCLE, BOWEL, SPONGY, CORTICAL = -900, -100, 15, 30, 58, 75, 320, 850  # HU
WALL_CM = (15.0, 10.8)  # semi-axes of the muscle wall that the organs below are drawn for


class Organ(NamedTuple):
    """|x/a|^p + |y/b|^p < 1 around (x, y) in cm; x to the patient's left, y to the front."""

    HU: float
    x: float
    y: float
    a: float
    b: float
    tilt_deg: float = 0.0
    power: float = 2.0

    def contains(self, points: Float[Tensor, "y x 2"]) -> Bool[Tensor, "y x"]:
        """True inside."""
        c, s = cos(radians(self.tilt_deg)), sin(radians(self.tilt_deg))
        x, y = (points - points.new_tensor([self.x, self.y])).unbind(-1)
        u, v = (c * x + s * y) / self.a, (c * y - s * x) / self.b
        return u.abs() ** self.power + v.abs() ** self.power < 1


# First lumbar vertebra, portal venous phase. A family moves and grows as one.
VISCERA = {
    "stomach": [Organ(BOWEL, 5.6, 4.6, 4.2, 2.5, -20), Organ(FLUID, 5.6, 4.6, 3.8, 2.1, -20),
                Organ(GAS, 5.8, 5.6, 2.6, 0.9, -8)],
    "pancreas": [Organ(95, 1.2, 0.6, 4.6, 1.0, 14), Organ(90, -3.2, 0.3, 1.7, 1.4)],
    "liver": [Organ(112, -9.6, -0.6, 5.0, 7.6, -6, 2.3), Organ(112, -6.6, 4.4, 4.6, 2.8, 10),
              Organ(140, -9.6, 1.6, 1.6, 0.25, 35), Organ(140, -8.4, -2.6, 1.3, 0.22, -30),
              Organ(15, -5.2, 3.0, 1.1, 1.7, 20)],
    "right kidney": [Organ(178, -6.6, -4.3, 2.4, 3.1, -28), Organ(150, -6.3, -4.2, 1.5, 2.2, -28),
                     Organ(FAT, -5.2, -3.7, 1.4, 0.7, -28)],
    "left kidney": [Organ(178, 6.6, -4.1, 2.4, 3.1, 28), Organ(150, 6.3, -4.0, 1.5, 2.2, 28),
                    Organ(FAT, 5.2, -3.5, 1.4, 0.7, 28)],
    "spleen": [Organ(118, 11.2, -2.6, 2.3, 4.6, 14)], "aorta": [Organ(165, 0.8, -2.5, 1, 1)],
    "vena cava": [Organ(155, -2.3, -2.5, 1.3, 0.9)],
    "mesenteric vessels": [Organ(165, 0.6, -0.7, 0.4, 0.4), Organ(155, -0.7, -0.4, 0.6, 0.5)],
}  # fmt: skip
BACK = {
    "muscles": [Organ(MUSCLE, -3.2, -5.8, 1.6, 1.9, 10), Organ(MUSCLE, 3.2, -5.8, 1.6, 1.9, -10),
                Organ(MUSCLE, -3.5, -8.8, 3.2, 1.7, 8), Organ(MUSCLE, 3.5, -8.8, 3.2, 1.7, -8)],
    "vertebra": [Organ(CORTICAL, -2.6, -7.0, 1.8, 0.4, 14), Organ(CORTICAL, 2.6, -7, 1.8, 0.4, -14),
                 Organ(CORTICAL, 0.0, -7.4, 1.7, 1.3), Organ(CORTICAL, 0.0, -9.2, 0.42, 1.4, 0, 3),
                 Organ(SPONGY, 0.0, -9.2, 0.2, 1.1), Organ(CORTICAL, 0.0, -5.3, 2.35, 1.75, 0, 2.5),
                 Organ(SPONGY, 0.0, -5.3, 2.13, 1.53, 0, 2.5), Organ(FLUID, 0.0, -7.4, 1.15, 0.8),
                 Organ(45, 0.0, -7.4, 0.55, 0.45)],
}  # fmt: skip


def abdomen(
    generator: Generator, n_y: int, n_x: int, voxel_cm: float, oversampling: int = 3
) -> Float[Tensor, "material y x"]:
    """Water and calcium densities of one abdomen; the same seed is the same patient on any grid."""
    span_cm = min(n_y, n_x) * voxel_cm
    if span_cm < FIELD_CM - 1e-6:
        raise ValueError(
            f"an abdomen needs {FIELD_CM} cm, the grid spans {span_cm:.1f} cm; take more voxels"
        )
    k = oversampling
    points = voxel_centers(n_y * k, n_x * k, voxel_cm / k, torch.float32)  # one dtype, one patient
    maps = water_and_calcium(_hounsfield(generator, points))
    return avg_pool2d(maps, k).to(torch.get_default_dtype())


def _hounsfield(generator: Generator, points: Float[Tensor, "y x 2"]) -> Float[Tensor, "y x"]:
    """One patient: fat around a muscle wall, viscera clipped to the cavity, spine and ribs."""
    a, b, fat, wall = uniform(generator, (15.4, 17.4), (11.0, 13.0), (0.8, 2.4), (0.9, 1.4))
    skin = Organ(SKIN, 0, 0, a, b, 0, 2.3)
    flesh = Organ(FAT, 0, 0, a - 0.2, b - 0.2, 0, 2.3)
    muscle = Organ(MUSCLE, 0, 0, a - fat, b - 0.7 * fat, 0, 2.3)
    cavity = Organ(FAT, 0, 0, muscle.a - wall, muscle.b - wall, 0, 2.3)
    bend = 0.5 * _smooth(generator, points, knots_cm=3.5, channels=2)
    soft, stiff = points + bend, points + 0.3 * bend  # bone and skin bend less

    hounsfield = points.new_full(points.shape[:2], AIR_HU)
    for organ in (skin, flesh, muscle, cavity):
        hounsfield[organ.contains(stiff)] = organ.HU
    in_cavity, in_flesh = cavity.contains(stiff), flesh.contains(stiff)
    viscera = [(organs, soft, in_cavity) for organs in (*_bowel(generator), *VISCERA.values())]
    back = [(organs, stiff, in_flesh) for organs in BACK.values()]
    fitted = points.new_tensor(WALL_CM) / points.new_tensor([muscle.a, muscle.b])
    for organs, where, within in viscera + back:
        pivot = points.new_tensor([organs[0].x, organs[0].y])
        shift = 0.4 * normal(generator, 2)
        growth = 1 + 0.09 * normal(generator, 2).clamp(-2, 2)
        local = pivot + (where * fitted - pivot - shift) / growth
        for organ in organs:
            hounsfield[organ.contains(local) & within] = organ.HU
    for organ in _ribs(generator, muscle.a - wall / 2, muscle.b - wall / 2):
        hounsfield[organ.contains(stiff)] = organ.HU

    grain = _smooth(generator, points, knots_cm=0.25, channels=1)[..., 0]
    return hounsfield + grain * torch.where(hounsfield > 200, 35, 7) * (hounsfield > GAS)


def _bowel(generator: Generator) -> Iterable[list[Organ]]:
    """Vessels of the mesentery, then loops of bowel across the front, about half with gas."""
    for _ in range(16):
        x, y, radius = uniform(generator, (-7.0, 9.0), (-1.0, 6.0), (0.12, 0.4))
        yield [Organ(130, x, y, radius, radius)]
    for middle in range(-9, 10, 2):
        x, tilt, gas = uniform(generator, (middle - 1.0, middle + 1.0), (-40.0, 40.0), (-1.0, 1.0))
        y, a, b = uniform(generator, (1.5, 7.5), (1.2, 2.2), (0.9, 1.5))
        loop = [Organ(BOWEL, x, y, a, b, tilt), Organ(FLUID, x, y, a - 0.3, b - 0.3, tilt)]
        yield [*loop, Organ(GAS, x, y + 0.2, a - 0.5, b - 0.5, tilt / 4)] if gas > 0 else loop


def _ribs(generator: Generator, a: float, b: float) -> Iterable[Organ]:
    """Ribs cut obliquely where they run in the wall."""
    for at_deg in (-52, -28, -8, 12, 128, 168, 188, 208, 232):
        turn, half_length = uniform(generator, (-5.0, 5.0), (0.7, 1.5))
        c, s = cos(radians(at_deg + turn)), sin(radians(at_deg + turn))
        along_wall = degrees(atan2(b * c, -a * s))
        yield Organ(CORTICAL, a * c, b * s, half_length, 0.38, along_wall)
        yield Organ(SPONGY, a * c, b * s, half_length - 0.2, 0.2, along_wall)


def _smooth(
    generator: Generator, points: Float[Tensor, "y x 2"], knots_cm: float, channels: int
) -> Float[Tensor, "y x channel"]:
    """Band-limited noise: random knots over the field, the same for any grid, joined by cubics."""
    n_knots = round(FIELD_CM / knots_cm)
    knots = normal(generator, 1, channels, n_knots, n_knots)
    field = grid_sample(knots, points[None] * 2 / FIELD_CM, mode="bicubic", align_corners=False)
    return field[0].movedim(0, -1)
