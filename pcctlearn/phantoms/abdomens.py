"""Procedural abdomens in three dimensions, from the lung bases to the pelvis, one per seed."""

from math import ceil, cos, radians

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.organs import (
    Canvas,
    Field,
    Frame,
    Solid,
    require_field,
    rotation,
    sample,
    varied,
    varied_pair,
)
from pcctlearn.phantoms.placement import BodyTooWideError
from pcctlearn.phantoms.textures import Positions, Texture, normal, uniform
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid

FIELD_CM = (29.0, 39.0)  # extent along y and x that contains every abdomen
GAS, LUNG, FAT, FLUID, SKIN, MUSCLE = -900.0, -800.0, -100.0, 12.0, 30.0, 56.0  # HU
BOWEL, BLOOD, DISC, SPONGY, CORTICAL = 60.0, 45.0, 90.0, 280.0, 850.0
PITCH_CM = 3.4  # distance between vertebrae
TALL = 99.0  # semi-axis along z of solids that extend through the whole scan

# A patient of average size, with z = 0 at the first lumbar vertebra. HU are those of full contrast
# enhancement, below 200 so that they become water. The solids of an organ are varied together.
WALL = Solid(MUSCLE, 0, 0, 0, 15.0, 10.8, TALL, power=2.3)
VISCERA = {
    "left colon": [Solid(BOWEL, 11.2, -2.2, -7.5, 1.7, 1.6, 8.5),
                   Solid(-60, 11.2, -2.2, -7.5, 1.4, 1.3, 8.0),
                   Solid(GAS, 11.2, -1.5, -5, 0.9, 0.5, 3.5)],
    "right colon": [Solid(BOWEL, -10.4, -1.5, -9.5, 2.2, 2.1, 7.0),
                    Solid(-40, -10.4, -1.5, -9.5, 1.9, 1.8, 6.5),
                    Solid(GAS, -10.4, -0.4, -9.0, 1.3, 0.6, 4.5)],
    "pancreas": [Solid(110, 1.8, 0.6, 0.8, 4.8, 1.0, 1.3, 14, 0, -12),
                 Solid(110, -3.4, 0.4, -1.6, 1.6, 1.4, 2.4)],
    "stomach": [Solid(BOWEL, 5.8, 2.2, 4.8, 4.1, 3.5, 4.8, -10, 20),
                Solid(FLUID, 5.8, 2.2, 4.8, 3.7, 3.1, 4.4, -10, 20),
                Solid(BOWEL, 1.4, 4.9, 0.4, 4.2, 1.8, 1.7, 0, 0, -25),
                Solid(FLUID, 1.4, 4.9, 0.4, 3.8, 1.4, 1.3, 0, 0, -25),
                Solid(GAS, 5.2, 4.2, 4.2, 2.6, 1.0, 3.0, -10, 30)],
    "spleen": [Solid(125, 10.8, -3.6, 4.6, 2.6, 4.8, 5.0, 22, 15),
               Solid(FAT, 8.6, -2.4, 4.4, 0.8, 1.3, 1.8, 22)],
    "liver": [Solid(112, -8.8, -0.4, 3.6, 5.6, 7.8, 7.8, -6, 0, 6, 2.4),
              Solid(112, -2.2, 4.3, 6.4, 6.0, 3.2, 3.0, 8, 0, 20),
              Solid(112, -3.4, -0.6, 5.0, 1.8, 1.4, 2.2),
              Solid(FAT, -4.6, 5.6, 3.6, 0.3, 1.8, 2.6, 15),
              Solid(145, -6.6, 0.6, 3.4, 3.0, 0.6, 0.6, -15, 0, 25),
              Solid(145, -9.6, -1.0, 5.0, 2.2, 0.3, 0.4, 25),
              Solid(140, -6.6, -1.0, 7.6, 3.4, 0.35, 0.35, 20, 0, -25),
              Solid(140, -5.2, 2.0, 8.0, 0.35, 3.4, 0.35, 25)],
    "gallbladder": [Solid(FLUID, -5.2, 4.2, -1.6, 1.3, 1.9, 2.6, 15, 25)],
    "right kidney": [Solid(FAT, -6.4, -4.6, -2.2, 3.5, 4.2, 6.2, -28),
                     Solid(185, -6.4, -4.5, -2.2, 2.6, 3.0, 5.4, -28, 0, 10),
                     Solid(150, -6.3, -4.4, -2.2, 1.9, 2.3, 4.6, -28, 0, 10),
                     Solid(FAT, -5.3, -3.7, -2.2, 1.6, 0.9, 2.4, -28),
                     Solid(FLUID, -4.9, -3.4, -2.4, 0.6, 0.5, 0.9)],
    "left kidney": [Solid(FAT, 6.4, -4.5, -1.0, 3.5, 4.2, 6.2, 28),
                    Solid(185, 6.4, -4.4, -1.0, 2.6, 3.0, 5.4, 28, 0, -10),
                    Solid(150, 6.3, -4.3, -1.0, 1.9, 2.3, 4.6, 28, 0, -10),
                    Solid(FAT, 5.3, -3.6, -1.0, 1.6, 0.9, 2.4, 28),
                    Solid(FLUID, 4.9, -3.3, -1.2, 0.6, 0.5, 0.9)],
    "adrenals": [Solid(80, -4.0, -3.6, 3.6, 0.25, 1.3, 1.0, -10),
                 Solid(80, 4.2, -3.2, 3.4, 0.25, 1.3, 1.0, 25)],
    "aorta": [Solid(170, 0.7, -2.6, 30, 1.05, 1.05, 40, end_power=30)],
    "vena cava": [Solid(155, -2.3, -2.5, 30, 1.35, 1.0, 41, end_power=30)],
    "iliac vessels": [Solid(160, 2.6, -2.9, -13.6, 0.7, 0.7, 5.5, 0, 12, -22),
                      Solid(160, -2.6, -2.9, -13.6, 0.7, 0.7, 5.5, 0, 12, 22)],
    "branches": [Solid(165, 0.6, -0.9, -3.6, 0.38, 0.4, 5.0, 0, -8),
                 Solid(160, -0.9, -0.6, -3.0, 0.55, 0.55, 4.6, 0, -8),
                 Solid(165, 3.4, -3.0, -1.0, 2.4, 0.3, 0.3, -15),
                 Solid(155, -4.2, -3.0, -2.0, 1.8, 0.4, 0.4, 15),
                 Solid(160, -2.6, 0.6, 2.0, 2.6, 0.7, 0.7, -10, 0, 35),
                 Solid(155, 4.4, -0.4, 2.2, 4.6, 0.4, 0.4, -12)],
}  # fmt: skip
ENHANCED = ("pancreas", "spleen", "liver", "right kidney", "left kidney", "adrenals", "aorta",
            "vena cava", "iliac vessels", "branches")  # fmt: skip
