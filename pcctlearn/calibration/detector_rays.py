"""Registered counts behind a known phantom, and what makes them: pixels, dead time and scatter."""

from dataclasses import dataclass

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
        scatter: over air, in bins, for an amplitude of one, if its shape is known; none in air.
            A pixel registers scatter as it registers air: its gain, skew and thresholds change the
            counts of both by nearly the same factor in each bin.
    """

    registered: Float[Tensor, "pixel exposure threshold"]
    area_g_cm2: Float[Tensor, "pixel exposure material"]
    n_views: Float[Tensor, "exposure"]
    view_s: float
    scatter: OfRays | None = None

    def with_scatter(self, above: Tensor, amplitude: Tensor, dim: int = -1) -> Tensor:
        """Counts above thresholds, or changes of them, with the scatter that follows their air."""
        if self.scatter is None:
            return above
        ratio = self.scatter if dim == -1 else self.scatter[..., None]
        scattered = ratio * bins_from_above(above[:, :1], dim)
        return above + amplitude * above_from_bins(scattered, dim)

    def of(self, pixels: Tensor) -> "DetectorRays":
        """The rays of some of the pixels (an index or a mask)."""
        scatter = None if self.scatter is None else self.scatter[pixels]
        return DetectorRays(
            self.registered[pixels], self.area_g_cm2[pixels], self.n_views, self.view_s, scatter
        )

    def corrected(self, shared: Vector, unknowns: SharedUnknowns) -> tuple[OfRays, Tensor]:
        """Primary counts in bins of counters without dead time, and their derivatives.

        n = m⁻¹(registered) above each threshold, less the scatter in each bin.

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
        g, of_shared, blocks, border, corner, chi2 = zip(*parts, strict=True)
        arrow = Arrow(torch.cat(blocks), torch.cat(border), torch.stack(corner).sum(0))
        gradient = torch.stack(of_shared).sum(0)
        return ArrowEquations(torch.cat(g), gradient, arrow, torch.cat(chi2), shared.new_zeros(()))

    def expected(self, x: Unknowns, shared: Vector) -> OfRays:
        """Registered counts in bins."""
        return self._expected(self.rays, x, shared)[0]

    def along_spectrum(
        self, x: Unknowns, shared: Vector, per_energy: Float[Tensor, "energy"]
    ) -> tuple[Tensor, Tensor]:
        """Jᵀ of a change of the registered counts by a spectrum multiplied by 1 + per_energy.

        Returns:
            (pixel, unknown) and (shared): what the equations take the change for is
            (JᵀJ)⁻¹ of both.
        """
        expected, slope, local, by_shared = self._derivatives(self.rays, x, shared, per_energy)
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

    def _expected(self, rays: DetectorRays, x: Unknowns, shared: Vector) -> tuple[Tensor, ...]:
        """Registered counts in bins, true rates, registered rates, and what makes them."""
        n = 1 + self.n_materials
        transmission = torch.exp(-rays.area_g_cm2 @ self.attenuation)
        passed = skew_filter(x[:, 0].exp(), x[:, 1:n], self.model.attenuation_per_cm)
        spectra = self.model.fluence * passed
        above, density = (
            torch.stack(part, 1) * spectra[:, None]
            for part in zip(*(self.model.above(T) for T in x[:, n:].unbind(1)), strict=True)
        )
        counts = rays.with_scatter(transmission @ above.mT, self.unknowns.amplitude(shared))
        rate = counts / rays.view_s
        m = registered_rate(rate, *self.unknowns.dead_times(shared))
        return bins_from_above(m * rays.view_s), rate, m, transmission, above, density

    def _derivatives(
        self,
        rays: DetectorRays,
        x: Unknowns,
        shared: Vector,
        per_energy: Float[Tensor, "energy"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Expected counts, dm/dn, and derivatives (pixel, exposure, bin, unknown or shared)."""
        expected, rate, m, transmission, above, density = self._expected(rays, x, shared)
        pair = self.unknowns.dead_times(shared)
        by_rate, by_times = self.unknowns.log_registered(rate, pair)
        slope = m * by_rate
        columns = [transmission @ above.mT]
        columns += [transmission @ (-mu * above).mT for mu in self.model.attenuation_per_cm]
        moved = transmission @ density.mT
        columns += [-moved * torch.eye(moved.shape[-1])[j].to(moved) for j in range(moved.shape[-1])]
        if per_energy is not None:
            columns.append(transmission @ (per_energy * above).mT)
        by_primary = rays.with_scatter(
            torch.stack(columns, -1), self.unknowns.amplitude(shared), dim=-2
        )
        local = bins_from_above(by_primary * slope[..., None], dim=-2)
        times = bins_from_above(by_times * (m * rays.view_s)[..., None], dim=-2)
        if rays.scatter is None:
            return expected, slope, local, times
        each = rays.scatter * bins_from_above(columns[0][:, :1])
        scatter = bins_from_above(above_from_bins(each) * slope)
        return expected, slope, local, torch.cat([times, scatter[..., None]], -1)
