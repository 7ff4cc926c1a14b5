"""Bins of the K-edge study, and its tables: inserts, false signals and image quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pcctlearn.metrics.errors import Rows
from pcctlearn.phantoms.inserts import Insert

Numbers = dict[str, float]


@dataclass(frozen=True)
class Bins:
    """Thresholds in keV, the last bin without limit, and the basis materials they decompose."""

    thresholds_keV: Sequence[float]
    materials: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.thresholds_keV) < len(self.materials):
            raise ValueError(
                f"{len(self.thresholds_keV)} bins do not determine {', '.join(self.materials)}: "
                "give as many thresholds_keV as materials or more"
            )
        if "water" not in self.materials:
            raise ValueError(
                f"materials must include water, got {', '.join(self.materials)}: use "
                "materials=[water,calcium,gadolinium]"
            )


class KEdgeTables(NamedTuple):
    """Tables of the numbers ``<key>.<detector>_<bins>`` of the K-edge study.

    ``cases`` are pairs of detector and bins, in the order of the rows.
    """

    numbers: Numbers
    bins: Mapping[str, Bins]
    inserts: Sequence[Insert]
    cases: Sequence[tuple[str, str]]

    def of_materials(self) -> list[Rows]:
        """Bias, standard deviation and CNR of inserts in the maps of their own materials."""
        materials = dict.fromkeys(one.material for one in self.inserts)
        return [self._of_material(material) for material in materials]

    def _of_material(self, material: str) -> Rows:
        inserts = [one for one in self.inserts if one.material == material]
        rows = []
        for case in self.cases:
            if material in self.bins[case[1]].materials:
                keys = [f"{material}_in_{one.name}" for one in inserts]
                rows.append([_words(case), *(self._insert(key, case) for key in keys)])
        head = ["bias, sd (mg/mL), CNR", *(f"{one.mg_mL:g} mg/mL" for one in inserts)]
        return Rows(f"Inserts of {material}", head, rows)

    def _insert(self, key: str, case: tuple[str, str]) -> str:
        bias, sd, cnr = (self._of(f"{key}_{e}", case) for e in ("bias_mg_mL", "sd_mg_mL", "cnr"))
        return f"{bias:+.2f}, {sd:.3g}, {cnr:.2g}"

    def false_signals(self) -> Rows:
        """Mean signal of the last material of each basis in inserts of other materials."""
        lasts = {self.bins[name].materials[-1] for _, name in self.cases}
        kept = [one for one in self.inserts if lasts - {one.material}]
        rows = []
        for case in self.cases:
            last = self.bins[case[1]].materials[-1]
            cells = [
                f"{self._of(f'{last}_in_{one.name}_bias_mg_mL', case):+.2f}"
                if one.material != last
                else ""
                for one in kept
            ]
            rows.append([_words(case), last, *cells])
        head = ["mean (mg/mL)", "map", *(one.name.replace("_", " ") for one in kept)]
        return Rows("False signal in inserts of other materials", head, rows)

    def quality(self, energy_keV: float) -> Rows:
        """SSIM of a monoenergetic image; MTF and noise texture of the map of the last material."""
        rows = []
        for case in self.cases:
            last = self.bins[case[1]].materials[-1]
            keys = {
                f"vmi{energy_keV:g}_ssim": ".3f",
                f"{last}_mtf50_per_cm": ".2f",
                f"{last}_nps_mean_per_cm": ".2f",
                "rays_not_converged_percent": ".2g",
            }
            cells = [
                f"{self._of(key, case):{form}}" if _name(key, case) in self.numbers else ""
                for key, form in keys.items()
            ]
            rows.append([_words(case), last, *cells])
        ssim = f"SSIM, {energy_keV:g} keV"
        head = ["images", "map", ssim, "MTF 50 % (1/cm)", "mean frequency of noise (1/cm)"]
        return Rows("Image quality", [*head, "% rays not converged"], rows)

    def _of(self, key: str, case: tuple[str, str]) -> float:
        return self.numbers[_name(key, case)]


def _name(key: str, case: tuple[str, str]) -> str:
    return f"{key}.{'_'.join(case)}"


def _words(case: tuple[str, str]) -> str:
    return ", ".join(case).replace("_", " ")
