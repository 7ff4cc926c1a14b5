"""Spectral sensitivity as an exponential of polynomials, and a polynomial of the flux [2, SFR]."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from numpy.polynomial import legendre
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_counts import OfPlates, plate_model
from pcctlearn.calibration.usable import (
    require_exposure,
    require_plates,
    spread,
    usable_pixels,
)
from pcctlearn.decomposition.beam_hardening import MappedHardening, beam_hardening, spectra_above
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.shapes import Energies, Projections
from pcctlearn.solvers.levenberg_marquardt import LevenbergMarquardt, Residuals
from pcctlearn.validation import require_positive

_LONGEST_STEP = 0.5
_TOLERANCE = 1e-2  # standard deviations
_NEWTON_STEPS = 8
_FLUX = 2  # coefficients of x² and x³

Flux = Float[Tensor, "*pixel threshold 2"]


class Sfr:
    """s_ij(E) = S(E) G(E, T_j) exp(Σ_q c_ijq P_q(E)), and y = Σ_q b_q x^q for the transmission x.

    For each pixel and threshold, the shape of the spectrum relative to that of a nominal pixel is
    an exponential of Legendre polynomials P_q on the energies of the spectrum; measured over air
    counts y follow the expected ones x by a cubic through (1, 1), which absorbs what no spectrum
    explains, such as pile-up [2, eqs 35 to 37]. Needs many plates of two materials that differ in
    their energy dependence, such as 5 × 5 of PMMA and aluminium.

    Args:
        order: highest Legendre polynomial.
        ridge: weight of Σ c² + Σ b², relative to the counts in air.
    """

    def __init__(self, order: int = 4, ridge: float = 1e-9) -> None:
        require_positive(order=order, ridge=ridge)
        self.order, self.ridge = order, ridge

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> "SfrCalibration":
        """Calibrate all thresholds of all pixels (``Calibrator``)."""
        require_plates(plates, 1 + self.order + _FLUX)
        air = int(plates.plates_cm.sum(-1).argmin())
        exposure = require_exposure(plates, "calibration=sfr")
        if plates.plates_cm[air].any():
            raise ValueError(
                "calibration=sfr needs an exposure without plates: measure it, or use "
                "calibration=etb_as_proposed"
            )
        model = plate_model(plates, nominal, ["water"])  # of no skew
        basis = _legendre(self.order, model.energies_keV)
        n_thresholds = len(plates.thresholds_keV)
        counts, flags = usable_pixels(plates, model)
        good = ~any_of(flags)
        spectra = spectra_above(nominal).double()
        found = [
            self._fit(counts[good, :, j], exposure, air, spectra[j], basis, model.transmission)
            for j in range(n_thresholds)
        ]
        shapes, flux, converged = (torch.stack(part, 1) for part in zip(*found, strict=True))
        ok = converged.all(1)
        flags["undetermined"] = spread(~ok, good, False)
        shape = plates.pixel_shape
        full = spread(torch.where(ok[:, None, None], shapes, 0.0), good, 0.0)
        return SfrCalibration(
            (spectra * full.exp()).reshape(*shape, n_thresholds, -1),
            spread(torch.where(ok[:, None, None], flux, 0.0), good, 0.0).reshape(*shape, -1, _FLUX),
            {kind: flagged.reshape(shape) for kind, flagged in flags.items()},
        )

    def _fit(
        self,
        counts: OfPlates,
        exposure: Float[Tensor, "exposure"],
        air: int,
        spectrum: Float[Tensor, "energy"],
        basis: Float[Tensor, "order energy"],
        transmission: Float[Tensor, "exposure energy"],
    ) -> tuple[Float[Tensor, "pixel energy"], Float[Tensor, "pixel 2"], Bool[Tensor, "pixel"]]:
        """ln of the shape, flux coefficients, and whether they converged, of one threshold."""
        y = (counts / exposure) / (counts[:, air : air + 1] / exposure[air])
        behind = [m for m in range(len(exposure)) if m != air]
        y, A = y[:, behind], transmission[behind].T
        root = (counts[:, air, None] / y).sqrt()  # Poisson counts, divided by those in air
        prior = (self.ridge * counts[:, air]).sqrt()

        def residuals(unknown: Tensor) -> Residuals:
            c, b = unknown[:, : self.order], unknown[:, self.order :]
            s = spectrum * (c @ basis).exp()
            s = s / s.sum(-1, keepdim=True)
            x = s @ A
            moved = [(s * q) @ A - x * (s @ q)[:, None] for q in basis]
            b = b[:, None]
            slope = _flux_slope(x, b)
            J = torch.cat(
                [slope[..., None] * torch.stack(moved, -1), (x**2 - x)[..., None],
                 (x**3 - x)[..., None]],
                -1,
            )  # fmt: skip
            value = torch.cat([root * (_flux(x, b) - y), prior[:, None] * unknown], 1)
            rows = torch.diag_embed(prior[:, None].expand_as(unknown))
            rounding = 16 * torch.finfo(y.dtype).eps * root.amax(-1)
            return Residuals(value, torch.cat([root[..., None] * J, rows], 1), rounding)

        start = y.new_zeros(len(y), self.order + _FLUX)
        found = LevenbergMarquardt(_TOLERANCE, max_steps=200)(
            residuals, start, torch.full_like(start[0], _LONGEST_STEP)
        )
        c, b = found.x[:, : self.order], found.x[:, self.order :]
        return c @ basis, b, found.converged & (_flux_slope(y, b[:, None]) > 0).all(-1)


@dataclass(frozen=True)
class SfrCalibration:
    """Spectrum above each threshold and coefficients b₂, b₃ of the flux (``PixelCalibration``)."""

    spectra: Float[Tensor, "*pixel threshold energy"]
    flux: Flux
    flags: dict[str, Bool[Tensor, "*pixel"]]

    @property
    def calibrated(self) -> Bool[Tensor, "*pixel"]:
        """Pixels without a flag."""
        return ~any_of(self.flags)

    def spectra_above(self, nominal: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
        """Spectra of the photons counted above each threshold, up to a factor."""
        return self.spectra

    def correction(
        self, nominal: SpectralModel, effective_keV: Sequence[float] | None = None
    ) -> MappedHardening:
        """The flux is inverted, then corrected for beam hardening."""
        hardening = beam_hardening(self.spectra, nominal, effective_keV=effective_keV)
        return MappedHardening(partial(straightened, flux=self.flux), hardening)


def straightened(projections: Projections, flux: Flux) -> Projections:
    """−ln x for y = Σ b_q x^q = exp(−p), by Newton's method."""
    y, b = torch.exp(-projections), flux.to(projections)
    x = y
    for _ in range(_NEWTON_STEPS):
        x = (x - (_flux(x, b) - y) / _flux_slope(x, b)).clamp(min=torch.finfo(y.dtype).tiny)
    return -x.log()


def _flux(x: Tensor, b: Tensor) -> Tensor:
    """(1 − b₂ − b₃) x + b₂ x² + b₃ x³."""
    b2, b3 = b[..., 0], b[..., 1]
    return x * (1 - b2 - b3 + x * (b2 + x * b3))


def _flux_slope(x: Tensor, b: Tensor) -> Tensor:
    b2, b3 = b[..., 0], b[..., 1]
    return 1 - b2 - b3 + x * (2 * b2 + 3 * x * b3)


def _legendre(order: int, energies_keV: Energies) -> Float[Tensor, "order energy"]:
    """P_1 … P_order from the first to the last energy; a constant would cancel."""
    first, last = energies_keV[0], energies_keV[-1]
    place = (2 * energies_keV - first - last) / (last - first)
    return torch.from_numpy(legendre.legvander(place.numpy(), order).T[1:].copy())
