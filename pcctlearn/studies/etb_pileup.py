"""ETB-Cal behind a correction of pulse pile-up, at several tube currents [2, Table 4, Fig. 13]."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.dead_times import CurrentSeries, DeadTimes, fit_dead_times
from pcctlearn.console import console
from pcctlearn.decomposition.beam_hardening import spectra_above
from pcctlearn.metrics.errors import Rows
from pcctlearn.montecarlo.pulses import PulseCounters
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom, voxel_centers
from pcctlearn.physics.attenuation import attenuation_table, density_g_cm3, linear_attenuation
from pcctlearn.physics.noise import seed_of
from pcctlearn.physics.pileup import true_rate
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.flawed_bench import interpolated
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

Above = Float[Tensor, "*exposure column threshold"]  # counts above thresholds
Images = Float[Tensor, "threshold y x"]
N_ARCS, EDGE_ARC, INNER_ARC = 20, 18, 14  # concentric arcs from the center to the edge [2]
# edge error in per cent, of the low and the high threshold: uncorrected and corrected [2, Table 4]
_ARTICLE = {
    5.6: ((1.05, 0.25), (1.42, 0.32)),
    4.0: ((0.81, 0.22), (1.14, 0.33)),
    2.8: ((0.54, 0.15), (0.77, 0.21)),
    1.4: ((0.15, -0.04), (0.38, 0.10)),
}


@dataclass(frozen=True)
class Readout:
    """The counters of a detector pixel, and what they count for.

    Args:
        n_counters: counters whose counts are added to those of one pixel.
        pulse_s: length of a pulse.
        dead_s: time after a count in which a threshold does not count again.
        adds: whether overlapping pulses add up, which dead times do not describe.
        view_s: counting time of a view.
        photons_per_mA: that reach a pixel in a view without an object.
        plate_photons: that reach a pixel behind no plate, in one exposure of the plates.
        series_photons: the same, at the highest current of the series; all currents count for the
            same time.
    """

    n_counters: int
    pulse_s: float
    dead_s: float
    adds: bool
    view_s: float
    photons_per_mA: float
    plate_photons: float
    series_photons: float

    def __post_init__(self) -> None:
        require_positive(**{k: v for k, v in vars(self).items() if k not in ("dead_s", "adds")})


class Measured(NamedTuple):
    """Counts above thresholds behind plates, in air for a view, and of a scan, with their times."""

    plates: Above
    air: Above
    scan: Above
    plates_s: float
    view_s: float

    def corrected(self, found: DeadTimes) -> "Measured":
        """Counts of counters without dead time."""

        def corrected(counts: Above, time_s: float) -> Above:
            true, resolved = found.corrected(counts, time_s)
            if beyond := int((~resolved).sum()):
                log.warning("%d of %d rates lie beyond the maximum", beyond, resolved.numel())
            return true

        return self._replace(
            plates=corrected(self.plates, self.plates_s),
            air=corrected(self.air, self.view_s),
            scan=corrected(self.scan, self.view_s),
        )


class EtbPileup:
    """A water cylinder scanned by pixels that differ and pile up, with and without corrections.

    Pulses are simulated one by one (``PulseCounters``): no formula for dead times makes the counts.
    The curve of each threshold is fitted to counts in air at several tube currents; it corrects the
    counts of plates, air and scan before ETB-Cal. "no pile-up" counts all of the same pulses. The
    edge error is the mean of an inner arc of the cylinder minus that of an arc close to its edge,
    relative to the former.

    Args:
        model: the nominal scanner.
        geometry, grid: fan beam and images.
        calibrator: of the pixels, from counts relative to their sum over the pixels, as in [2];
            counts that are lost in all pixels cancel.
        anchored: of the pixels after the correction, from the counts as they are.
        errors: of the pixels.
        readout: of the pixels.
        currents_mA: of the scans.
        series_mA: of the counts in air that dead times are fitted to.
        plates_cm: {material: thickness in each exposure}.
        radius_cm: of the cylinder.
        filter: of the reconstruction.
        seed: of the detector and of the pulses.
    """

    def __init__(
        self,
        model: SpectralModel,
        geometry: FanBeam,
        grid: ImageGrid,
        calibrator: Calibrator,
        anchored: Calibrator,
        errors: DetectorErrors,
        readout: Readout,
        currents_mA: Sequence[float],
        series_mA: Sequence[float],
        plates_cm: Mapping[str, Sequence[float]],
        radius_cm: float = 10.0,
        filter: str = "hamming",
        seed: int = 0,
    ) -> None:
        require_positive(radius_cm=radius_cm, **{"currents_mA": min(currents_mA, default=0)})
        self.model, self.geometry, self.grid = model, geometry, grid
        self.calibrator, self.anchored = calibrator, anchored
        self.errors, self.readout = errors, readout
        self.currents_mA = [float(current) for current in currents_mA]
        self.series_mA = torch.tensor(sorted(series_mA), dtype=torch.float64)
        self.materials = tuple(plates_cm)
        self.plates_cm = torch.tensor([*plates_cm.values()], dtype=torch.float64).T
        if not bool((self.plates_cm.sum(-1) == 0).any()):
            raise ValueError(
                "plates_cm has no exposure without plates, which is the air of the scan: add a "
                "thickness of 0 to every material"
            )
        self.radius_cm, self.seed = radius_cm, seed
        density = density_g_cm3("water")
        water = Ellipse((0.0, 0.0), (radius_cm, radius_cm), (density,))
        self.phantom = EllipsePhantom([water], ["water"])
        self.nominal_keV = model.thresholds.edges_keV.detach()[:-1]
        self.true = errors.pixels(self.nominal_keV, geometry.n_columns, seed)
        self._reconstruct = fbp(geometry, grid, filter).double()
        response = model.response
        self._counters = PulseCounters(response, readout.pulse_s, readout.dead_s, readout.adds)

    @torch.no_grad()
    def run(self, context: Context) -> StudyResults:
        """Measure the series, then calibrate and scan at every current."""
        series = self._series()
        found = fit_dead_times(series)
        numbers = self._of_dead_times(found)
        arrays = self._curves(series, found)
        images: dict[str, Images] = {}
        for current in track(self.currents_mA, "scans", console=console(stderr=True)):
            registered, pulses = self._measured(current)
            corrected = registered.corrected(found)
            for label, calibrator, counts in (
                ("no pile-up", self.calibrator, pulses),
                ("uncorrected", self.calibrator, registered),
                ("corrected", self.calibrator, corrected),
                ("anchored", self.anchored, corrected),
            ):
                images[f"{label}/{current:g}"] = self._image(calibrator, counts)
        for name, image in images.items():
            label, mA = name.split("/")
            means = self._arcs(image)
            for j, keV in enumerate(self.nominal_keV.tolist()):
                error = 100 * (1 - means[j, EDGE_ARC - 1] / means[j, INNER_ARC - 1])
                key = f"edge_error_percent_{keV:g}keV.{label.replace(' ', '_')}_{mA}mA"
                numbers[key] = float(error)
            arrays |= {f"images/{name}": image.float(), f"arcs/{name}": means}
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=["etb_pileup.arcs", "etb_pileup.curves"],
            summary=self._summary(found),
            tables=self._tables(numbers),
            tabulated=numbers,
        )

    def _series(self) -> CurrentSeries:
        """Counts in air at the currents of the series."""
        log.info("counts in air at %d tube currents", len(self.series_mA))
        photons = self.readout.series_photons * self.series_mA / self.series_mA[-1]
        time_s = self._time_s(self.readout.series_photons, float(self.series_mA[-1]))
        counts = [
            self._count(torch.zeros(1, 1), n, time_s, f"series {i}")[0, 0]
            for i, n in enumerate(photons.tolist())
        ]
        return CurrentSeries(
            self.series_mA,
            torch.stack(counts),
            torch.full_like(self.series_mA, time_s),
            self.nominal_keV,
        )

    def _time_s(self, photons: float, current_mA: float) -> float:
        """Time in which so many photons reach a pixel without an object."""
        return photons / (self.readout.photons_per_mA * current_mA) * self.readout.view_s

    def _measured(self, current_mA: float) -> tuple[Measured, Measured]:
        """What is registered at a tube current, and what counters would that miss no pulse."""
        log.info("plates and scan at %g mA", current_mA)
        photons, name = self.readout.plate_photons, f"{current_mA:g} mA"
        time_s, view_s = self._time_s(photons, current_mA), self.readout.view_s
        exponents = self.plates_cm @ linear_attenuation(self.materials, self.model.energies_keV)
        plates = self._count(exponents, photons, time_s, name)
        rays = self.phantom.line_integrals(*self.geometry.rays())  # (material, view, column)
        exponents = rays.movedim(0, -1) @ attenuation_table(["water"], self.model.energies_keV)
        photons = self.readout.photons_per_mA * current_mA
        scan = self._count(exponents, photons, view_s, f"scan, {name}")
        air = int((self.plates_cm.sum(-1) == 0).nonzero()[0])
        registered, pulses = (
            Measured(of_plates, of_plates[air] * (view_s / time_s), of_scan, time_s, view_s)
            for of_plates, of_scan in zip(plates, scan, strict=True)
        )
        return registered, pulses

    def _count(
        self,
        exponents: Float[Tensor, "exposure *column energy"],
        photons: float,
        time_s: float,
        name: str,
    ) -> Float[Tensor, "2 exposure column threshold"]:
        """Registered counts and pulses of all pixels, exposure by exposure."""
        fluence = self.true.spectral_model(self.model)
        of_pixels = fluence.fluence.double()
        if fluence.skew is not None:
            of_pixels = of_pixels * fluence.skew()
        of_pixels = of_pixels * (photons / self.model.fluence.double().sum())
        # equal counters of a pixel, one after the other
        long_s = time_s * self.readout.n_counters
        counted = [
            self._counters.count(
                of_pixels * torch.exp(-exponent),
                self.model.energies_keV,
                self.true.thresholds_keV,
                long_s,
                seed_of(self.seed, f"{name}, {i}"),
            )
            for i, exponent in enumerate(exponents)
        ]
        return torch.stack([torch.stack(one) for one in counted], 1)

    def _relative(self, plates: Above) -> Above:
        """Counts whose mean over the pixels is that of nominal ones in every exposure."""
        transmission = torch.exp(
            -self.plates_cm @ linear_attenuation(self.materials, self.model.energies_keV)
        )
        nominal = (transmission @ spectra_above(self.model).mT)[:, None]
        nominal = nominal * (self.readout.plate_photons / self.model.fluence.sum())
        return plates * (nominal / plates.mean(1, keepdim=True))

    def _image(self, calibrator: Calibrator, counts: Measured) -> Images:
        """Calibrate from plates, correct the projections, and reconstruct."""
        absolute = calibrator is self.anchored
        plates = counts.plates if absolute else self._relative(counts.plates)
        exposure = torch.ones(len(plates), dtype=torch.float64)
        measured = CalibrationSet(
            plates, self.plates_cm, self.materials, self.nominal_keV, exposure
        )
        calibration = calibrator.fit(measured, self.model)
        projections = -(counts.scan.clamp(min=0.5) / counts.air).log()
        corrected = calibration.correction(self.model)(projections)
        corrected = interpolated(corrected, calibration.calibrated)
        return self._reconstruct @ corrected.movedim(-1, 0).contiguous()

    def _arcs(self, image: Images) -> Float[Tensor, "threshold arc"]:
        """Means of rings of equal width about the axis."""
        points = voxel_centers(*self.grid.shape, self.grid.voxel_cm, dtype=torch.float64)
        arc = (points.norm(dim=-1) / self.radius_cm * N_ARCS).long()
        return torch.stack([image[:, arc == k].mean(-1) for k in range(N_ARCS)], -1)

    def _curves(self, series: CurrentSeries, found: DeadTimes) -> dict[str, Tensor | np.ndarray]:
        """Mean rates of a counter over the pixels, registered and corrected."""
        per_counter = series.rates.mean(1) / self.readout.n_counters
        n = self.readout.n_counters
        times = found.paralysable_s * n, found.nonparalysable_s * n
        return {
            "series_mA": self.series_mA,
            "registered_per_s": per_counter,
            "corrected_per_s": true_rate(per_counter, *times).rate,
        }

    def _of_dead_times(self, found: DeadTimes) -> dict[str, float]:
        n = self.readout.n_counters
        numbers = {}
        for j, keV in enumerate(self.nominal_keV.tolist()):
            numbers[f"paralysable_ns_{keV:g}keV"] = 1e9 * n * float(found.paralysable_s[j])
            numbers[f"nonparalysable_ns_{keV:g}keV"] = 1e9 * n * float(found.nonparalysable_s[j])
            numbers[f"series_misfit_{keV:g}keV"] = float(found.misfit[j])
        return numbers

    def _summary(self, found: DeadTimes) -> str:
        n = self.readout.n_counters
        both = 1e9 * n * (found.paralysable_s + found.nonparalysable_s)
        of = ", ".join(
            f"{ns:.0f} ns above {keV:g} keV"
            for ns, keV in zip(both.tolist(), self.nominal_keV.tolist(), strict=True)
        )
        return (
            f"{self.geometry.n_columns} pixels of {n} counters, pulses of "
            f"{1e9 * self.readout.pulse_s:.0f} ns, simulated one by one. Dead times fitted to "
            f"{len(self.series_mA)} tube currents, both together: {of}. Edge error: by "
            f"how much arc {EDGE_ARC} of {N_ARCS} is lower than arc {INNER_ARC}."
        )

    def _tables(self, numbers: Mapping[str, float]) -> list[Rows]:
        tables = []
        for j, keV in enumerate(self.nominal_keV.tolist()):
            rows = []
            for current in self.currents_mA:
                values = [
                    f"{numbers[f'edge_error_percent_{keV:g}keV.{label}_{current:g}mA']:.3f}"
                    for label in ("no_pile-up", "uncorrected", "corrected", "anchored")
                ]
                article = _ARTICLE.get(current, (("", ""),) * 2)[min(j, 1)]
                rows.append((f"{current:g}", *values, *(str(value) for value in article)))
            columns = "mA", "no pile-up", "uncorrected", "corrected", "anchored"
            tables.append(
                Rows(
                    f"edge error in %, counts above {keV:g} keV",
                    (*columns, "[2], uncorrected", "[2], corrected"),
                    rows,
                )
            )
        return tables
