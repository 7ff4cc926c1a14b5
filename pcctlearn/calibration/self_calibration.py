"""Pixels calibrated on an ordinary scan of an unknown object: no plates and no phantom."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.calibration.ring_flatness import N_BLOCKS, HighPass, RingFlatness
from pcctlearn.calibration.scan_problem import (
    DecomposedScan,
    Normal,
    Quadratic,
    ScanProblem,
    Unknowns,
    inverted,
)
from pcctlearn.calibration.typical_counts import require_nested
from pcctlearn.calibration.usable import unusable
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, filled
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.validation.pixels import noise_free
from pcctlearn.solvers.conjugate_gradients import conjugate_gradients
from pcctlearn.validation import require_names, require_positive

log = logging.getLogger(__name__)

_LONGEST = (0.1, 0.02, 2.0)  # steps of ln k, of a thickness in cm, of a threshold in keV
_SHORT = 0.05  # standard deviations, of the step of the median pixel that is the last
_UNSETTLED = 1.0  # standard deviations, of the last step of a pixel that has not converged
_CLOSE = 0.02  # standard deviations, to which conjugate gradients solve for a step
_MOST_ITERATIONS = 30
_EDGE = 3.0  # standard deviations of a line integral from the parabola, beyond which it is an edge
_POOR = 1.5  # times the χ² of the median pixel
_EXCESS = 1.2  # of χ² per degree of freedom, beyond which the counts are not as the model
_LEAST_CHANCE = 1e-9
_SAME_AIR = 1e-6


class RowFit(NamedTuple):
    """What was found of a row of pixels.

    ``chi2`` is the deviance of each pixel, with ``n_spare`` degrees of freedom; ``shadowed`` counts
    views in which the pixel sees the object; ``last_step`` is in standard deviations.
    """

    theta: Unknowns
    covariance: Normal
    chi2: Float[Tensor, "pixel"]
    n_spare: Float[Tensor, "pixel"]
    shadowed: Float[Tensor, "pixel"]
    last_step: Float[Tensor, "pixel"]


class SelfCalibration:
    """Gain, skew and thresholds from what an ordinary scan and its air tell about the detector.

    Three sums are minimised over θ = (ln k, x, T) of all pixels, each in units of its variance:

    - air: counts with nothing in the beam are those of the spectrum, Σ_b ln²(a_b/ā_b(θ))/σ_b².
      They determine all but two directions of the θ of a pixel.
    - deviance: what more bins than materials leave over when each ray is decomposed on its own,
      Σ_rays Σ_b (ȳ_b(A*, θ) − y_b)²/ȳ_b. It determines these two from lengths that vary from view
      to view, whatever the object is, as long as it consists of the basis materials.
    - rings: the decomposed line integrals A*(θ), high-passed along the columns, are flat in the
      mean over the views (``RingFlatness``).

    A prior, a normal distribution about nominal thresholds and the median gain and skew, decides
    where nothing else does, such as in pixels that see air alone. An error of the spectrum or of
    the response biases all pixels alike. Scatter must be small, and pile-up corrected. Rows are
    fitted one by one.

    Args:
        materials: of the skew.
        gain_sd, thickness_sd_cm, threshold_sd_keV: of the prior of ln k, x and T.
        window_columns: of the parabola that the high-pass subtracts; odd.
        deviance, flatness: use these sums.
        max_rounds: of decompositions with the pixels found before.
    """

    def __init__(
        self,
        materials: Sequence[str] = ("CdTe",),
        gain_sd: float = 0.02,
        thickness_sd_cm: float = 0.005,
        threshold_sd_keV: float = 1.0,
        window_columns: int = 31,
        deviance: bool = True,
        flatness: bool = True,
        max_rounds: int = 12,
    ) -> None:
        require_names("materials", materials, "calibration.materials=[CdTe]")
        require_positive(
            gain_sd=gain_sd, thickness_sd_cm=thickness_sd_cm, threshold_sd_keV=threshold_sd_keV,
            max_rounds=max_rounds,
        )  # fmt: skip
        if window_columns < 5 or window_columns % 2 == 0:
            raise ValueError(f"window_columns must be odd and 5 or more, got {window_columns}")
        self.materials = tuple(materials)
        self.gain_sd, self.thickness_sd_cm = gain_sd, thickness_sd_cm
        self.threshold_sd_keV, self.window_columns = threshold_sd_keV, window_columns
        self.deviance, self.flatness, self.max_rounds = deviance, flatness, max_rounds

    def fit(self, scan: ScanRecord, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels.

        Args:
            scan: its counts and air; all views have the same exposure, and so has the air.
            nominal: the scanner with nominal thresholds; its materials are the basis.

        Raises:
            ValueError: the scan has too few bins, views or columns, or does not fit the scanner.
        """
        self._require_enough(scan, nominal)
        counts, air = scan.at("counts"), scan.air
        plates = _air(scan)
        model = plate_model(plates, nominal, self.materials)
        flags = {kind: dead.flatten() for kind, dead in dead_pixels(counts, air).items()}
        above = plates.counts.flatten(1, -2).movedim(0, 1).double()
        flags = unusable(above, flags)
        require_nested(above[~any_of(flags)], model, plates)
        dead = any_of(flags).reshape(air.shape[1:])
        counts, air = filled(counts, dead).double(), filled(air, dead).double()
        rows = self._rows(counts, air, ~dead, nominal, model, plates)
        found = RowFit(*(torch.cat(values) for values in zip(*rows, strict=True)))
        good = ~dead.flatten()
        flags["poor fit"] = good & _poor(found, good)
        good = ~any_of(flags)
        fit = _pixel_fit(found, len(self.materials), above, model, good)
        return assembled(
            fit, flags, plates, self.materials, "absolute", lambda _: "air",
            [*_doubts(found, good, scan, plates.noise_free)],
        )  # fmt: skip

    def _require_enough(self, scan: ScanRecord, nominal: SpectralModel) -> None:
        n_bins, n_views, _, n_columns = scan.at("counts").shape
        n_materials = len(nominal.materials)
        if scan.thresholds_keV.ndim != 1:
            raise ValueError("thresholds_keV must be the nominal ones, the same for all pixels")
        if n_bins < n_materials:
            raise ValueError(
                f"{n_bins} thresholds do not determine {n_materials} materials: scan with more"
            )
        if self.deviance and n_bins == n_materials:
            raise ValueError(
                f"{n_bins} bins leave nothing over {n_materials} materials "
                f"({', '.join(nominal.materials)}), from which an unknown object calibrates "
                "pixels: scan with more thresholds, or measure plates (docs/plate_file.md)"
            )
        if n_views < N_BLOCKS:
            raise ValueError(
                f"the scan has {n_views} views, fewer than {N_BLOCKS}, in which an unknown object "
                "is not told from rings: use a scan with more views, or measure plates "
                "(docs/plate_file.md)"
            )
        if self.flatness and n_columns < 2 * self.window_columns:
            raise ValueError(
                f"the scan has {n_columns} columns, fewer than two windows of the high-pass: use "
                f"calibration.window_columns={max(5, n_columns // 4 * 2 - 1)}, or "
                "calibration.flatness=false"
            )

    def _rows(
        self,
        counts: Float[Tensor, "bin view row column"],
        air: Float[Tensor, "bin row column"],
        good: Bool[Tensor, "row column"],
        nominal: SpectralModel,
        model: PlateModel,
        plates: CalibrationSet,
    ) -> list[RowFit]:
        attenuation = nominal.attenuation.double()
        spectra = nominal.spectra().detach().double()
        scale = float((air.sum(0)[good] / spectra.sum()).median())
        rows = []
        for row in range(air.shape[1]):
            air_of_row = air[:, row].T
            problem = ScanProblem(
                counts[:, :, row].movedim(0, -1),
                air_of_row,
                # an air scan with as many photons as the scan
                (air_of_row * counts.shape[1]).clamp(min=1).rsqrt(),
                model,
                attenuation,
                plates.thresholds_keV.double(),
                scale,
            )
            rows.append(self.fit_row(problem, good[row]))
        return rows

    def prior(self, problem: ScanProblem) -> Normal:
        """Its precision, the same for all pixels."""
        n_materials, n = len(self.materials), len(problem.nominal_keV)
        sd = [self.gain_sd, *[self.thickness_sd_cm] * n_materials, *[self.threshold_sd_keV] * n]
        precision = torch.diag(torch.tensor(sd, dtype=torch.float64) ** -2)
        return precision.expand(len(problem.air), -1, -1)

    @torch.no_grad()
    def fit_row(self, problem: ScanProblem, good: Bool[Tensor, "pixel"]) -> RowFit:
        """Gauss–Newton steps: pixel by pixel until they are short, then with the rings."""
        start = theta = problem.start()
        precision = self.prior(problem)
        n_materials, n = len(self.materials), len(problem.nominal_keV)
        gain, thickness, threshold = _LONGEST
        longest = theta.new_tensor([gain, *[thickness] * n_materials, *[threshold] * n])
        high_pass = HighPass(good, self.window_columns)
        with_rings = False
        for number in range(self.max_rounds):
            scan = problem.decomposed(theta)
            mean = start.clone()
            if self.deviance:  # which determines what all pixels share: it is no flaw of one
                mean[:, :-n] = theta[good, :-n].median(0).values
            off = torch.einsum("pkl,pl->pk", precision, theta - mean)
            own = problem.of_air(theta) + Quadratic(off, precision)
            own = own + scan.misfit if self.deviance else own
            if with_rings:
                step, covariance = self._with_rings(problem, theta, scan, own, high_pass)
            else:
                covariance = torch.linalg.inv(own.normal)
                step = -torch.einsum("pkl,pl->pk", covariance, own.gradient)
            step = step.clamp(-longest, longest)
            theta = problem.within(theta + step)
            size = torch.einsum("pk,pkl,pl->p", step, torch.linalg.inv(covariance), step).sqrt()
            log.info("round %d: steps of %.2g standard deviations", number, size[good].median())
            short = bool(size[good].median() < _SHORT)
            if (
                (with_rings or not self.flatness)
                and short
                and bool((size[good] < _UNSETTLED).all())
            ):
                break
            with_rings = with_rings or (self.flatness and short)
        scan = problem.decomposed(theta)
        n_bins = problem.counts.shape[-1]
        n_spare = (n_bins - scan.area.shape[-1]) * scan.rays.sum(0).to(theta)
        shadowed = (scan.area.sum(-1) > SHADOW_G_CM2).sum(0).to(theta)
        return RowFit(theta, covariance, scan.deviance, n_spare, shadowed, size)

    def _with_rings(
        self,
        problem: ScanProblem,
        theta: Unknowns,
        scan: DecomposedScan,
        own: Quadratic,
        high_pass: HighPass,
    ) -> tuple[Unknowns, Normal]:
        """A step that flattens the rings, too, and the covariance of θ, without that of others."""
        smooth = high_pass.smooth(scan.area)
        off = scan.area - smooth
        square = torch.einsum("vpm,vpmn,vpn->vp", off, inverted(scan.noise), off)
        edge = square > _EDGE**2 * off.shape[-1]
        around = problem.around(theta, torch.where(edge[..., None], scan.area, smooth))
        without = torch.linalg.inv(own.normal)
        rings = RingFlatness(high_pass, scan.area, *around, without, scan.rays)
        total = own + rings.at_pixels
        covariance = torch.linalg.inv(total.normal)

        def normal(step: Unknowns) -> Unknowns:
            return torch.einsum("pkl,pl->pk", own.normal, step) + rings.normal(step)

        def precondition(right: Unknowns) -> Unknowns:
            return torch.einsum("pkl,pl->pk", covariance, right)

        goal = _CLOSE**2 * len(theta)
        step = conjugate_gradients(normal, -total.gradient, precondition, goal, _MOST_ITERATIONS)
        return step, covariance


