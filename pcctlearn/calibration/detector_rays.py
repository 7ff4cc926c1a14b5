"""Registered counts behind a known phantom, and what makes them: pixels, dead time and scatter."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.layer_problem import Unknowns
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.shared_unknowns import SharedUnknowns, Vector
from pcctlearn.physics.pileup import registered_rate, true_rate
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.shapes import Attenuation
from pcctlearn.solvers.arrow import Arrow, ArrowEquations

_BLOCK = 2_000_000  # transmissions, so that memory is limited
_MOST_G_CM2, _N_DENSITIES = 30.0, 121
_FEWEST = 0.5  # expected photons in a bin, below which a variance would be too small

OfRays = Float[Tensor, "pixel exposure bin"]


@dataclass(frozen=True)
class DetectorRays:
    """Counts in air and behind a known phantom.

    Args:
        registered: counts above thresholds in a view; of air the mean of its views.
        area_g_cm2: of the basis materials.
        n_views: that each exposure is the mean of: 1, and more for air.
        view_s: counting time of a view.
        scatter: over air of nominal pixels, in bins, for an amplitude of one, if its shape is
            known; none in air.
        scatter_g_cm2: area density of the first material behind which air has the spectrum of the
            scatter (``scatter_g_cm2``): a pixel registers scatter as it registers that.
    """

    registered: Float[Tensor, "pixel exposure threshold"]
    area_g_cm2: Float[Tensor, "pixel exposure material"]
    n_views: Float[Tensor, "exposure"]
    view_s: float
    scatter: OfRays | None = None
    scatter_g_cm2: Float[Tensor, "pixel exposure"] | None = None

    def of(self, pixels: Tensor) -> "DetectorRays":
        """The rays of some of the pixels (an index or a mask)."""
        own = (None if v is None else v[pixels] for v in (self.scatter, self.scatter_g_cm2))
        return DetectorRays(
            self.registered[pixels], self.area_g_cm2[pixels], self.n_views, self.view_s, *own
        )

    def corrected(self, shared: Vector, unknowns: SharedUnknowns) -> tuple[OfRays, Tensor]:
        """Primary counts in bins of counters without dead time, and their derivatives.

        n = m⁻¹(registered) above each threshold, less the scatter in each bin, for which a pixel is
        taken to register scatter as it registers air.

        Returns:
            The counts, and (pixel, exposure, bin, shared). Rates beyond the maximum of the curve
            are those of the maximum.
        """
        pair = unknowns.dead_times(shared)
        rate, resolved = true_rate(self.registered / self.view_s, *pair)
        by_rate, by_times = unknowns.log_registered(rate, pair)
        by_rate = torch.where(resolved & (rate > 0), by_rate, torch.inf)
        slopes = bins_from_above(-by_times / by_rate[..., None], dim=-2) * self.view_s
        counts = bins_from_above(rate * self.view_s)
        if self.scatter is not None:
            each = self.scatter * counts[:, :1]
            amplitude = unknowns.amplitude(shared)
            counts = counts - amplitude * each
            slopes = slopes - amplitude * self.scatter[..., None] * slopes[:, :1]
            slopes = torch.cat([slopes, -each[..., None]], -1)
        return counts.clamp(min=0), slopes


class RegisteredCounts:
    """Expected registered counts of all pixels, and the equations of their likelihood.

    m̄ = f(n) above each threshold, of n = k Σ_E S(E) exp(−Σ μ A) exp(−μ_x x) G(E, T), to which
    s times the scatter is added in bins.
    Counts m in bins are taken as Poisson variables. Σ r² of the equations is the deviance
    2 Σ (m̄ − m + m ln(m/m̄)), whose Gauss–Newton step is that of Fisher scoring.

    Args:
        rays: what was measured.
        model: the nominal pixel.
        attenuation: of the basis materials.
        unknowns: shared by the pixels.
    """

    def __init__(
        self,
        rays: DetectorRays,
        model: PlateModel,
        attenuation: Attenuation,
        unknowns: SharedUnknowns,
    ) -> None:
        self.rays, self.model, self.attenuation, self.unknowns = rays, model, attenuation, unknowns
        self.n_materials = len(model.attenuation_per_cm)
        thresholds = torch.tensor(unknowns.thresholds_keV, dtype=torch.float64)
        self._nominal = model.response.above(thresholds, model.energies_keV) * model.fluence
        self._nominal_air = bins_from_above(self._nominal.sum(-1))

    def equations(self, x: Unknowns, shared: Vector) -> ArrowEquations:
        """Jᵀr and JᵀJ of r = (m̄ − m)/√m̄ with the weights 1/m̄ held, x being (ln k, thickness, T)."""
        n_rays, n_energies = self.rays.registered.shape[1], len(self.model.energies_keV)
        size = max(1, _BLOCK // (n_rays * n_energies))
        parts = []
        for pixels in torch.arange(len(x)).split(size):
            value, local, by_shared, deviance = self._rows(self.rays.of(pixels), x[pixels], shared)
            gradient = (local.mT @ value[..., None])[..., 0]
            of_shared = torch.einsum("prg,pr->g", by_shared, value)
            parts.append((gradient, of_shared, *Arrow.of(local, by_shared), deviance))
        g, totals, blocks, border, corner, chi2 = zip(*parts, strict=True)
        arrow = Arrow(torch.cat(blocks), torch.cat(border), torch.stack(corner).sum(0))
        gradient = torch.stack(totals).sum(0)
        return ArrowEquations(torch.cat(g), gradient, arrow, torch.cat(chi2), shared.new_zeros(()))

    def expected(self, x: Unknowns, shared: Vector) -> OfRays:
        """Registered counts in bins."""
        return self._expected(self.rays, x, shared).counts

    def along_spectrum(
        self, x: Unknowns, shared: Vector, per_energy: Float[Tensor, "energy"]
    ) -> tuple[Tensor, Tensor]:
        """Jᵀ of a change of the registered counts by a spectrum multiplied by 1 + per_energy.

        Returns:
            (pixel, unknown) and (shared): what the equations take the change for is
            (JᵀJ)⁻¹ of both.
        """
        expected, _, local, by_shared = self._derivatives(self.rays, x, shared, per_energy)
        weight = (self.rays.n_views[:, None] / expected.clamp(min=_FEWEST))[..., None]
        change = local[..., -1:] * weight
        return (
            (local[..., :-1] * change).flatten(1, 2).sum(1),
            (by_shared * change).flatten(0, 2).sum(0),
        )

    def _rows(
        self, rays: DetectorRays, x: Unknowns, shared: Vector
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Residuals (pixel, row), their derivatives in the unknowns of the pixel and shared, and
        the deviance.
        """
        expected, _, local, by_shared = self._derivatives(rays, x, shared)
        mean, n = expected.clamp(min=_FEWEST), bins_from_above(rays.registered)
        root = (rays.n_views[:, None] / mean).sqrt()
        value = (mean - n) * root
        deviance = 2 * rays.n_views[:, None] * (mean - n + torch.xlogy(n, n / mean))
        return (
            value.flatten(1),
            (local * root[..., None]).flatten(1, 2),
            (by_shared * root[..., None]).flatten(1, 2),
            deviance.flatten(1).sum(-1),
        )

    def _expected(self, rays: DetectorRays, x: Unknowns, shared: Vector) -> "_Expected":
        n = 1 + self.n_materials
        passed = skew_filter(x[:, 0].exp(), x[:, 1:n], self.model.attenuation_per_cm)
        spectra = self.model.fluence * passed
        above, density = (
            torch.stack(part, 1) * spectra[:, None]
            for part in zip(*(self.model.above(T) for T in x[:, n:].unbind(1)), strict=True)
        )
        behind = self._behind(rays)
        counts = behind.phantom @ above.mT
        if behind.scatter is not None:
            each = behind.per_count * bins_from_above(behind.scatter @ above.mT)
            counts = counts + self.unknowns.amplitude(shared) * above_from_bins(each)
        rate = counts / rays.view_s
        m = registered_rate(rate, *self.unknowns.dead_times(shared))
        return _Expected(bins_from_above(m * rays.view_s), rate, m, behind, above, density)

    def _behind(self, rays: DetectorRays) -> "_Behind":
        phantom = torch.exp(-rays.area_g_cm2 @ self.attenuation)
        if rays.scatter is None:
            return _Behind(phantom, None, None)
        g_cm2 = rays.scatter_g_cm2
        g_cm2 = torch.zeros_like(phantom[..., 0]) if g_cm2 is None else g_cm2
        scatter = torch.exp(-g_cm2[..., None] * self.attenuation[0])
        nominal = bins_from_above(scatter @ self._nominal.T)
        return _Behind(phantom, scatter, rays.scatter * self._nominal_air / nominal)

    def _derivatives(
        self,
        rays: DetectorRays,
        x: Unknowns,
        shared: Vector,
        per_energy: Float[Tensor, "energy"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Expected counts, dm/dn, and derivatives (pixel, exposure, bin, unknown or shared)."""
        expected, rate, m, behind, above, density = self._expected(rays, x, shared)
        pair = self.unknowns.dead_times(shared)
        by_rate, by_times = self.unknowns.log_registered(rate, pair)
        slope = m * by_rate

        def columns(transmission: Tensor) -> Tensor:
            """Derivatives of counts above thresholds in the unknowns of the pixels."""
            found = [transmission @ above.mT]
            found += [transmission @ (-mu * above).mT for mu in self.model.attenuation_per_cm]
            moved = transmission @ density.mT
            eye = torch.eye(moved.shape[-1], dtype=moved.dtype)
            found += [-moved * one for one in eye]
            if per_energy is not None:
                found.append(transmission @ (per_energy * above).mT)
            return torch.stack(found, -1)

        by_pixel = columns(behind.phantom)
        times = bins_from_above(by_times * (m * rays.view_s)[..., None], dim=-2)
        if behind.scatter is None:
            return expected, slope, bins_from_above(by_pixel * slope[..., None], dim=-2), times
        scattered = behind.per_count[..., None] * bins_from_above(columns(behind.scatter), dim=-2)
        scattered = above_from_bins(scattered, dim=-2)
        by_pixel = by_pixel + self.unknowns.amplitude(shared) * scattered
        local = bins_from_above(by_pixel * slope[..., None], dim=-2)
        by_amplitude = bins_from_above(scattered[..., 0] * slope)  # the gain multiplies all of it
        return expected, slope, local, torch.cat([times, by_amplitude[..., None]], -1)


class _Behind(NamedTuple):
    """Transmission of the phantom, and of what gives air the spectrum of the scatter.

    ``per_count`` is the scatter for an amplitude of one, over nominal counts behind that.
    """

    phantom: Float[Tensor, "pixel exposure energy"]
    scatter: Tensor | None
    per_count: Any


class _Expected(NamedTuple):
    """Registered counts in bins, true and registered rates above thresholds, and what makes them.

    ``above`` are the spectra above the thresholds, ``density`` −∂above/∂T.
    """

    counts: OfRays
    rate: Tensor
    registered_rate: Tensor
    behind: _Behind
    above: Tensor
    density: Tensor


def scatter_g_cm2(
    scatter: OfRays, nominal: Float[Tensor, "bin energy"], attenuation: Float[Tensor, "energy"]
) -> Float[Tensor, "pixel exposure"]:
    """Area density behind which nominal air has the shares of the bins that the scatter has.

    Scattered photons have crossed part of the object and have lost little energy, so that their
    spectrum is about that of air behind a few cm of water. The least squares of the shares; zero
    without scatter.
    """
    g_cm2 = torch.linspace(0, _MOST_G_CM2, _N_DENSITIES, dtype=torch.float64)
    counts = torch.exp(-g_cm2[:, None] * attenuation) @ nominal.T
    shares = counts / counts.sum(-1, keepdim=True)
    total = scatter.sum(-1, keepdim=True)
    own = scatter / total.clamp(min=torch.finfo(scatter.dtype).tiny)
    best = torch.cdist(own.flatten(0, 1), shares).argmin(-1).reshape(scatter.shape[:2])
    return torch.where(total[..., 0] > 0, g_cm2[best], 0.0)
