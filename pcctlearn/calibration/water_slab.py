"""A flat field behind a water slab: what scanners do in place of a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_counts import plate_model
from pcctlearn.calibration.usable import require_plates, spread, usable_pixels
from pcctlearn.decomposition.beam_hardening import MappedHardening, beam_hardening, spectra_above
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import any_of

_MOST_SCALED = 0.5  # of ln(projection / that of a nominal pixel)


class WaterSlab:
    """p ← p · p_nominal/p_i, measured behind a slab, then the correction of a nominal pixel.

    Every pixel is right behind this slab. Two exposures: air, and a slab about as long as the rays
    through the objects to be scanned.
    """

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> "SlabScale":
        """Calibrate all pixels (``Calibrator``)."""
        require_plates(plates, 2)
        if len(plates.counts) != 2 or plates.exposure is None:
            raise ValueError(
                f"calibration=water_slab takes air and one slab with the exposure of each, got "
                f"{len(plates.counts)} exposures: leave the others out"
            )
        air, slab = plates.plates_cm.sum(-1).argsort().tolist()
        if plates.plates_cm[air].any():
            raise ValueError(
                f"calibration=water_slab needs an exposure without plates, got "
                f"{plates.named(air)} and {plates.named(slab)}: measure air"
            )
        model = plate_model(plates, nominal, ["water"])
        counts, flags = usable_pixels(plates, model)
        good = ~any_of(flags)
        exposure = plates.exposure.double()
        p = -(counts[good, slab] / counts[good, air] * exposure[air] / exposure[slab]).log()
        behind = torch.einsum("te,me->mt", spectra_above(nominal).double(), model.transmission)
        scale = -(behind[slab] / behind[air]).log() / p
        ok = scale.log().abs().amax(-1) < _MOST_SCALED  # NaN is not
        flags["unlike the slab"] = spread(~ok, good, False)
        scale = spread(torch.where(ok[:, None], scale, 1.0), good, 1.0)
        shape = plates.pixel_shape
        return SlabScale(
            scale.reshape(*shape, -1),
            {kind: flagged.reshape(shape) for kind, flagged in flags.items()},
        )


@dataclass(frozen=True)
class SlabScale:
    """Factor of the projections of each pixel and threshold (``PixelCalibration``)."""

    scale: Float[Tensor, "*pixel threshold"]
    flags: dict[str, Bool[Tensor, "*pixel"]]

    @property
    def calibrated(self) -> Bool[Tensor, "*pixel"]:
        """Pixels without a flag."""
        return ~any_of(self.flags)

    def spectra_above(self, nominal: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
        """Spectra of the photons counted above each threshold: those of a nominal pixel."""
        return spectra_above(nominal)

    def correction(
        self, nominal: SpectralModel, effective_keV: Sequence[float] | None = None
    ) -> MappedHardening:
        """Scaled projections, corrected as those of a nominal pixel."""
        hardening = beam_hardening(spectra_above(nominal), nominal, effective_keV=effective_keV)
        return MappedHardening(lambda p: self.scale.to(p) * p, hardening)