CHEST = {
    "heart": [Solid(FAT, 2.2, 3.6, 13.2, 6.6, 5.6, 5.6, 0, 0, 15),
              Solid(125, 2.2, 3.4, 13.5, 5.8, 4.8, 4.8, 0, 0, 15),
              Solid(155, 3.4, 3.4, 13.8, 3.0, 2.4, 3.0, 0, 0, 15),
              Solid(155, -0.6, 4.2, 14.4, 2.4, 2.6, 3.0)],
    "mediastinum": [Solid(FAT, 0.0, -2.0, 16, 2.8, 5.0, 12.0),
                    Solid(MUSCLE, 0.2, -1.4, 15, 0.9, 0.8, 9)],
}  # fmt: skip
BACK = {
    "psoas": [Solid(MUSCLE, 3.6, -4.8, -9.5, 2.2, 2.3, 9.0, 0, 0, -10)],
    "quadratus lumborum": [Solid(MUSCLE, 6.6, -7.0, -6.0, 2.4, 1.1, 6.0, 25)],
    "erectors": [Solid(FAT, 3.3, -8.6, 0, 3.9, 2.3, TALL, 8),
                 Solid(MUSCLE, 3.4, -8.5, 0, 3.4, 1.9, TALL, 8)],
    "crus": [Solid(MUSCLE, 1.9, -3.6, 3.0, 0.4, 1.5, 4.5, -25)],
    "ilium": [Solid(MUSCLE, 8.8, -5.2, -19.5, 2.2, 5.4, 6.6, -32, 0, 20),
              Solid(CORTICAL, 9.0, -5.2, -20, 0.7, 5.2, 7.0, -32, 0, 20),
              Solid(SPONGY, 9.0, -5.2, -20, 0.45, 4.9, 6.7, -32, 0, 20)],
}  # fmt: skip
SACRUM = [
    Solid(CORTICAL, 0, -6.4, -19.6, 5.0, 2.2, 4.6, 0, 28),
    Solid(SPONGY, 0, -6.4, -19.6, 4.7, 1.9, 4.3, 0, 28),
]
STERNUM = [Solid(CORTICAL, 0, 9.6, 17, 1.9, 0.5, 5.5), Solid(SPONGY, 0, 9.6, 17, 1.7, 0.35, 5.3)]


