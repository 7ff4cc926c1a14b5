"""A head with inserts of several materials and concentrations."""

from collections.abc import Mapping, Sequence
from math import cos, pi, sin
from typing import NamedTuple

from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.physics.attenuation import density_g_cm3
from pcctlearn.units import MG_ML
from pcctlearn.validation import require_positive

_BRAIN_WATER, _SKULL_WATER, _SKULL_CALCIUM = 1.03, 1.05, 0.45  # g/cm³, as ``head_phantom``
_GAP_CM = 0.2  # least distance of inserts from each other and from the skull


class Insert(NamedTuple):
    """A disc of one material in the brain."""

    material: str
    mg_mL: float
    center_cm: tuple[float, float]
    radius_cm: float

    @property
    def name(self) -> str:
        """Material and concentration, such as "iodine_2"."""
        return f"{self.material}_{self.mg_mL:g}"


class InsertPhantom(EllipsePhantom):
    """A sum of ellipses, some of which are inserts.

    Args:
        ellipses, materials: as in ``EllipsePhantom``.
        inserts: discs whose places and contents are known.
        background: a disc of the material around the inserts; its concentration is zero.
    """

    def __init__(
        self,
        ellipses: Sequence[Ellipse],
        materials: Sequence[str],
        inserts: Sequence[Insert],
        background: Insert,
    ) -> None:
        super().__init__(ellipses, materials)
        self.inserts, self.background = tuple(inserts), background


def head_with_inserts(
    inserts_mg_mL: Mapping[str, Sequence[float]],
    size_cm: Sequence[float] = (15.0, 19.0),
    skull_cm: float = 0.6,
    insert_diameter_cm: float = 2.0,
    ring_radius_cm: float = 4.5,
) -> InsertPhantom:
    """An elliptic head, full width and height ``size_cm``, with a skull and discs in the brain.

    The materials are water, calcium (if there is a skull or an insert of calcium), and the other
    materials of ``inserts_mg_mL``, {material: concentrations}. The inserts lie evenly on a circle,
    counterclockwise from the right, in the order in which they are given. Calcium displaces its own
    volume of brain; other materials are dissolved. The background is a disc of the same size at the
    center. Without a skull (``skull_cm=0``) the head is brain alone, of 1.03 g/cm³ of water.

    Raises:
        ValueError: no inserts, a concentration that is not positive, or inserts that overlap each
            other, the background or the skull.
    """
    contents = [(name, c) for name, many in inserts_mg_mL.items() for c in many]
    require_positive(insert_diameter_cm=insert_diameter_cm, ring_radius_cm=ring_radius_cm)
    if not contents or not min(c for _, c in contents) > 0:
        got = {name: list(many) for name, many in inserts_mg_mL.items()}
        raise ValueError(
            f"inserts_mg_mL must name materials and positive concentrations, got {got}: use "
            "phantoms=head_iodine, or values such as {iodine: [2.0, 5.0]}"
        )
    outer = [size / 2 for size in size_cm]
    inner = [axis - skull_cm for axis in outer]
    _require_room(len(contents), min(inner), insert_diameter_cm, ring_radius_cm)
    has_calcium = skull_cm > 0 or "calcium" in inserts_mg_mL
    others = [name for name in inserts_mg_mL if name not in ("water", "calcium")]
    materials = ["water", *(["calcium"] if has_calcium else []), *others]

    def densities(**of: float) -> list[float]:
        return [of.get(name, 0.0) for name in materials]

    ellipses = []
    if skull_cm > 0:
        skull = densities(water=_SKULL_WATER, calcium=_SKULL_CALCIUM)
        ellipses.append(Ellipse((0.0, 0.0), outer, skull))
        replaced = densities(water=_BRAIN_WATER - _SKULL_WATER, calcium=-_SKULL_CALCIUM)
        ellipses.append(Ellipse((0.0, 0.0), inner, replaced))
    else:
        ellipses.append(Ellipse((0.0, 0.0), outer, densities(water=_BRAIN_WATER)))
    radius_cm, inserts = insert_diameter_cm / 2, []
    for number, (name, mg_mL) in enumerate(contents):
        angle = 2 * pi * number / len(contents)
        center = (ring_radius_cm * cos(angle), ring_radius_cm * sin(angle))
        content = {name: mg_mL / MG_ML}
        if name == "calcium":
            content["water"] = -_BRAIN_WATER * content[name] / density_g_cm3(name)
        ellipses.append(Ellipse(center, [radius_cm] * 2, densities(**content)))
        inserts.append(Insert(name, float(mg_mL), center, radius_cm))
    background = Insert("water", 0.0, (0.0, 0.0), radius_cm)
    return InsertPhantom(ellipses, materials, inserts, background)


def _require_room(n: int, inner_cm: float, diameter_cm: float, ring_cm: float) -> None:
    apart = 2 * ring_cm * sin(pi / n) if n > 1 else float("inf")
    free = min(apart, inner_cm - ring_cm + diameter_cm / 2, ring_cm)
    if free < diameter_cm + _GAP_CM:
        raise ValueError(
            f"{n} inserts of {diameter_cm:g} cm on a circle of {ring_cm:g} cm overlap each other, "
            "the background or the skull: use fewer or smaller ones, such as "
            f"insert_diameter_cm={max(0.1, free - _GAP_CM):.1f}"
        )
