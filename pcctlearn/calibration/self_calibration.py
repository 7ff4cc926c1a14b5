"""Pixels calibrated on an ordinary scan of an unknown object: no plates and no phantom."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.calibration.row_solver import RowFit, RowSolver
from pcctlearn.calibration.scan_checks import doubts_of, require_enough
from pcctlearn.calibration.scan_problem import ScanProblem
from pcctlearn.calibration.typical_counts import require_nested
from pcctlearn.calibration.usable import unusable
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, filled
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.validation.pixels import noise_free
from pcctlearn.validation import require_names, require_positive


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
        if not deviance and not flatness:
            raise ValueError(
                "deviance and flatness are both false, and air alone does not determine pixels: "
                "use calibration.deviance=true"
            )
        self.materials = tuple(materials)
        self.solver = RowSolver(
            gain_sd, thickness_sd_cm, threshold_sd_keV,
            window_columns, deviance, flatness, max_rounds,
        )  # fmt: skip

    def fit(self, scan: ScanRecord, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels.

        Args:
            scan: its counts and air; all views have the same exposure, and so has the air.
            nominal: the scanner with nominal thresholds; its materials are the basis.

        Raises:
            ValueError: the scan has too few bins, views or columns, or does not fit the scanner.
        """
        require_enough(scan, nominal, self.solver)
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
        flags["poor fit"] = good & found.poor(good)
        good = ~any_of(flags)
        fit = _pixel_fit(found, len(self.materials), above, model, good)
        return assembled(
            fit, flags, plates, self.materials, "absolute", lambda _: "air",
            doubts_of(found, good, scan, plates.noise_free, self.solver),
        )  # fmt: skip

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
            rows.append(self.solver(problem, good[row]))
        return rows


def _air(scan: ScanRecord) -> CalibrationSet:
    """The air of a scan as an exposure without plates."""
    return CalibrationSet(
        above_from_bins(scan.air.double(), 0).movedim(0, -1)[None],
        torch.zeros(1, 1, dtype=torch.float64),
        ("water",),
        scan.thresholds_keV[:-1].double(),
        noise_free=noise_free(scan.at("counts").numpy(), scan.air.numpy()),
    )


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
        gain, x, T, covariance[:, :n, :n], sd, found.settled[good],
        residual, residual * above[good].sqrt(), (0.0,) * T.shape[1],
    )  # fmt: skip