def _air(scan: ScanRecord) -> CalibrationSet:
    """The air of a scan as an exposure without plates."""
    return CalibrationSet(
        above_from_bins(scan.air.double(), 0).movedim(0, -1)[None],
        torch.zeros(1, 1, dtype=torch.float64),
        ("water",),
        scan.thresholds_keV[:-1].double(),
        noise_free=noise_free(scan.at("counts").numpy(), scan.air.numpy()),
    )


def _poor(found: RowFit, good: Bool[Tensor, "pixel"]) -> Bool[Tensor, "pixel"]:
    """Pixels that leave more over than most pixels, and than noise does."""
    ratio = found.chi2 / found.n_spare.clamp(min=1)
    chance = stats.chi2.isf(_LEAST_CHANCE, found.n_spare.clamp(min=1).numpy())
    return (ratio > _POOR * ratio[good].median()) & (found.chi2 > torch.from_numpy(chance))


def _pixel_fit(
    found: RowFit,
    n_materials: int,
    above: Float[Tensor, "pixel 1 threshold"],
    model: PlateModel,
    good: Bool[Tensor, "pixel"],
) -> PixelFit:
    """The fit of the good pixels, with residuals of air, which has no spare degrees of freedom."""
    theta, n = found.theta[good], 1 + n_materials
    gain, x, T = theta[:, 0].exp(), theta[:, 1:n], theta[:, n:]
    behind = [gain * model.counts(x, one).counts[:, 0] for one in T.unbind(1)]
    residual = (above[good][:, 0] / torch.stack(behind, -1)).log()
    residual = (residual - residual[:, :1].median())[:, None]
    covariance = found.covariance[good]
    sd = covariance[:, n:, n:].diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    return PixelFit(
        gain, x, T, covariance[:, :n, :n], sd, found.last_step[good] < _UNSETTLED,
        residual, residual * above[good].sqrt(), (0.0,) * T.shape[1],
    )  # fmt: skip


