"""Pixels, dead times and scatter of a detector, fitted together to the scan of a known phantom."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.chain_problem import ChainProblem
from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.calibration.detector_rays import DetectorRays, RegisteredCounts, scatter_g_cm2
from pcctlearn.calibration.phantom_rays import PhantomRays, phantom_rays
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.population import (
    Precision,
    population,
    unknown_population,
    with_population,
)
from pcctlearn.calibration.shared_unknowns import DeadTimePair, SharedUnknowns, Vector
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.pileup import true_rate
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.scans.record import ScanRecord
from pcctlearn.solvers.arrow import (
    ArrowCovariance,
    ArrowEquations,
    ArrowMinimum,
    Equations,
    arrow_minimum,
)
from pcctlearn.validation import require_names, require_positive

log = logging.getLogger(__name__)

Kind = Literal["gain", "skew", "thresholds", "dead_time", "scatter"]
_ODD = 20.0  # times the χ² of the median pixel
_WEAK = 6.0  # times the standard deviation of a threshold of the median pixel
_NOT_CONVERGED = (
    "the fit of the whole detector did not converge: use calibration.held=[dead_time] where the "
    "dead times that were found are within their error bars of zero, or set "
    "calibration.max_steps=200, and check the spectrum, the response and the line integrals"
)


@dataclass(frozen=True)
class WholeDetectorModel:
    """What a phantom scan tells of a detector.

    Args:
        pixels: gain, skew and thresholds of every pixel.
        dead_times: of the counters, the same in all pixels.
        amplitude, amplitude_sd: of the scatter, relative to that of the scan; None if unknown.
        unknowns: what the pixels share.
        x: (ln k, thickness, T) of the fitted pixels; shared: the unknowns that they share, and the
            mean thresholds.
        fitted: the pixels of ``x``.
        covariance: of all of these.
        counts: the likelihood that they maximise.
        registered: its equations, which the population of the thresholds has no part in.
        held: kinds of unknowns that were not fitted.
    """

    pixels: PixelModel
    dead_times: DeadTimes
    amplitude: float | None
    amplitude_sd: float
    unknowns: SharedUnknowns
    x: Float[Tensor, "fitted unknown"]
    shared: Vector
    fitted: Bool[Tensor, "pixel"]
    covariance: ArrowCovariance
    counts: RegisteredCounts
    registered: ArrowEquations
    held: tuple[str, ...] = ()


class WholeDetector:
    """Gain, skew and thresholds of every pixel, dead times and scatter from one phantom scan.

    Counts corrected for pile-up and for scatter are decomposed with the spectra of the pixels and
    compared with the known line integrals (``ChainProblem``): one derivative through all stages
    for all unknowns. Those of a pixel see its own rays only, so that the equations have the shape
    of an arrow. The minimum is then refined by Fisher scoring of the registered counts, which the
    noise of a decomposition does not bias, with the thresholds of all pixels as a population whose
    mean and scatter are found, too (``population``).

    Args:
        materials: of the skew.
        each_threshold: a paralysable dead time of its own for each threshold; otherwise one for
            all. The nonparalysable one is always common.
        amplitude: of the scatter, where the search begins.
        air_views: number of views whose mean is the air of the scan.
        view_s: counting time of a view, for scans that do not hold it.
        held: kinds of unknowns that keep their nominal values: gain, skew, thresholds, dead_time,
            scatter. The nominal dead time is zero, the nominal amplitude is ``amplitude``.
        max_steps: of Levenberg and Marquardt.
    """

    def __init__(
        self,
        materials: Sequence[str] = ("CdTe",),
        each_threshold: bool = True,
        amplitude: int | float = 0.0,
        air_views: int | float = 1.0,
        view_s: int | float | None = None,
        held: Sequence[str] = (),
        max_steps: int = 60,
    ) -> None:
        require_positive(max_steps=max_steps, air_views=air_views)
        require_names("materials", materials, "calibration.materials=[CdTe]")
        if not 0 <= amplitude < float("inf"):
            raise ValueError(f"amplitude must be 0 or more, got {amplitude}")
        if view_s is not None:
            require_positive(view_s=view_s)
        if unknown := sorted(set(held) - set(get_args(Kind))):
            raise ValueError(
                f"held names {', '.join(unknown)}: accepted are {', '.join(get_args(Kind))}"
            )
        self.materials, self.each_threshold = tuple(materials), each_threshold
        self.amplitude, self.air_views, self.view_s = amplitude, air_views, view_s
        self.held, self.max_steps = tuple(held), max_steps

    def with_settings(self, **changes: Any) -> "WholeDetector":
        """The same calibrator with other settings."""
        names = ("materials", "each_threshold", "amplitude", "air_views", "view_s", "held")
        own = {name: getattr(self, name) for name in (*names, "max_steps")}
        return WholeDetector(**own | changes)

    def fit(self, scan: ScanRecord, nominal: SpectralModel) -> WholeDetectorModel:
        """Calibrate the detector.

        Args:
            scan: registered counts, air, known line integrals, and the scatter of nominal pixels up
                to a factor, if its shape is known; all views have the same exposure.
            nominal: the scanner with nominal thresholds; its materials are those of the line
                integrals, and the basis of the decomposition.

        Raises:
            ValueError: the scan does not fit the scanner, does not say how long a view counts, its
                rates are too high, or fewer than half of the pixels that see the phantom can be
                calibrated.
        """
        view_s = self.view_s if scan.view_s is None else scan.view_s
        if view_s is None:
            raise ValueError(
                "the scan does not say how long a view counts, which dead times need: give "
                "calibration.view_s=0.05 for 50 ms, or store it as the root attribute view_s"
            )
        rays = phantom_rays(scan, nominal, self.materials, n_fixed=0)
        n_views = torch.ones(rays.counts.shape[1], dtype=torch.float64)
        n_views[0] = self.air_views
        scatter = () if scan.scatter is None else _scatter(scan, nominal)
        data = DetectorRays(rays.counts, rays.area_g_cm2.movedim(0, 1), n_views, view_s, *scatter)
        unknowns = SharedUnknowns(
            tuple(rays.air.thresholds_keV.tolist()), self.each_threshold, scan.scatter is not None
        )
        search = _Search(self, rays, data, unknowns, scan.materials)
        return search.run()


class _Search:
    """One fit."""

    def __init__(
        self,
        settings: WholeDetector,
        rays: PhantomRays,
        data: DetectorRays,
        unknowns: SharedUnknowns,
        basis: Sequence[str],
    ) -> None:
        self.settings, self.rays, self.data, self.unknowns = settings, rays, data, unknowns
        self.basis, self.model = tuple(basis), rays.model
        self.attenuation = attenuation_table(basis, rays.model.energies_keV)
        self.nominal_keV = rays.air.thresholds_keV.double()
        self.n_local = 1 + len(settings.materials)  # unknowns of a pixel besides thresholds
        self.J = len(self.nominal_keV)
        self.flags = dict(rays.flags)
        lowest = rays.model.above(self.nominal_keV[:1])[0][0]
        self.nominal_air = (lowest * rays.model.fluence).sum()

    def run(self) -> WholeDetectorModel:
        good, kept = self._determined(self.rays.good), None
        while kept is None or not torch.equal(kept, good):  # odd pixels spoiled what all share
            good = good if kept is None else kept
            kept, x, g = self._without_odd(good, self._through_chain(good))
        data = self.data.of(good)
        counts = RegisteredCounts(data, self.model, self.attenuation, self.unknowns)
        wide = unknown_population(self.J)
        precision = self._population(x, self._with(counts.equations, wide)(x, g))
        found = self._minimum(counts.equations, x, g, precision)
        return self._result(good, counts, data, found, precision)

    def _through_chain(self, good: Bool[Tensor, "pixel"]) -> ArrowMinimum:
        """The minimum of the loss of the chain."""
        settings, unknowns, data = self.settings, self.unknowns, self.data.of(good)
        first = replace(unknowns, each_threshold=False)
        shared = first.start(settings.amplitude)
        x, g = self._start(data), torch.cat([shared, self.nominal_keV])
        wide = unknown_population(self.J)
        # far from the minimum one dead time without a second order is as much as can be found
        self.unknowns = first
        chain = ChainProblem(data, self.model, self.basis, self.nominal_keV, first, shared)
        x, g = self._minimum(chain.equations, x, g, wide, ("square",))[:2]
        self.unknowns = unknowns
        g = torch.cat([g[:1].expand(unknowns.n_times), g[1:]])
        at = g[: unknowns.n_shared]
        chain = ChainProblem(data, self.model, self.basis, self.nominal_keV, unknowns, at, x)
        return self._minimum(chain.equations, x, g, wide)

    def _start(self, data: DetectorRays) -> Tensor:
        """Nominal pixels with the gain of their air."""
        air = (data.registered[:, 0, 0] / self.nominal_air).log()
        x = torch.zeros(len(air), self.n_local + self.J, dtype=torch.float64)
        x[:, 0] = air.median() if "gain" in self.settings.held else air
        x[:, self.n_local :] = self.nominal_keV
        return x

    def _determined(self, good: Bool[Tensor, "pixel"]) -> Bool[Tensor, "pixel"]:
        """Pixels whose thresholds the phantom determines about as well as those of most pixels.

        Those at its edge see short chords only; their many standard deviations of freedom would
        slow the search for all.
        """
        data = self.data.of(good)
        counts = RegisteredCounts(data, self.model, self.attenuation, self.unknowns)
        held = torch.ones(self.unknowns.n_shared, dtype=torch.bool)
        none = torch.zeros(self.n_local + self.J, dtype=torch.bool)
        shared = self.unknowns.start(self.settings.amplitude)
        at = counts.equations(self._start(data), shared).holding(none, held)
        variance = at.arrow.covariance().alone.diagonal(dim1=-2, dim2=-1)[:, self.n_local :]
        weak = ~(variance <= _WEAK**2 * variance.nanmedian(0).values).all(-1)
        self.flags["undetermined"] = torch.zeros_like(good)
        self.flags["undetermined"][good.nonzero()[:, 0][weak]] = True
        return ~any_of(self.flags)

    def _with(
        self, equations: Equations, precision: Precision, hold: Sequence[str] = ()
    ) -> Equations:
        """The equations with a population, without the unknowns that are held."""
        n, held = self.unknowns.n_shared, (*self.settings.held, *hold)
        local = torch.zeros(self.n_local + self.J, dtype=torch.bool)
        shared = torch.zeros(n + self.J, dtype=torch.bool)
        local[0], local[1 : self.n_local] = "gain" in held, "skew" in held
        local[self.n_local :] = "thresholds" in held
        shared[n:] = "thresholds" in held
        shared[: self.unknowns.n_times + 1] = "dead_time" in held
        shared[self.unknowns.square] |= "square" in held
        shared[self.unknowns.n_times + 1 : n] = "scatter" in held

        def both(x: Tensor, g: Vector) -> ArrowEquations:
            at = equations(x, g[:n])
            at = with_population(at, x[:, self.n_local :], g[n:], precision)
            return at.holding(local, shared)

        return both

    def _minimum(
        self,
        equations: Equations,
        x: Tensor,
        g: Vector,
        precision: Precision,
        hold: Sequence[str] = (),
    ) -> ArrowMinimum:
        n = self.unknowns.n_shared

        def project(x: Tensor, g: Vector) -> tuple[Tensor, Vector]:
            return self._within(x), torch.cat([self.unknowns.projected(g[:n]), g[n:]])

        return arrow_minimum(
            self._with(equations, precision, hold), x, g, project, max_steps=self.settings.max_steps
        )

    def _within(self, x: Tensor) -> Tensor:
        """Thresholds within their limits, halfway to one another."""
        T = self.nominal_keV
        middle = (T[1:] + T[:-1]) / 2
        energies = self.model.energies_keV
        lower = torch.maximum(T - FURTHEST_keV, torch.cat([energies[:1], middle + 0.05]))
        upper = torch.minimum(T + FURTHEST_keV, torch.cat([middle - 0.05, energies[-1:] - 1]))
        return torch.cat([x[:, : self.n_local], x[:, self.n_local :].clamp(lower, upper)], 1)

    def _without_odd(
        self, good: Bool[Tensor, "pixel"], found: ArrowMinimum
    ) -> tuple[Bool[Tensor, "pixel"], Tensor, Vector]:
        """Pixels that do not fit as the others do would spoil what all share."""
        chi2 = found.at.chi2
        odd = ~(chi2 <= _ODD * chi2.nanmedian().clamp(min=float(chi2.numel() > 0)))
        sound = found.at.arrow.covariance().sound
        place = good.nonzero()[:, 0]
        self.flags.setdefault("unlike the others", torch.zeros_like(good))[place[odd]] = True
        self.flags["undetermined"][place[~sound & ~odd]] = True
        keep = ~odd & sound
        if int(keep.sum()) < 0.5 * len(keep):
            raise ValueError(
                f"only {int(keep.sum())} of {len(keep)} pixels can be calibrated: check the "
                "exposures, the line integrals and their materials, the spectrum and the response"
            )
        return ~any_of(self.flags), found.local[keep], found.shared

    def _population(self, x: Tensor, at: ArrowEquations) -> Tensor:
        if "thresholds" in self.settings.held:
            return unknown_population(self.J)
        step = at.arrow.solve(at.local, at.shared)[0]
        covariance = at.arrow.covariance().of_problems()
        T = slice(self.n_local, None)
        return population((x - step)[:, T], covariance[:, T, T])

    def _result(
        self,
        good: Bool[Tensor, "pixel"],
        counts: RegisteredCounts,
        data: DetectorRays,
        found: ArrowMinimum,
        precision: Tensor,
    ) -> WholeDetectorModel:
        unknowns, (x, g) = self.unknowns, found[:2]
        n, n_shared = self.n_local, unknowns.n_shared
        covariance = self._with(counts.equations, precision)(x, g).arrow.covariance()
        of_pixels = covariance.of_problems()
        pair = unknowns.dead_times(g[:n_shared])
        resolved = true_rate(data.registered / data.view_s, *pair).resolved.flatten(1).all(-1)
        if int(resolved.sum()) < 0.5 * len(resolved):
            raise ValueError(
                f"the rates of {int((~resolved).sum())} of {len(resolved)} pixels lie beyond the "
                "greatest rate of their counters: scan with a lower tube current"
            )
        beyond = torch.zeros_like(good)
        beyond[good.nonzero()[:, 0][~resolved]] = True
        flags = {**self.flags, "beyond the greatest rate": beyond}
        x, of_pixels = x[resolved], of_pixels[resolved]
        expected = above_from_bins(counts.expected(found.local, g[:n_shared]))[resolved]
        residual = (data.registered[resolved] / expected).log()
        n_exposures = residual.shape[1]
        spare = (float(n_exposures - n), *(self.J - 1) * (n_exposures - 1.0,))
        sd = of_pixels.diagonal(dim1=-2, dim2=-1)[:, n:].clamp(min=0).sqrt()
        fit = PixelFit(
            x[:, 0].exp(), x[:, 1:n], x[:, n:], of_pixels[:, :n, :n], sd,
            torch.ones_like(x[:, 0], dtype=torch.bool),
            residual, residual * (data.registered[resolved] * data.n_views[:, None]).sqrt(), spare,
        )  # fmt: skip
        warnings = () if found.converged else (_NOT_CONVERGED,)
        pixels = assembled(
            fit, flags, self.rays.air, self.settings.materials, "absolute", self.rays.named,
            warnings,
        )  # fmt: skip
        scattered = unknowns.scatter
        return WholeDetectorModel(
            pixels,
            self._dead_times(pair, covariance, found),
            float(g[n_shared - 1]) if scattered else None,
            float(covariance.shared[n_shared - 1, n_shared - 1].sqrt()) if scattered else 0.0,
            unknowns, found.local, g, good, covariance, counts,
            counts.equations(found.local, g[:n_shared]), self.settings.held,
        )  # fmt: skip

    def _dead_times(
        self, pair: DeadTimePair, covariance: ArrowCovariance, found: ArrowMinimum
    ) -> DeadTimes:
        """As those of a current series; χ² is that of all rays, in all thresholds."""
        tp, tn = pair
        J, n_times = self.J, self.unknowns.n_times
        # (τ, q) of each threshold in ns to (τ_p, τ_n) in s
        pick = torch.zeros(J, 2, len(covariance.shared), dtype=torch.float64)
        for j in range(J):
            pick[j, 0, j if n_times > 1 else 0] = 1e-9
            pick[j, 1, n_times] = 1e-18 / (2 * tn[j]) if tn[j] > 0 else 0.0
        to_pair = torch.tensor([[1.0, -1.0], [0.0, 1.0]], dtype=torch.float64)
        both = to_pair @ pick
        spare = found.at.chi2.numel() * (self.data.registered.shape[1] * J - self.n_local - J)
        misfit = torch.full_like(tp, float(found.at.chi2.sum()) / max(1, spare))
        return DeadTimes(
            tp, tn, both @ covariance.shared @ both.mT, misfit,
            torch.ones_like(tp, dtype=torch.bool), self.nominal_keV,
        )  # fmt: skip


@torch.no_grad()
def _scatter(scan: ScanRecord, nominal: SpectralModel) -> tuple[Tensor, Tensor]:
    """Scatter of nominal pixels over their air, (pixel, exposure, bin), and its spectrum."""
    bins = scan.at("scatter").double().flatten(2).movedim(0, -1).movedim(0, 1)
    if not bool((bins > 0).any()):
        raise ValueError(
            "scatter is zero in all pixels and views, so that it has no amplitude: store the "
            "scatter of a simulation of the phantom, or leave the dataset scatter out"
        )
    spectra, table = nominal.spectra().double(), nominal.attenuation.double()
    g_cm2 = scatter_g_cm2(bins, spectra, table[0])
    both = bins / spectra.sum(-1), g_cm2
    over_air, g_cm2 = (torch.cat([torch.zeros_like(v[:, :1]), v], 1) for v in both)
    return over_air, g_cm2
