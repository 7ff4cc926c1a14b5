"""Pixels calibrated through the implicitly differentiated decomposition of known slabs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.layer_fit import fit_through_decomposition
from pcctlearn.calibration.layer_problem import KnownRays
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.calibration.usable import (
    require_exposure,
    require_plates,
    usable_pixels,
    with_empty_bins,
)
from pcctlearn.physics.attenuation import density_g_cm3
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.validation import require_names, require_positive


class LayerSlabs:
    """Gain, skew and thresholds whose decomposition of the plates agrees with their known lengths.

    The loss and its derivative are those of ``fit_through_decomposition``.

    Args:
        basis: of the decomposition; the materials of the plates must be among them.
        materials: of the skew.
        max_steps: of Levenberg and Marquardt.
    """

    def __init__(
        self,
        basis: Sequence[str] = ("water", "aluminium"),
        materials: Sequence[str] = ("CdTe",),
        max_steps: int = 30,
    ) -> None:
        require_positive(max_steps=max_steps)
        require_names("basis", basis, "calibration.basis=[water,aluminium]")
        require_names("materials", materials, "calibration.materials=[CdTe]")
        self.basis, self.materials, self.max_steps = tuple(basis), tuple(materials), max_steps

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels (``Calibrator``)."""
        slabs = slab_rays(plates, nominal, self.basis, self.materials, "layer_slabs")
        fit = fit_through_decomposition(
            slabs.rays, slabs.model, self.basis, plates.thresholds_keV, self.max_steps
        )
        return assembled(fit, slabs.flags, plates, self.materials, "absolute")


class SlabRays(NamedTuple):
    """Rays of the pixels without a flag, their expected counts, and the flags of all pixels."""

    rays: KnownRays
    model: PlateModel
    flags: dict[str, Bool[Tensor, "pixel"]]


def slab_rays(
    plates: CalibrationSet,
    nominal: SpectralModel,
    basis: Sequence[str],
    materials: Sequence[str],
    calibration: str,
) -> SlabRays:
    """Counts behind plates as rays through known area densities of the basis materials.

    Args:
        plates, nominal: as of a ``Calibrator``.
        basis: of the decomposition.
        materials: of the skew.
        calibration: its name on the command line, for messages.

    Raises:
        ValueError: the plates are of other materials, too few, or without exposures; fewer
            thresholds than basis materials.
    """
    n_unknowns = len(materials) + len(plates.thresholds_keV)
    # every exposure gives one number for each basis material
    require_plates(plates, max(1 + len(materials), math.ceil(n_unknowns / len(basis))))
    if others := sorted(set(plates.materials) - set(basis)):
        spare = [name for name in basis if name not in plates.materials]
        wanted = [*plates.materials, *spare][: max(len(plates.materials), len(basis))]
        raise ValueError(
            f"the plates are of {', '.join(others)}, not among the basis materials "
            f"{', '.join(basis)}: use calibration.basis=[{','.join(wanted)}]"
        )
    exposure = require_exposure(plates, f"calibration={calibration}")
    if len(plates.thresholds_keV) < len(basis):
        raise ValueError(
            f"{len(plates.thresholds_keV)} thresholds do not determine {len(basis)} basis "
            "materials: measure counts above more thresholds, or use calibration=etb"
        )
    model = plate_model(plates, nominal, materials)
    counts, flags = usable_pixels(plates, model)
    flags = with_empty_bins(counts, flags)
    known = torch.zeros(len(plates.plates_cm), 1, len(basis), dtype=torch.float64)
    for column, name in enumerate(plates.materials):
        area = plates.plates_cm[:, column] * density_g_cm3(name)
        known[:, 0, list(basis).index(name)] = area
    return SlabRays(KnownRays(counts[~any_of(flags)], known, exposure.double()), model, flags)
