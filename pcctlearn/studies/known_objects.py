"""What calibrate.py calibrates from: counts behind plates, or the scan of a known phantom."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_file import PlateRecord, read_plates
from pcctlearn.calibration.stored import schema_of
from pcctlearn.calibration.unpiled_plates import unpiled_plates
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.schema import SCHEMA as SCAN

_N_DEPTHS = 6  # groups of rays with similar area density

Numbers = dict[str, float]
Spreads = Float[Tensor, "group threshold"]
Above = Float[Tensor, "exposure *pixel threshold"]


@runtime_checkable
class KnownObjects(Protocol):
    """Counts behind objects that are known, and what a calibration makes of them."""

    figure: str

    @property
    def name(self) -> str:
        """What the file says; may be empty."""
        ...

    @property
    def measured(self) -> CalibrationSet | ScanRecord:
        """What the calibrator takes."""
        ...

    def nominal_model(self) -> SpectralModel:
        """The scanner with nominal thresholds."""
        ...

    def redrawn(self, nominal: SpectralModel, found: PixelModel, seed: int) -> "KnownObjects":
        """A second measurement of the pixels that were found, with noise of its own."""
        ...

    def depths(self) -> Float[Tensor, "group"]:
        """Thickness of all plates in cm, or area density of a group of rays in g/cm²."""
        ...

    def residuals(self, nominal: SpectralModel, found: PixelModel) -> dict[str, Spreads]:
        """Standard deviations of ln(measured / predicted), and of the noise.

        "nominal": predicted for nominal pixels, scaled to their own air or thinnest plates as by a
        flat field; "calibrated": for those found; "noise": expected of the counts. "common" is the
        median of ln(measured / predicted) over the calibrated pixels, with one scale for all
        exposures, which the others leave out; absent if the exposures are unknown. Standard
        deviations over the pixels are absent if there is only one.
        """
        ...

    def table(self, residuals: Mapping[str, Spreads]) -> Rows:
        """The residuals, a row for each threshold and group."""
        ...

    def truth_errors(self, found: PixelModel) -> Numbers:
        """RMS errors, where the file holds the true detector."""
        ...


class KnownPlates:
    """The counts of a plate file."""

    figure = "plates.residuals"

    def __init__(self, record: PlateRecord) -> None:
        self.record = record
        self.name, self.measured = record.name, record.plates

    def nominal_model(self) -> SpectralModel:
        """As ``KnownObjects``."""
        return self.record.nominal_model()

    @torch.no_grad()
    def redrawn(self, nominal: SpectralModel, found: PixelModel, seed: int) -> "KnownPlates":
        """As ``KnownObjects``."""
        plates = self.measured
        bins = bins_from_above(self._expected(nominal, found))
        drawn = above_from_bins(draw_counts(bins, torch.Generator().manual_seed(seed)))
        counts = torch.where(found.calibrated[..., None], drawn, plates.counts)
        return KnownPlates(
            replace(self.record, plates=replace(plates, counts=counts, noise_free=False))
        )

    def depths(self) -> Float[Tensor, "group"]:
        """As ``KnownObjects``: one group for each exposure."""
        return self.measured.plates_cm.sum(-1)

    @torch.no_grad()
    def residuals(self, nominal: SpectralModel, found: PixelModel) -> dict[str, Spreads]:
        """As ``KnownObjects``: standard deviations over the pixels."""
        good, plates = found.calibrated, self.measured
        measured = plates.counts[:, good].log()
        spreads = {}
        if measured.shape[1] > 1:
            off = {
                kind: measured - self._expected(nominal, pixels)[:, good].log()
                for kind, pixels in (("nominal", _as_nominal(found)), ("calibrated", found))
            }
            off["nominal"] = off["nominal"] - off["nominal"][int(self.depths().argmin())]
            spreads = {kind: values.std(1) for kind, values in off.items()}
        spreads["noise"] = (1 / plates.counts[:, good]).mean(1).sqrt()
        if plates.exposure is not None:
            above = found.spectra_above(nominal)[good]
            passed = plates.transmission(nominal.energies_keV)
            expected = torch.einsum("pte,me->mpt", above, passed) * plates.exposure[:, None, None]
            common = (measured - expected.log()).median(1).values
            spreads["common"] = common - common[:, 0].mean()
        return spreads

    def table(self, residuals: Mapping[str, Spreads]) -> Rows:
        """As ``KnownObjects``."""
        plates = self.measured
        labels = [plates.named(exposure) for exposure in range(len(plates.counts))]
        return _rows("plates", labels, plates.thresholds_keV.tolist(), residuals)

    def truth_errors(self, found: PixelModel) -> Numbers:
        """As ``KnownObjects``."""
        record = self.record
        return _errors(found, record.true_thresholds_keV, record.skew_cm, record.filter_materials)

    def _expected(self, nominal: SpectralModel, pixels: PixelModel) -> Above:
        """Predicted counts, scaled in each exposure to the lowest threshold of the median pixel."""
        above = pixels.spectra_above(nominal)
        plates = self.measured
        expected = torch.einsum("...te,me->m...t", above, plates.transmission(nominal.energies_keV))
        good = pixels.calibrated
        lowest = (plates.counts[:, good] / expected[:, good])[..., 0].median(-1).values
        return expected * lowest.reshape(-1, *[1] * (expected.ndim - 1))


class KnownPhantom:
    """The scan of a phantom whose line integrals its file holds."""

    figure = "plates.phantom_residuals"

    def __init__(self, scan: ScanRecord) -> None:
        if scan.line_integrals is None:
            raise ValueError(
                "the scan holds no line_integrals: write those of the known phantom into its file "
                "(docs/scan_file.md), use calibration=self_calibration, or measure plates "
                "(docs/plate_file.md)"
            )
        if scan.spectrum is None or scan.response is None:
            raise ValueError(
                "the scan holds no spectrum or no response: write both into its file "
                "(docs/scan_file.md)"
            )
        self.name, self.measured = scan.name, scan

    def nominal_model(self) -> SpectralModel:
        """As ``KnownObjects``; its materials are those of the line integrals."""
        model = self.measured.spectral_model()
        assert model is not None
        return model.requires_grad_(False)

    def redrawn(self, nominal: SpectralModel, found: PixelModel, seed: int) -> "KnownPhantom":
        """As ``KnownObjects``; the air is not redrawn."""
        expected = bins_from_above(self._expected(nominal, found)).movedim(-1, 0)
        drawn = draw_counts(expected.nan_to_num(), torch.Generator().manual_seed(seed)).float()
        counts = torch.where(found.calibrated, drawn, self.measured.at("counts"))
        return KnownPhantom(replace(self.measured, counts=counts))

    def depths(self) -> Float[Tensor, "group"]:
        """As ``KnownObjects``: mean of each group."""
        area = self.measured.at("line_integrals").double().sum(0)
        return torch.stack([area[rays].mean() for rays in self._groups()])

    def residuals(self, nominal: SpectralModel, found: PixelModel) -> dict[str, Spreads]:
        """As ``KnownObjects``: root mean squares over the rays of a group."""
        counts = above_from_bins(self.measured.at("counts").double(), 0).movedim(0, -1)
        off = {
            kind: (counts / self._expected(nominal, pixels)).log()
            for kind, pixels in (("nominal", _as_nominal(found)), ("calibrated", found))
        }
        off["noise"] = counts.rsqrt()
        groups = [rays & found.calibrated for rays in self._groups()]
        spreads = {
            kind: torch.stack([values[rays].square().mean(0).sqrt() for rays in groups])
            for kind, values in off.items()
        }
        medians = [_median(off["calibrated"][rays]) for rays in groups]
        return spreads | {"common": torch.stack(medians)}

    def table(self, residuals: Mapping[str, Spreads]) -> Rows:
        """As ``KnownObjects``."""
        labels = [f"about {depth:.3g} g/cm²" for depth in self.depths().tolist()]
        return _rows("rays", labels, self.measured.thresholds_keV[:-1].tolist(), residuals)

    def truth_errors(self, found: PixelModel) -> Numbers:
        """As ``KnownObjects``."""
        scan = self.measured
        true = None if scan.true_thresholds_keV is None else scan.true_thresholds_keV[..., :-1]
        return _errors(found, true, scan.skew_cm, scan.filter_materials)

    def _groups(self) -> list[Tensor]:
        """Rays through the phantom, in groups of similar area density."""
        area = self.measured.at("line_integrals").double().sum(0)
        through = area > SHADOW_G_CM2
        values = area[through].sort().values
        last = len(values) - 1
        limits = [values[last * k // _N_DEPTHS].item() for k in range(_N_DEPTHS)] + [torch.inf]
        groups = [through & (area >= low) & (area < high) for low, high in pairwise(limits)]
        return [rays for rays in groups if rays.any()]

    @torch.no_grad()
    def _expected(self, nominal: SpectralModel, pixels: PixelModel) -> Above:
        """Predicted counts above thresholds, scaled to the air of each pixel and bin."""
        spectra = pixels.spectral_model(nominal).spectra().double()
        scale = self.measured.air.double().movedim(0, -1) / spectra.sum(-1)
        area = self.measured.at("line_integrals").double().movedim(0, -1)
        table = nominal.attenuation.double()
        views = [scale * expected_counts(view, spectra, table) for view in area]
        return above_from_bins(torch.stack(views))


def _median(values: Float[Tensor, "ray threshold"]) -> Float[Tensor, "threshold"]:
    """Over the rays; NaN without any."""
    return values.median(0).values if len(values) else values.new_full(values.shape[1:], torch.nan)


def _as_nominal(found: PixelModel) -> PixelModel:
    nominal = PixelModel.known(
        found.gain, 0 * found.thickness_cm, found.materials,
        found.nominal_keV.expand_as(found.thresholds_keV), found.nominal_keV,
    )  # fmt: skip
    return replace(nominal, flags=found.flags)


def _errors(
    found: PixelModel,
    thresholds_keV: Tensor | None,
    skew_cm: Tensor | None,
    materials: tuple[str, ...],
) -> Numbers:
    numbers, good = {}, found.calibrated
    if thresholds_keV is not None:
        # the lowest threshold is nominal by definition, unless it was found
        fitted = (found.threshold_sd_keV[good] > 0).any(0)
        error = (found.thresholds_keV - thresholds_keV)[good][:, fitted]
        if error.numel():
            numbers["threshold_error_rms_keV"] = rms(error)
    if skew_cm is not None and materials == found.materials:
        numbers["skew_error_rms_mm"] = rms(10 * (found.thickness_cm - skew_cm.movedim(0, -1))[good])
    return numbers


def _rows(
    what: str, labels: list[str], thresholds_keV: list[float], residuals: Mapping[str, Spreads]
) -> Rows:
    titles = {
        "nominal": "nominal pixels, flat field",
        "calibrated": "calibrated pixels",
        "noise": "expected noise",
        "common": "median of ln(measured / predicted)",
    }
    rows = [
        [f"{label}, above {keV:g} keV", *(f"{v[group, j]:.2g}" for v in residuals.values())]
        for j, keV in enumerate(thresholds_keV)
        for group, label in enumerate(labels)
    ]
    return Rows(
        "standard deviation and median of ln(measured counts / predicted counts)",
        [what, *(titles[kind] for kind in residuals)],
        rows,
    )


def require_no_dead_times(dead_times: DeadTimes | None) -> None:
    """Raise ValueError for dead times beside a scan file."""
    if dead_times is not None:
        raise ValueError(
            "dead_times corrects counts behind plates, and this is a scan file: leave it out"
        )


def read_known_objects(
    path: Path, dead_times: DeadTimes | None = None, also: Sequence[str] = ()
) -> KnownObjects:
    """The plates of a plate file, or the phantom of a scan file.

    Args:
        path: the file.
        dead_times: that counts behind plates are corrected with.
        also: arrays of a scan file to read.

    Raises:
        ValueError: the file is not valid, or a scan file is to be corrected.
    """
    if path.is_file() and schema_of(path) == SCAN:
        require_no_dead_times(dead_times)
        truth = ("line_integrals", "true_thresholds_keV", "skew_cm")
        needed = ("counts", "spectrum", "response", *truth, *also)
        return KnownPhantom(read_scan(path, only=needed).of_equal_exposure())
    record = read_plates(path)
    return KnownPlates(record if dead_times is None else unpiled_plates(record, dead_times))