def abdomen_volume(
    seed: int, grid: VolumeGrid, oversampling: int = 2
) -> Float[Tensor, "material z y x"]:
    """Water and calcium densities of one abdomen; a seed gives the same patient on any grid.

    z = 0 is within 6 cm of the first lumbar vertebra.
    """
    require_field(grid, *FIELD_CM, "an abdomen")
    return sample(_Abdomen(torch.Generator().manual_seed(seed)).hounsfield, grid, oversampling)


def abdomen_slice(
    seed: int, grid: ImageGrid, oversampling: int = 3
) -> Float[Tensor, "material y x"]:
    """The slice z = 0 of ``abdomen_volume``; its thickness is the voxel size.

    Raises:
        BodyTooWideError: the abdomen is wider than the largest circle in the grid.
    """
    y, x = (
        max(0, ceil((field / grid.voxel_cm - n) / 2))  # voxels to add on either side
        for field, n in zip(FIELD_CM, grid.shape, strict=True)
    )
    wide = VolumeGrid(1, grid.n_y + 2 * y, grid.n_x + 2 * x, grid.voxel_cm)
    maps = abdomen_volume(seed, wide, oversampling)[:, 0]
    inside = voxel_centers(wide.n_y, wide.n_x, grid.voxel_cm)[maps[0] > 0]
    radius_cm = float(inside.norm(dim=-1).max()) + grid.voxel_cm
    field_cm = min(grid.shape) * grid.voxel_cm
    if 2 * radius_cm > field_cm:
        raise BodyTooWideError(
            f"the abdomen of seed {seed} needs a field of view of {2 * radius_cm:.1f} cm, the grid "
            f"has {field_cm:.1f} cm: choose another datasets.seed",
            radius_cm,
        )
    return maps[:, y : y + grid.n_y, x : x + grid.n_x].to(torch.get_default_dtype())