def _doubts(
    found: RowFit, good: Bool[Tensor, "pixel"], scan: ScanRecord, is_noise_free: bool
) -> list[str]:
    """Sentences about errors that the standard errors leave out."""
    doubts = []
    air = scan.air.flatten(1)[:, good]
    if good.sum() > 1 and bool((air.std(1) < _SAME_AIR * air.mean(1)).all()):
        doubts.append(
            "the air of all pixels is the same, as after a flat-field correction, so that it tells "
            "nothing about thresholds: store counts and air as they were measured"
        )
    beside = good & (found.shadowed < scan.at("counts").shape[1] / 20)
    if n_beside := int(beside.sum()):
        doubts.append(
            f"{n_beside} of {int(good.sum())} pixels see the object in less than a twentieth of "
            "the views: they are calibrated by air and the prior alone, which their standard "
            "errors show; scan a wider object, or one off the axis, for the others"
        )
    seen = good & ~beside & (found.n_spare > 0)
    if not is_noise_free and seen.any():
        excess = float((found.chi2 / found.n_spare)[seen].median())
        if excess > _EXCESS:
            doubts.append(
                f"chi-square per degree of freedom is {excess:.3g} in the median pixel, so that "
                "its counts are not those of the basis materials and of photon noise, and errors "
                "exceed their standard errors: check materials, scatter, pile-up, the spectrum and "
                "the response, and store the photons of all frames together"
            )
    return doubts
