"""Counts of every pixel behind known plates: what a detector is calibrated from."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.shapes import Energies

SAME_CM = 1e-4  # plates that differ by less are the same


@dataclass(frozen=True)
class CalibrationSet:
    """Counts above thresholds behind plates, one exposure after the other, air among them.

    Args:
        counts: photons registered above each threshold, all frames of an exposure together.
        plates_cm: thickness of each material in the beam.
        materials: of the plates, of known density.
        thresholds_keV: nominal ones, increasing.
        exposure: tube current times time of each, relative, from a monitor; ``None`` where nothing
            measured it.
        flags: {kind: pixels that must not be used}, such as "dead" and "saturated".
        noise_free: the counts are expected ones, computed without noise.
        counted: "bins" where counts in bins were summed to those above thresholds.

    Raises:
        ValueError: arrays that do not fit together, plates that are listed twice, counts that do
            not fall with the threshold in most pixels, or do not fall with the plates.
    """

    counts: Float[Tensor, "exposure *pixel threshold"]
    plates_cm: Float[Tensor, "exposure material"]
    materials: tuple[str, ...]
    thresholds_keV: Float[Tensor, "threshold"]
    exposure: Float[Tensor, "exposure"] | None = None
    flags: dict[str, Bool[Tensor, "*pixel"]] = field(default_factory=dict)
    noise_free: bool = False
    counted: Literal["above", "bins"] = "above"

    def __post_init__(self) -> None:
        n_exposures, n_thresholds = len(self.plates_cm), len(self.thresholds_keV)
        if len(self.counts) != n_exposures:
            raise ValueError(
                f"counts have {len(self.counts)} exposures, plates_cm {n_exposures}: list the "
                "plates of every exposure, in order"
            )
        if self.counts.shape[-1] != n_thresholds:
            raise ValueError(
                f"counts have {self.counts.shape[-1]} thresholds, thresholds_keV {n_thresholds}: "
                "give both for the same thresholds"
            )
        if self.plates_cm.shape[1] != len(self.materials):
            raise ValueError(
                f"plates_cm has {self.plates_cm.shape[1]} columns for {len(self.materials)} "
                "materials: give one thickness of each material"
            )
        if self.exposure is not None and not (
            self.exposure.shape == (n_exposures,)
            and (self.exposure > 0).all()
            and self.exposure.isfinite().all()
        ):
            raise ValueError(
                f"exposure must be {n_exposures} positive numbers, got {self.exposure.tolist()}: "
                "measure it, set it to ones if the tube is stable, or leave it out"
            )
        if not (self.plates_cm.isfinite().all() and (self.plates_cm >= 0).all()):
            raise ValueError(
                "plates_cm must be finite and 0 or more: give thicknesses in cm, 0 for air"
            )
        if not (self.thresholds_keV.diff() > 0).all():
            raise ValueError(
                f"thresholds_keV must increase, got {self.thresholds_keV.tolist()}: sort them, and "
                "the last axis of the counts with them"
            )
        self._check_plates()
        self._check_counts()

    @classmethod
    def from_bins(
        cls, bins: Float[Tensor, "exposure *pixel bin"], *arguments: Any, **named: Any
    ) -> "CalibrationSet":
        """The set of counts in energy bins, the last of which has no upper limit."""
        return replace(cls(above_from_bins(bins), *arguments, **named), counted="bins")

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Shape of the detector."""
        return tuple(self.counts.shape[1:-1])

    def of_threshold(self, index: int) -> Float[Tensor, "pixel exposure"]:
        """Counts above one threshold, pixel by pixel."""
        return self.counts[..., index].flatten(1).T

    def transmission(self, energies_keV: Energies) -> Float[Tensor, "exposure energy"]:
        """A_m(E) = exp(−Σ_q μ_q(E) L_mq)."""
        attenuation = linear_attenuation(self.materials, energies_keV)
        return torch.exp(-self.plates_cm.to(attenuation) @ attenuation)

    def named(self, exposure: int) -> str:
        """The plates of an exposure, in words."""
        parts = [
            f"{10 * thickness:g} mm {name}"
            for name, thickness in zip(
                self.materials, self.plates_cm[exposure].tolist(), strict=True
            )
            if thickness > 0
        ]
        return " + ".join(parts) or "air"

    def _check_plates(self) -> None:
        rows = [tuple(row) for row in (self.plates_cm.double() / SAME_CM).round().tolist()]
        for index, row in enumerate(rows):
            if row in rows[:index]:
                raise ValueError(
                    f"exposures {rows.index(row)} and {index} are both {self.named(index)}: list "
                    "one with the sum of their counts, and of their entries in the datasets "
                    "exposure and frames if the file has these"
                )

    def _check_counts(self) -> None:
        """Counts of the median pixel fall with the threshold, and behind thicker plates.

        Pixels without any count above some threshold are dead, however many they are.
        """
        pixels = self.counts.flatten(1, -2)
        usable = pixels.isfinite().all(-1).all(0)
        for flagged in self.flags.values():
            usable = usable & ~flagged.flatten()
        pixels = pixels[:, usable]
        if not (pixels > 0).any() or bool((pixels < 0).any()):
            raise ValueError(
                "counts must be 0 or more in all pixels, and above 0 in some: set those of dead "
                "pixels to 0"
            )
        counts = (pixels > 0).any(0)  # (pixel, threshold)
        if not (alive := counts.all(-1)).any():
            fewest = self.thresholds_keV[int(counts.sum(0).argmin())]
            raise ValueError(
                f"no pixel counts photons above every threshold, and fewest above {fewest:g} keV: "
                "leave this threshold out of counts and thresholds_keV"
            )
        typical = pixels[:, alive].median(1).values  # (exposure, threshold)
        if not (typical > 0).all():
            exposure, index = (typical <= 0).nonzero()[0].tolist()
            raise ValueError(
                f"most pixels count nothing above {self.thresholds_keV[index]:g} keV behind "
                f"{self.named(exposure)} (exposure {exposure}): expose longer, or "
                "leave this exposure out"
            )
        self._check_thresholds(typical)
        if self.exposure is None:
            return  # counts may rise with it
        typical = typical / self.exposure[:, None]
        for i in range(len(typical)):
            for j in range(len(typical)):
                thicker = i != j and (self.plates_cm[j] >= self.plates_cm[i]).all()
                if thicker and bool((typical[j] > typical[i]).any()):
                    raise ValueError(
                        f"counts behind {self.named(j)} (exposure {j}) are more than behind "
                        f"{self.named(i)} (exposure {i}): check the order of the plates and the "
                        "exposures"
                    )

    def _check_thresholds(self, typical: Float[Tensor, "exposure threshold"]) -> None:
        """Counts of the median pixel fall with the threshold."""
        remedy = (
            "set the attribute counted of the file to 'bins' if they are counts in bins (in "
            "Python: CalibrationSet.from_bins)"
        )
        if typical.shape[1] > 1 and bool((typical.diff(dim=1) > 0).all()):
            remedy = (
                "in reverse order they all fall, so reverse the axis of the thresholds "
                f"(counts[:, ::-1] in a file), or {remedy}"
            )
        for index in range(1, typical.shape[1]):
            if not (typical[:, index] < typical[:, index - 1]).all():
                raise ValueError(
                    f"counts above {self.thresholds_keV[index]:g} keV are not fewer than those "
                    f"above {self.thresholds_keV[index - 1]:g} keV: {remedy}"
                )