class _Abdomen:
    """All random numbers of one patient, drawn before any voxel is computed."""

    def __init__(self, g: Generator) -> None:
        half_width, half_depth, height, self.fat_cm, self.wall_cm, self.waist = uniform(
            g, (13.4, 15.8), (9.3, 11.0), (0.92, 1.08), (0.8, 2.7), (1.0, 1.5), (0.0, 0.06)
        )
        self.bone_HU, self.rib_descent_cm, enhanced = uniform(g, (0.7, 1.3), (5.0, 9.0), (0.0, 1.0))
        wider, deeper = half_width / WALL.a, half_depth / WALL.b
        scales = torch.tensor([wider, deeper, height], dtype=torch.float32)
        turn, lean = (normal(g, 2).clamp(-2, 2) * 2.5).tolist()
        matrix = torch.diag(1 / scales) @ rotation(turn, 0.0, lean).T
        shift = torch.tensor(uniform(g, (-0.3, 0.3), (-0.3, 0.3), (-6.0, 6.0)), dtype=torch.float32)
        bend = Texture(g, 5.5, 3)
        self.stiff, self.soft = Frame(matrix, shift, bend, 0.1), Frame(matrix, shift, bend, 0.35)
        self.slow, self.grain = Texture(g, 6.0, 2), Texture(g, 0.4, 2)
        self.vessels = Texture(g, 0.9)
        a, b = WALL.a + self.fat_cm / wider, WALL.b + 0.7 * self.fat_cm / deeper
        self.body = WALL._replace(a=a, b=b)
        self.outline = WALL._replace(a=1.1 * a, b=1.1 * b)  # contains the body at any waist

        self.viscera = _bowel(g)
        for name, organ in VISCERA.items():
            for s in varied(g, organ, 0.4, 0.08):
                uptake = enhanced if name in ENHANCED and s.HU > BLOOD else 1.0
                self.viscera.append(s._replace(HU=BLOOD + uptake * (s.HU - BLOOD)))
        self.chest = [s for organ in CHEST.values() for s in varied(g, organ, 0.3, 0.06)]
        self.back = [s for organ in BACK.values() for s in varied_pair(g, organ, 0.15, 0.08)]
        spine = SACRUM + STERNUM + _spine(g)
        self.spine = [s._replace(HU=s.HU * self.bone_HU) if s.HU > 200 else s for s in spine]
        self.domes_cm = uniform(g, (9.0, 11.5), (7.5, 10.0))

    def hounsfield(self, positions: Positions) -> Field:
        """HU of one slab: body wall, viscera below the diaphragm, lungs above it, back and ribs."""
        canvas = Canvas(self.stiff, positions, [self.outline])
        if canvas.hounsfield.numel() == 0:
            return canvas.slab
        HU, slow = canvas.hounsfield, self.slow.on(canvas.positions)
        x, y, z = canvas.points
        girth = 1 + self.waist * (1 - ((z + 1) / 11) ** 2).clamp_(-0.4, 1)
        x.mul_(girth)
        y.mul_(girth)
        depth = canvas.depth_cm([self.body])
        fat = self.fat_cm * (0.7 + 0.3 * (x.abs() / WALL.a).clamp(max=1)) * (1 + 0.12 * slow[0])
        wall = self.wall_cm * (1 + 0.1 * slow[1])
        HU.masked_fill_(depth > 0, SKIN).masked_fill_(depth > 0.2, FAT)
        HU.masked_fill_(depth > fat.clamp_(min=0.4), MUSCLE)
        in_flesh, in_cavity = depth > fat, depth > fat + wall
        HU.masked_fill_(in_cavity, FAT)

        soft = canvas.in_frame(self.soft)
        diaphragm = self._diaphragm(soft)
        below = in_cavity & (soft.points[2] < diaphragm - 0.3)
        soft.paint(self.viscera, below)
        HU.masked_fill_(in_cavity & ~below, MUSCLE)
        above = in_cavity & (soft.points[2] > diaphragm)
        HU.masked_fill_(above, LUNG)
        HU.masked_fill_(above & (self.vessels.on(canvas.positions)[0] > 1.9), 20)
        soft.paint(self.chest, above)
        soft.paint([s for s in self.viscera if s.c > 30], in_cavity)  # the great vessels
        canvas.paint(self.back, in_flesh)
        canvas.paint(self.spine, in_flesh)
        self._paint_ribs(canvas, depth - fat - 0.55 * wall)

        grain = self.grain.on(canvas.positions)
        HU += torch.where(HU > 200, 40 * grain[1], 5 * grain[0]) * (HU > GAS)
        return canvas.slab

    def _diaphragm(self, canvas: Canvas) -> Field:
        """Height of the diaphragm: two domes, of which the right one is higher."""
        x, y, _ = canvas.points
        depth = torch.where(y > 0, 0.45, 1.0) * y**2  # lower at the back
        right, left = (
            top - _dome_cm((x - side) ** 2 + depth)
            for top, side in zip(self.domes_cm, (-6.5, 6.5), strict=True)
        )
        return torch.maximum(right, left).clamp_(min=1.5)

    def _paint_ribs(self, canvas: Canvas, across: Field) -> None:
        """Paint ribs: arcs in the wall that descend from the spine to their cartilage."""
        x, y, z = canvas.points
        if float(z.max()) < -8:
            return
        from_back_deg = torch.rad2deg(torch.atan2(x.abs(), -y))
        along = (z + self.rib_descent_cm * (from_back_deg / 110).clamp(max=1.2) ** 1.3) / PITCH_CM
        rib = along.round()
        squares = (across / 0.42) ** 2 + ((along - rib) * PITCH_CM / 0.72) ** 2
        bone_deg = 60 + 30 * (rib - 1).clamp(0, 2) + 6 * (rib - 3).clamp(0, 6)
        far = (from_back_deg > 20) & (rib >= 1)
        HU = canvas.hounsfield
        HU.masked_fill_((squares < 1) & far & (from_back_deg < bone_deg + 25) & (rib > 2), 105)
        bone = (squares < 1) & far & (from_back_deg < bone_deg)
        HU.masked_fill_(bone, CORTICAL * self.bone_HU)
        HU.masked_fill_(bone & (squares < 0.4), SPONGY * self.bone_HU)


