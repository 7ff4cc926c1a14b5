"""Detectors whose pixels differ in gain, skew and thresholds, drawn from a seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.pixel_model import PixelModel


@dataclass(frozen=True)
class DetectorErrors:
    """How pixels differ from nominal ones.

    The thickness of the skew is a cosine over the detector plus a random part in every pixel,
    clipped to a range. All thresholds but the lowest have independent biases; all of them are
    also biased by the energy scale g V + o of the pixel [2, eq. 11]. Biases are normal variables,
    truncated at three standard deviations, with zero mean over the pixels: counts that are divided
    by their sum over the pixels do not determine a mean.

    Args:
        wave_cm, pixel_cm: amplitude of the cosine, standard deviation of the random part.
        range_cm: limits of the thickness.
        bias_sd_keV: of each threshold above the lowest.
        scale_sd, offset_sd_keV: of the energy scale of a pixel.
        gain_sd: of the gain.
    """

    wave_cm: float
    pixel_cm: float
    range_cm: Sequence[float]
    bias_sd_keV: float
    scale_sd: float = 0.0
    offset_sd_keV: float = 0.0
    gain_sd: float = 0.01

    def pixels(
        self,
        nominal_keV: Float[Tensor, "threshold"],
        n_pixels: int,
        seed: int,
        material: str = "CdTe",
        factor: float = 1.0,
    ) -> PixelModel:
        """A row of pixels.

        Args:
            nominal_keV: nominal thresholds.
            n_pixels: of the row.
            seed: of the differences.
            material: of the skew.
            factor: of its thickness.
        """
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        def truncated(*shape: int) -> Tensor:
            """Normal variables within three standard deviations."""
            within = math.erf(3 / math.sqrt(2))
            uniform = torch.rand(*shape, generator=generator, dtype=torch.float64)
            return math.sqrt(2) * torch.erfinv(within * (2 * uniform - 1))

        place = torch.linspace(-1, 1, n_pixels, dtype=torch.float64)
        low, high = self.range_cm
        wave = (low + high) / 2 + self.wave_cm * torch.cos(2.2 * math.pi * place + 0.4)
        thickness = (wave + self.pixel_cm * normal(n_pixels)).clamp(low, high)
        bias = self.bias_sd_keV * truncated(n_pixels, len(nominal_keV))
        bias[:, 0] = 0
        scale, offset = truncated(2, n_pixels, 1)
        bias = bias + self.scale_sd * scale * nominal_keV + self.offset_sd_keV * offset
        bias = bias - bias.mean(0)
        _require_order(nominal_keV, nominal_keV + bias)
        return PixelModel.known(
            gain=1 + self.gain_sd * normal(n_pixels),
            thickness_cm=factor * thickness[:, None],
            materials=(material,),
            thresholds_keV=nominal_keV + bias,
            nominal_keV=nominal_keV,
        )


def _require_order(
    nominal_keV: Float[Tensor, "threshold"], thresholds_keV: Float[Tensor, "pixel threshold"]
) -> None:
    """Raise ValueError if the biases put thresholds of a pixel in another order."""
    apart = thresholds_keV.diff(dim=-1).amin(0)
    for j in (apart <= 0).nonzero().flatten().tolist():
        lower, upper = nominal_keV[j : j + 2].tolist()
        least = math.ceil(upper - lower - float(apart[j])) + 1
        raise ValueError(
            f"the threshold of {upper:g} keV of a pixel lies at or below that of {lower:g} keV, "
            f"because of their biases: put thresholds {least} keV or more apart "
            "(physics.thresholds.edges_keV), or reduce bias_sd_keV and scale_sd"
        )
