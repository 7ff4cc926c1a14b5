"""Which calibration finds the pixels best: ETB-Cal, the layer, the hybrid of both, and others."""

import logging
from collections.abc import Mapping, Sequence
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from pcctlearn.calibration.base import Calibrator, PixelCalibration
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.layer_phantom import LayerPhantom
from pcctlearn.console import without_warnings
from pcctlearn.metrics.errors import Rows
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scans.record import ScanRecord
from pcctlearn.studies.calibration_scores import KnownDetector
from pcctlearn.studies.match_cases import MatchCase, PhantomScans, Plates, plates_of, with_noise
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

JUDGED = ("threshold_sd_keV", "projection_sd", "water_rms_mm", "aluminium_rms_mm")

Numbers = dict[str, float]


class CalibrationMatch:
    """Calibrate the same simulated detectors in every way, and compare what is left.

    Each case is a detector, measured several times with noise; all calibrations of a draw see the
    same photons. A phantom scan has as many photons in all views together as the default plates in
    all exposures. The hybrid is compared, draw by draw, with the best of its rivals.

    Args:
        model: the nominal scanner; its materials are those of the phantom.
        calibrations: {name: calibrator}.
        cases: {name: detector, and what a calibration is wrong about}.
        plates_cm: {name of a calibration: its plates}, and "default" for all others.
        phantom, geometry: of the scan; one column of the detector for each pixel.
        photons: that reach a pixel in air in each exposure of the plates, for each level.
        n_draws: of the noise, the same for all calibrations.
        hybrid: name of the calibration that is judged.
        rivals: names of those that it should not be worse than.
        seed: of detectors and noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        calibrations: Mapping[str, Calibrator | LayerPhantom],
        cases: Mapping[str, MatchCase],
        plates_cm: Mapping[str, Plates],
        phantom: EllipsePhantom,
        geometry: FanBeam,
        photons: Sequence[float] = (1e7, 1e8, 1e9),
        n_draws: int = 5,
        hybrid: str = "hybrid",
        rivals: Sequence[str] = ("etb", "layer_slabs", "layer_phantom"),
        seed: int = 0,
    ) -> None:
        require_positive(n_draws=n_draws, **{f"photons[{i}]": n for i, n in enumerate(photons)})
        if n_draws < 2:
            raise ValueError("n_draws must be 2 or more, for the standard error of differences")
        if unknown := sorted({hybrid, *rivals, *plates_cm} - {"default", *calibrations}):
            raise ValueError(
                f"{', '.join(unknown)} is no calibration of this study, which has "
                f"{sorted(calibrations)}: correct hybrid, rivals and plates_cm"
            )
        if "default" not in plates_cm:
            raise ValueError("plates_cm needs the entry default: give {aluminium: [0.0, 1.0, 2.0]}")
        if not cases or not photons:
            raise ValueError("cases and photons must not be empty: give one of each")
        model.require_materials(phantom.materials)
        self.model, self.calibrations, self.cases = model, dict(calibrations), dict(cases)
        self.plates_cm = dict(plates_cm)
        self.scans = PhantomScans(phantom, geometry)
        self.scans.require_overlap()
        self.photons, self.n_draws = tuple(photons), n_draws
        self.hybrid, self.rivals, self.seed = hybrid, tuple(rivals), seed

    def run(self, context: Context) -> StudyResults:
        """Measure and calibrate every detector, and compare."""
        draws: dict[str, list[float]] = {}
        for (case, setting), photons in product(self.cases.items(), self.photons):
            log.info("%s, %.0e photons", case, photons)
            self._measure(case, setting, photons, draws)
        arrays: dict[str, Tensor | np.ndarray] = {}
        arrays |= {name.replace(".", "/", 1): np.array(values) for name, values in draws.items()}
        numbers = {name: float(np.mean(values)) for name, values in draws.items()}
        tables = [self._table(draws, case) for case in self.cases]
        verdict, judged = self._judged(draws)
        return StudyResults(
            numbers=numbers | judged,
            arrays=arrays,
            figures=["calibration_match.errors"],
            summary=(
                f"{self.scans.geometry.n_columns} pixels, {self.n_draws} draws of the noise, means "
                "over them. Projections are those of 20 cm of water after the correction: the "
                "length of the water slab, whose errors are noise there. Water and aluminium are "
                "errors of the decomposition of lengths that no plate had."
            ),
            tables=[*tables, verdict],
            tabulated=numbers,
        )

    def _measure(
        self, case: str, setting: MatchCase, photons: float, draws: dict[str, list[float]]
    ) -> None:
        """Append the scores of all calibrations in all draws."""
        nominal_keV, n_pixels = self.model.thresholds.edges_keV.detach()[:-1], self.n_pixels
        truth = setting.errors.pixels(nominal_keV, n_pixels, self.seed)
        tube = setting.tube(self.model)
        detector = KnownDetector(truth, tube)
        # a phantom scan has the photons of all default plates together
        total = photons * len(next(iter(self.plates_cm["default"].values())))
        expected = None
        if any(isinstance(c, LayerPhantom) for c in self.calibrations.values()):
            expected = self.scans.expected(truth, tube, setting, total)
        for draw in range(self.n_draws):
            seed = self.seed + 1 + draw
            for name, calibrator in self.calibrations.items():
                measured: CalibrationSet | ScanRecord
                if isinstance(calibrator, LayerPhantom):
                    assert expected is not None
                    measured = with_noise(expected, seed)
                else:
                    plates_cm = self.plates_cm.get(name, self.plates_cm["default"])
                    measured = plates_of(truth, tube, plates_cm, photons, seed)
                began = perf_counter()
                try:
                    with without_warnings():
                        fit: Any = calibrator.fit
                        found = fit(measured, self.model)
                except ValueError as error:
                    raise ValueError(f"case {case}, calibration {name}: {error}") from None
                scores = {"seconds": perf_counter() - began}
                scores |= detector.scores(_as_row(found, n_pixels), self.model)
                for quantity, value in scores.items():
                    draws.setdefault(f"{quantity}.{_key(case, photons)}.{name}", []).append(value)

    @property
    def n_pixels(self) -> int:
        """Of the detector."""
        return self.scans.geometry.n_columns

    def _table(self, draws: Mapping[str, list[float]], case: str) -> Rows:
        """Mean scores of all calibrations of a case."""
        keV = [f"{edge:g}" for edge in self.model.thresholds.edges_keV.tolist()[:-1]]
        columns = [
            *(f"threshold_sd_keV_{edge}" for edge in keV),
            f"threshold_mean_keV_{keV[-1]}",
            *(f"projection_sd_{edge}" for edge in keV),
            "water_rms_mm",
            "aluminium_rms_mm",
            "seconds",
        ]
        rows = []
        for photons, name in product(self.photons, self.calibrations):
            cells = [draws.get(f"{column}.{_key(case, photons)}.{name}") for column in columns]
            numbers = ["" if cell is None else f"{np.mean(cell):.2g}" for cell in cells]
            rows.append([f"{photons:.0e}, {name}", *numbers])
        titles = [column.replace("_", " ") for column in columns]
        return Rows(case.replace("_", " "), ["photons, calibration", *titles], rows)

    def _judged(self, draws: Mapping[str, list[float]]) -> tuple[Rows, Numbers]:
        """The hybrid beside the best rival in every row, with the error of the paired difference.

        It is worse if its mean exceeds that of the rival by more than the standard error.
        """
        rows, worse, n_rows = [], 0, 0
        for name, values in draws.items():
            quantity, _, rest = name.partition(".")
            place, _, calibration = rest.rpartition(".")
            if calibration != self.hybrid or not quantity.startswith(JUDGED):
                continue
            rivals = {r: np.array(draws[f"{quantity}.{place}.{r}"]) for r in self.rivals}
            best = min(rivals, key=lambda rival: rivals[rival].mean())
            difference = np.array(values) - rivals[best]
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            n_rows += 1
            is_worse = difference.mean() > error
            worse += is_worse
            rows.append(
                [
                    f"{quantity.replace('_', ' ')}, {place.replace('_', ' ')}",
                    f"{np.mean(values):.3g}",
                    f"{rivals[best].mean():.3g} ({best.replace('_', ' ')})",
                    f"{difference.mean():.1g} ± {error:.1g}",
                    "worse" if is_worse else "as good" if difference.mean() > -error else "better",
                ]
            )
        title = f"{self.hybrid} and the best of {', '.join(self.rivals)}, paired differences"
        table = Rows(title, ["quantity, case", self.hybrid, "best", "difference", "verdict"], rows)
        return table, {"rows": float(n_rows), "rows_where_hybrid_is_worse": float(worse)}


def _key(case: str, photons: float) -> str:
    return f"{case}_{photons:.0e}".replace("+0", "").replace("+", "")


def _as_row(found: PixelCalibration, n_pixels: int) -> PixelCalibration:
    """A model of a panel of one row as one of a row of pixels."""
    return found.as_panel((n_pixels,)) if hasattr(found, "as_panel") else found