def _dome_cm(square: Field) -> Field:
    """Depth of the diaphragm below its top at a squared distance: flat, then steep."""
    return 0.03 * square + 0.0012 * square**2


def _bowel(g: Generator) -> list[Solid]:
    """Small bowel and transverse colon in mesenteric fat, some loops with gas."""
    solids = []
    for _ in range(30):
        x, y, z, radius = uniform(g, (-7.5, 8.5), (-1.0, 6.0), (-15.0, 1.0), (0.15, 0.35))
        solids.append(Solid(110, x, y, z, radius, radius, 6 * radius, 0, 40 * normal(g, 1).item()))
    for _ in range(70):
        x, y, z, turn = uniform(g, (-8.5, 9.5), (-1.5, 6.8), (-18.0, -1.0), (-80.0, 80.0))
        a, b, c, filling = uniform(g, (1.5, 3.2), (1.0, 1.5), (1.0, 1.8), (0.0, 1.0))
        loop = Solid(BOWEL + 30, x, y, z, a, b, c, turn, 0, turn / 2)
        solids += [loop, loop._replace(HU=FLUID + 15, a=a - 0.3, b=b - 0.3, c=c - 0.3)]
        if filling < 0.2:
            solids.append(loop._replace(HU=GAS, y=y + 0.3, a=a - 0.5, b=b - 0.6, c=c - 0.5))
    for middle in range(-9, 11, 2):
        z, y, a, b, gas = uniform(g, (-4.0, -1.0), (5.4, 7.4), (1.2, 1.7), (1.1, 1.6), (-1.0, 1.0))
        loop = Solid(BOWEL, middle, y, z - 2 * cos(radians(9 * middle)), a, b, 1.5)
        solids += [loop, loop._replace(HU=-50, a=a - 0.2, b=b - 0.2, c=1.3)]
        if gas > -0.3:
            solids.append(loop._replace(HU=GAS, y=y + 0.3, a=a - 0.35, b=b - 0.6, c=1.1))
    return solids


def _spine(g: Generator) -> list[Solid]:
    """Vertebrae and discs on a lordotic curve, from the lower chest to the sacrum."""
    curve = normal(g, 1).clamp(-2, 2).item()
    solids: list[Solid] = []
    for level in range(-4, 9):
        z = PITCH_CM * level
        y = (0.9 + 0.2 * curve) * 2.718 ** (-(((z + 9) / 6) ** 2)) - 0.04 * max(z, 0)
        size = 1.0 - 0.025 * max(level, 0)
        body = Solid(CORTICAL, 0, y - 5.3, z, 2.35 * size, 1.8 * size, 1.45, 0, 0, 0, 2.4, 8)
        bones = [body, Solid(CORTICAL, 0, y - 9.2, z - 0.7, 0.42, 1.5, 1.0, power=3)]
        for side in (1, -1):
            bones += [
                Solid(CORTICAL, side * 1.55, y - 7.0, z + 0.4, 0.5, 0.9, 0.7),
                Solid(CORTICAL, side * 1.1, y - 8.2, z - 0.3, 1.3, 0.4, 1.1, 35 * side),
                Solid(CORTICAL, side * 1.9, y - 7.9, z - 1.4, 0.65, 0.65, 1.0),
                Solid(CORTICAL, side * 3.2, y - 7.7, z, 1.7, 0.42, 0.5, -12 * side),
            ]
        marrow = [s._replace(HU=SPONGY, a=s.a - 0.18, b=s.b - 0.18, c=s.c - 0.18) for s in bones]
        disc = body._replace(HU=DISC, z=z + PITCH_CM / 2, a=2.3 * size, b=1.75 * size, c=0.5)
        canal = Solid(FLUID, 0, y - 7.35, z, 1.05, 0.75, 1.9, end_power=20)
        cord = canal._replace(HU=42.0, a=0.55, b=0.42)
        solids += [*bones, *marrow, disc, canal, cord]
    return solids
