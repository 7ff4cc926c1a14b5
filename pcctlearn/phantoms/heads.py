"""Procedural heads in three dimensions: skull, brain, face and neck of an adult, one per seed."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pcctlearn.phantoms import head_organs as parts
from pcctlearn.phantoms.organs import (
    Canvas,
    Field,
    Frame,
    Mask,
    Points,
    Solid,
    require_field,
    rotation,
    sample,
    varied,
    varied_pair,
)
from pcctlearn.phantoms.textures import Positions, Texture, normal, uniform
from pcctlearn.tomography.grids import VolumeGrid

FIELD_CM = (25.0, 20.0)  # extent along y and x that contains every head


def head(seed: int, grid: VolumeGrid, oversampling: int = 2) -> Float[Tensor, "material z y x"]:
    """Water and calcium densities of one head; a seed gives the same patient on any grid.

    z = 0 is within 5 cm of the middle of the brain: some scans show the vertex, others the neck.
    """
    require_field(grid, *FIELD_CM, "a head")
    return sample(_Head(torch.Generator().manual_seed(seed)).hounsfield, grid, oversampling)


class _Shape(NamedTuple):
    """Random parameters of the whole head."""

    power: float  # of the superellipsoids; 2 gives ellipsoids
    taper: float  # relative increase of width towards the back, 1/cm
    temple: float  # depth of the temporal fossa
    skull_cm: float  # thickness of the skull
    table_cm: float  # thickness of its outer and inner tables
    table_HU: float
    diploe_HU: float
    fat_cm: float
    csf_cm: float  # thickness between brain and dura
    sulcus: float  # width of the sulci
    cells: float  # pneumatization: air cells are where the texture exceeds this
    ventricle: float  # relative size


class _Head:
    """All random numbers of one patient, drawn before any voxel is computed."""

    def __init__(self, g: Generator) -> None:
        self.shape = _Shape(*uniform(
            g, (2.1, 2.5), (0.0, 0.014), (0.03, 0.09), (0.40, 0.80), (0.12, 0.19), (1100.0, 1700.0),
            (300.0, 900.0), (0.15, 0.45), (0.05, 0.3), (0.06, 0.22), (-0.6, 1.4), (0.7, 1.5),
        ))  # fmt: skip
        length, width, height = uniform(g, (17.0, 21.0), (13.5, 16.5), (0.93, 1.07))
        yaw, pitch, roll, skew = normal(g, 4).clamp(-2, 2).tolist()
        scales = torch.tensor([width / 15, length / 19, height], dtype=torch.float32)
        shear = torch.eye(3, dtype=torch.float32)
        shear[0, 1] = 0.02 * skew  # plagiocephaly
        matrix = shear @ torch.diag(1 / scales) @ rotation(4 * yaw, 6 * pitch, 3 * roll).T
        shift = torch.tensor(uniform(g, (-0.4, 0.4), (-0.9, 0.1), (-5.0, 5.0)), dtype=torch.float32)
        self.frame = Frame(matrix, shift, Texture(g, 7.0, 3), 0.13)
        self.slow, self.gyri = Texture(g, 3.5, 4), Texture(g, 1.3)
        self.folds, self.cells = Texture(g, (2.5, 1.1, 0.9)), Texture(g, 0.42)
        self.grain = Texture(g, 0.3, 2)
        self._draw_organs(g)

    def _draw_organs(self, g: Generator) -> None:
        both = partial(varied_pair, g)
        self.nose_tip = varied(g, parts.NOSE_TIP, 0.1, 0.1)
        self.ears = both(parts.EARS)
        self.orbits, self.eyes = both(parts.ORBIT, 0.05, 0.03), both(parts.EYE, 0.05, 0.04)
        self.face = [s for organ in parts.FACE_BONES.values() for s in both(organ)]
        self.face += [s for organ in parts.MIDLINE.values() for s in varied(g, organ, 0.1, 0.08)]
        self.face += both(parts.NOSE, 0.03) + parts.teeth_and_jaw()
        self.spine = [s for organ in parts.SPINE.values() for s in both(organ, 0.03, 0.03)]
        self.spine += parts.vertebrae()
        self.brain = [s for organ in parts.BRAIN.values() for s in both(organ, 0.1, 0.1)]
        size = self.shape.ventricle
        ventricles = both(parts.VENTRICLE, 0.1, 0.12)
        self.ventricles = [s._replace(a=s.a * size, c=s.c * size) for s in ventricles]
        self.calcified, self.lesion = self._draw_findings(g)
        self.base = (
            parts.CLIVUS
            + parts.SPHENOID
            + [s for organ in parts.BASE.values() for s in both(organ)]
        )
        self.sinus, self.canal = both(parts.SINUS, 0.1, 0.15), both(parts.EAR_CANAL)
        self.ethmoid = both(parts.ETHMOID)
        self.mastoid = both(parts.MASTOID, 0.1, 0.1)
        self.frontal = []
        for side, size in zip((1, -1), uniform(g, (0.2, 1.3), (0.2, 1.3)), strict=True):
            reach = 0.3 + 1.3 * size
            bone = Solid(parts.CORTICAL, side * size, 8.0, -0.5, reach, 1.0, reach)
            self.frontal += [
                bone,
                bone._replace(HU=parts.GAS, a=bone.a - 0.25, b=0.75, c=bone.c - 0.25),
            ]

    def _draw_findings(self, g: Generator) -> tuple[list[Solid], list[Solid]]:
        present = torch.rand(4, generator=g, dtype=torch.float32).tolist()
        calcified = (parts.PINEAL if present[0] < 0.6 else []) + (
            varied_pair(g, parts.CHOROID, 0.1, 0.3) if present[1] < 0.5 else []
        )
        x, y, z, size, kind = uniform(
            g, (2.5, 4.5), (-5.0, 4.0), (0.5, 4.5), (0.5, 1.8), (0.0, 1.0)
        )
        x = x if present[2] < 0.5 else -x
        core = Solid(66 if kind < 0.6 else 20, x, y, z, size, 1.3 * size, size, 30)
        rim = core._replace(HU=21, a=1.4 * size, b=1.7 * size, c=1.4 * size)
        return calcified, [rim, core] if present[3] < 0.4 else []

    def hounsfield(self, positions: Positions) -> Field:
        """HU of one slab, painted from the skin inward."""
        shape = self.shape
        canvas = Canvas(
            self.frame, positions, [parts.SCALP, parts.FACE, parts.NECK, *self.nose_tip, *self.ears]
        )
        if canvas.hounsfield.numel() == 0:
            return canvas.slab
        positions = canvas.positions
        slow, folds = self.slow.on(positions), self.folds.on(positions)[0]
        skull_points = self._shape(canvas.points)
        scalp = parts.SCALP._replace(power=shape.power)
        depth = canvas.depth_cm((scalp, parts.FACE, parts.NECK))

        canvas.paint(self.nose_tip)
        canvas.paint(self.ears)
        HU = canvas.hounsfield
        low = (0.5 - canvas.points[2] / 6).clamp_(0, 1)  # thicker fat towards the neck
        fat = 0.2 + shape.fat_cm * (1 + 0.8 * low + 0.25 * slow[0])
        HU.masked_fill_(depth > 0, parts.SKIN).masked_fill_(depth > 0.18, parts.FAT)
        HU.masked_fill_((depth > fat) & (folds.abs() > 0.13 * low), parts.MUSCLE)
        flesh = depth > 0.25
        canvas.paint(self.orbits, depth > 0.5)
        canvas.paint(self.eyes)
        canvas.paint(self.face, flesh)
        canvas.paint(self.spine, flesh)

        self._paint_skull_and_brain(canvas, skull_points, slow, depth)
        self._paint_base(canvas, flesh, skull_points)

        soft, bone = self.grain.on(positions)
        HU += torch.where(HU > 200, 70 * bone, 4 * soft) * (HU > parts.GAS)
        return canvas.slab

    def _paint_base(self, canvas: Canvas, flesh: Mask, skull_points: Points) -> None:
        """Paint the dense bone below the brain and its air cells."""
        canvas.paint([*self.base, *self.mastoid, *self.ethmoid], flesh)
        mastoid = [
            s._replace(HU=parts.GAS, a=s.a - 0.2, b=s.b - 0.2, c=s.c - 0.2) for s in self.mastoid
        ]
        canvas.paint(mastoid, flesh, lambda at: self.cells.on(at)[0] > self.shape.cells)
        ethmoid = [s._replace(HU=parts.GAS) for s in self.ethmoid]
        canvas.paint(ethmoid, flesh, lambda at: self.cells.on(at)[0].abs() > 0.35)
        canvas.paint([*self.sinus, *self.canal])
        vault = parts.VAULT._replace(power=self.shape.power)
        for solid in self.frontal:
            box = canvas.frame.box(solid, canvas.positions)
            if box is not None:
                behind = vault.depth_cm(skull_points[:, *box]) > 0.2
                inside = solid.contains(canvas.points[:, *box]) & behind
                canvas.hounsfield[box].masked_fill_(inside, solid.HU)

    def _shape(self, points: Points) -> Points:
        """Widen the back of the head in place; return skull coordinates with hollow temples."""
        x, y, z = points
        hollow = (-(((y - 4.8) / 2.5) ** 2) - ((z + 1.5) / 3) ** 2).exp_().mul_(self.shape.temple)
        wider = 1 + self.shape.taper * y
        skull = torch.stack([x * (wider + hollow), y, z])
        x.mul_(wider.add_(hollow, alpha=0.4))
        return skull

    def _paint_skull_and_brain(
        self, canvas: Canvas, points: Points, slow: Tensor, scalp_cm: Field
    ) -> None:
        """Paint the skull, two tables with diploe between them, and the brain inside it."""
        shape, HU = self.shape, canvas.hounsfield
        x, y, z = points
        if float(z.max()) < -9:
            return
        vault = parts.VAULT._replace(power=shape.power).depth_cm(points)
        crest = 0.3 * torch.exp(-((x / 0.7) ** 2)) * (y.abs() > 6.5) * (z < 3)
        thickness = shape.skull_cm + 0.07 * slow[1] + 0.2 * torch.sigmoid(-(y + 5)) + crest
        thickness -= 0.2 * torch.exp(-((y / 4) ** 2) - ((z + 0.5) / 2.5) ** 2)  # thin squama
        thickness.clamp_(0.3, 0.9)
        inner, bone = vault - thickness, vault > 0  # inner: depth below the inner table
        if float(z.min()) < 0.5:
            floor, base_cm, foramen = _floor(points)
            inner = torch.minimum(inner, z - floor)
            bone &= (z > floor - base_cm) & ~foramen & (scalp_cm > 0.2)

        table = shape.table_HU * (1 + 0.07 * slow[2])
        diploe = shape.diploe_HU * (1 + 0.2 * slow[3])
        edge = torch.minimum(vault, -inner)
        torch.where(bone, torch.where(edge < shape.table_cm, table, diploe), HU, out=HU)
        cavity = (inner > 0) & (vault > 0)
        self._paint_brain(canvas, points, inner, cavity)

    def _paint_brain(self, canvas: Canvas, points: Points, inner: Field, cavity: Mask) -> None:
        """Paint white matter, cortex, cerebellum below the tentorium, CSF and dura."""
        shape, HU = self.shape, canvas.hounsfield
        x, y, z = points
        gyri = self.gyri.on(canvas.positions)[0].abs_()
        # height of the tentorium above each point
        tent = 0.5 - 0.06 * (x**2 + 0.6 * (y + 3.5).clamp(max=0) ** 2) - z
        below = (tent > 0) & (y < 0.6 - 0.55 * x.abs())
        fissure = (x.abs() < 0.10 + 0.5 * shape.csf_cm) & ((y**2 / 30 + (z - 0.5) ** 2 / 16) > 1)
        inner = torch.where(fissure | (inner < shape.csf_cm), -1.0, inner)
        narrow = shape.sulcus * (1 - inner / 2).clamp_(0, 1)
        cortex = (inner < 0.5) | (gyri < narrow + 0.35 * (inner < 2))
        folia = below & (self.folds.on(canvas.positions)[0].abs() < 0.15)
        HU.masked_fill_(cavity, parts.WHITE).masked_fill_(cavity & (cortex | below), parts.GREY)
        HU.masked_fill_(cavity & folia, parts.WHITE + 4)
        HU.masked_fill_(cavity & ((inner < 0) | (~below & (gyri < narrow))), parts.CSF)
        above = cavity & ~below
        canvas.paint(self.brain, above)
        canvas.paint(self.lesion, above & (inner > 0.2))
        canvas.paint(parts.STEM, cavity)
        canvas.paint(self.ventricles, above)
        canvas.paint(self.calcified, cavity)
        falx = (x.abs() < 0.07) & ((y**2 / 36 + (z - 0.5) ** 2 / 20) > 1) & (z > -0.5)
        leaf = (tent.abs() < 0.08) & (y < 0.3 - 0.55 * x.abs()) & ((x.abs() > 1.6) | (y < -3.0))
        HU.masked_fill_((above & falx) | (cavity & leaf), parts.DURA)


def _floor(points: Points) -> tuple[Field, Field, Mask]:
    """Height of the cranial fossae, thickness of the bone below them, and the foramen magnum."""
    x, y, z = points
    side = x.abs()
    front = torch.sigmoid((y - 3.3 - 0.22 * side) / 0.2)
    back = torch.sigmoid(-(y - 1.0 + 0.55 * side) / 0.2)
    middle = 1 - front - back
    central = torch.sigmoid((1.4 - side) / 0.2)
    # orbital roofs, with the cribriform plate between them
    roof = -1.1 + 0.6 * torch.exp(-(((side - 2.8) / 1.7) ** 2) - ((y - 6) / 2) ** 2)
    roof -= 0.3 * torch.exp(-((x / 0.6) ** 2))
    slope = torch.minimum(-5.9 + (1.7 * (y + 1.3)).clamp(min=0), torch.full_like(y, -1.9))
    floor = front * roof + middle * (-3.9 + 2.1 * central) + back * slope
    floor += 0.06 * (middle * (side - 4) ** 2 + back * (x**2 + (y + 3.5) ** 2))  # bowls
    steep = 4 * front * (1 - front) + 4 * back * (1 - back)
    foramen = ((x / 1.5) ** 2 + ((y + 2.9) / 1.7) ** 2 < 1) & (z < -4.5)
    return floor, 0.35 + 0.35 * steep + 0.15 * back, foramen
