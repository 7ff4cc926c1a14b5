"""What a calibration finds of every pixel: gain, skew, thresholds, with standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.decomposition.beam_hardening import BeamHardening, beam_hardening, spectra_above
from pcctlearn.physics.skew import Skew
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds

Gauge = Literal["absolute", "relative"]


@dataclass(frozen=True)
class PixelModel:
    """Gain, thicknesses and thresholds of every pixel [2, eqs 3, 4].

    Args:
        gain: k, one on average.
        thickness_cm: x of each skew material, of either sign.
        materials: of the skew.
        thresholds_keV: true thresholds.
        nominal_keV: nominal thresholds.
        gain_covariance: of (ln k, x), for Poisson counts.
        threshold_sd_keV: zero for the reference threshold where it is nominal by definition.
        gauge: "relative" where a skew or bias common to all pixels is not determined.
        flags: {kind: pixels that could not be calibrated, for this reason}; they are nominal.
        warnings: sentences about errors that all pixels share, which the standard errors leave out.
        provenance: what the model was made from, by name.
    """

    gain: Float[Tensor, "*pixel"]
    thickness_cm: Float[Tensor, "*pixel material"]
    materials: tuple[str, ...]
    thresholds_keV: Float[Tensor, "*pixel threshold"]
    nominal_keV: Float[Tensor, "threshold"]
    gain_covariance: Float[Tensor, "*pixel unknown unknown"]
    threshold_sd_keV: Float[Tensor, "*pixel threshold"]
    gauge: Gauge
    flags: dict[str, Bool[Tensor, "*pixel"]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)

    @classmethod
    def known(
        cls,
        gain: Float[Tensor, "*pixel"],
        thickness_cm: Float[Tensor, "*pixel material"],
        materials: tuple[str, ...],
        thresholds_keV: Float[Tensor, "*pixel threshold"],
        nominal_keV: Float[Tensor, "threshold"],
    ) -> "PixelModel":
        """A detector that is known exactly: all standard deviations are zero."""
        n_unknowns = 1 + len(materials)
        return cls(
            gain,
            thickness_cm,
            materials,
            thresholds_keV,
            nominal_keV,
            gain_covariance=gain.new_zeros(*gain.shape, n_unknowns, n_unknowns),
            threshold_sd_keV=torch.zeros_like(thresholds_keV),
            gauge="absolute",
        )

    @property
    def thickness_sd_cm(self) -> Float[Tensor, "*pixel material"]:
        """Standard deviations of the thicknesses."""
        return self.gain_covariance.diagonal(dim1=-2, dim2=-1)[..., 1:].clamp(min=0).sqrt()

    @property
    def calibrated(self) -> Bool[Tensor, "*pixel"]:
        """Pixels without a flag."""
        good = torch.ones_like(self.gain, dtype=torch.bool)
        for flagged in self.flags.values():
            good = good & ~flagged
        return good

    def spectral_model(self, nominal: SpectralModel) -> SpectralModel:
        """The nominal scanner with the skew and the thresholds of every pixel."""
        last = nominal.thresholds.edges_keV.detach()[..., -1:]
        edges = torch.cat(
            [self.thresholds_keV, last.expand(*self.gain.shape, 1).to(self.thresholds_keV)], -1
        )
        return SpectralModel(
            nominal.energies_keV,
            nominal.fluence,
            nominal.response,
            Thresholds(edges),
            nominal.attenuation,
            nominal.materials,
            Skew(self.gain, self.thickness_cm, self.materials, nominal.energies_keV),
        )

    def as_panel(self, shape: tuple[int, ...]) -> "PixelModel":
        """The same pixels as a panel of this shape, such as one row."""
        n = self.gain.ndim
        arrays: dict[str, Any] = {
            field.name: values.reshape(*shape, *values.shape[n:])
            for field in fields(self)
            if isinstance(values := getattr(self, field.name), Tensor)
            and field.name != "nominal_keV"
        }
        flags = {kind: flagged.reshape(shape) for kind, flagged in self.flags.items()}
        return replace(self, **arrays, flags=flags)

    def require_scanner(
        self,
        shape: tuple[int, ...],
        edges_keV: Float[Tensor, "*pixel edge"],
        remedy: str = "calibrate the detector of the scan, with its thresholds",
    ) -> None:
        """Raise ValueError unless a scanner has these pixels and nominal thresholds.

        Args:
            shape: of its detector; a row of pixels and a panel of one row are the same.
            edges_keV: its nominal thresholds, and the upper limit of the last bin.
            remedy: end of the message.
        """
        own, nominal = tuple(self.gain.shape), edges_keV[..., :-1].to(self.nominal_keV)
        if shape not in (own, (1, *own)):
            raise ValueError(
                f"the pixel model has {' x '.join(map(str, own))} pixels, the scanner "
                f"{' x '.join(map(str, shape))}: {remedy}"
            )
        if nominal.shape[-1] != len(self.nominal_keV) or not torch.allclose(
            nominal, self.nominal_keV.expand_as(nominal), rtol=0, atol=1e-3
        ):
            typical = nominal.reshape(-1, nominal.shape[-1])[0].tolist()
            raise ValueError(
                f"the pixel model is for thresholds of {self.nominal_keV.tolist()} keV, the scan "
                f"has {typical}: {remedy}"
            )

    def spectra_above(self, nominal: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
        """Spectra of the photons counted above each threshold."""
        return spectra_above(self.spectral_model(nominal))

    def correction(
        self, nominal: SpectralModel, effective_keV: Sequence[float] | None = None
    ) -> BeamHardening:
        """Beam-hardening correction of every pixel (``PixelCalibration``)."""
        return beam_hardening(self.spectra_above(nominal), nominal, effective_keV=effective_keV)
