"""A simulated bench: frames of dark, air, plates and a phantom scan from a detector with flaws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.bench.panel import Panel
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.physics.attenuation import attenuation_table, linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.simulation.plates import as_table, without_upper_limit_of
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.validation import require_positive

_BLOCK = 4_000_000  # counts that are drawn at once
_NOISY = (1.0, 1e5)  # counts a frame of noisy pixels without beam, log-uniform
_UPPER_DARK = 0.3  # dark counts above a threshold over those above the one below
_READING = 1e4  # of the monitor in a frame of usual exposure

Bins = Float[Tensor, "frame row column bin"]


@dataclass(frozen=True)
class Measurement:
    """The frames of one exposure.

    Args:
        name: of its files.
        n_frames: number of frames.
        begins: number of frames measured before it, which the tube's drift depends on.
        thickness_cm: {material: thickness} of the plates; None without beam, and for a scan.
    """

    name: str
    n_frames: int
    begins: int
    thickness_cm: Mapping[str, float] | None = None


class BenchMeasurement:
    """Frames as a counting detector of modules leaves them, above each threshold.

    Bins are Poisson distributed and independent; counts above thresholds are their sums, cut at the
    limit of the counters. The output of the tube drifts by a sine, which a monitor measures.
    Noisy pixels count without beam; dead ones never count, and the mask of the vendor marks them.

    Args:
        model: the nominal scanner. Counts above thresholds have no upper limit: its last edge
            must not lie below the end of the spectrum.
        geometry: fan beam, whose columns include those that are missing between modules.
        grid: of the images.
        phantom: what is scanned.
        errors: how pixels differ.
        plates_cm: {material: thickness in each exposure}, without air.
        n_modules, gap_columns: modules of equal width, and columns missing between two of them.
        counter_bits: depth of the counters.
        photons: that reach a pixel in a frame in air.
        n_dark, n_air, n_plate: frames of dark, of air (before and after the scan), of each plate.
        frames_per_view: of the scan.
        frame_s: counting time of a frame.
        drift: amplitude of the sine, relative.
        monitor_error: relative standard deviation of a reading.
        noisy_share, dead_share: of the pixels.
        file_format: "raw" (headerless), "npy" or "tif".
        seed: of flaws and noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        geometry: FanBeam,
        grid: ImageGrid,
        phantom: EllipsePhantom,
        errors: DetectorErrors,
        plates_cm: Mapping[str, Sequence[float]],
        n_modules: int = 7,
        gap_columns: int = 3,
        counter_bits: int = 16,
        photons: float = 1.2e5,
        n_dark: int = 400,
        n_air: int = 400,
        n_plate: int = 800,
        frames_per_view: int = 16,
        frame_s: float = 0.005,
        drift: float = 0.1,
        monitor_error: float = 1e-3,
        noisy_share: float = 0.005,
        dead_share: float = 0.002,
        file_format: str = "raw",
        seed: int = 0,
    ) -> None:
        require_positive(
            n_modules=n_modules, photons=photons, n_dark=n_dark, n_air=n_air, n_plate=n_plate,
            frames_per_view=frames_per_view, frame_s=frame_s, counter_bits=counter_bits,
        )  # fmt: skip
        missing = gap_columns * (n_modules - 1)
        if (
            gap_columns < 0
            or missing >= geometry.n_columns
            or (geometry.n_columns - missing) % n_modules
        ):
            wanted = n_modules * max(1, (geometry.n_columns - missing) // n_modules) + missing
            raise ValueError(
                f"{n_modules} modules with {gap_columns} columns missing between them do not make "
                f"{geometry.n_columns} columns: use tomography.geometry.n_columns={wanted}"
            )
        if not (0 <= drift < 0.5 and 0 <= monitor_error < 0.3 and counter_bits <= 32):
            raise ValueError(
                "drift must be below 0.5, monitor_error below 0.3 and counter_bits 32 at most, got "
                f"{drift:g}, {monitor_error:g} and {counter_bits}"
            )
        if not (0 <= noisy_share < 0.5 and 0 <= dead_share < 0.5):
            raise ValueError(
                f"noisy_share and dead_share must lie in 0 … 0.5, got {noisy_share:g} and "
                f"{dead_share:g}"
            )
        if file_format not in ("raw", "npy", "tif"):
            raise ValueError(f"file_format must be raw, npy or tif, got {file_format!r}")
        lengths = {name: len(values) for name, values in plates_cm.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"plates_cm must list the thickness of each material in every exposure, got "
                f"{lengths} thicknesses: give all materials as many, 0 where one is absent"
            )
        self.response = as_table(model)
        self.model = without_upper_limit_of(model, self.response)
        self.geometry, self.grid, self.phantom = geometry, grid, phantom
        self.plates_cm = {name: list(values) for name, values in plates_cm.items()}
        width = (geometry.n_columns - missing) // n_modules
        gaps = {width * k: gap_columns for k in range(1, n_modules)} if gap_columns else {}
        self.panel = Panel(1, width * n_modules, {}, gaps)
        self.counter_bits, self.photons, self.frame_s = counter_bits, photons, frame_s
        self.n_dark, self.n_air, self.n_plate = n_dark, n_air, n_plate
        self.frames_per_view, self.drift, self.monitor_error = frames_per_view, drift, monitor_error
        self.file_format, self.seed, self.errors = file_format, seed, errors
        generator = torch.Generator().manual_seed(seed + 1)
        shares = torch.rand(2, *self.panel.raw_shape, generator=generator, dtype=torch.float64)
        self.dead: Bool[Tensor, "row column"] = shares[0] < dead_share
        low, high = np.log(_NOISY)
        exponent = torch.rand(*self.panel.raw_shape, generator=generator, dtype=torch.float64)
        rate = torch.exp(low + (high - low) * exponent)
        self._dark = torch.where(shares[1] < noisy_share, rate, 0.0)

    @property
    def thresholds_keV(self) -> list[float]:
        """The nominal thresholds."""
        return self.model.thresholds.edges_keV.detach()[:-1].tolist()

    @property
    def dtype(self) -> str:
        """Numbers of the files: the narrowest that hold the counters."""
        return next(f"uint{bits}" for bits in (8, 16, 32) if self.counter_bits <= bits)

    def detector(self) -> PixelModel:
        """The true pixels of the raw frames."""
        nominal = self.model.thresholds.edges_keV.detach()[:-1]
        row = self.errors.pixels(nominal, self.panel.n_columns, self.seed)
        return row.as_panel(self.panel.raw_shape)

    def measurements(self) -> list[Measurement]:
        """What is measured, in order of time: dark, air, plates, scan, air."""
        n_plates = len(next(iter(self.plates_cm.values())))
        plates = [{m: cm[i] for m, cm in self.plates_cm.items() if cm[i]} for i in range(n_plates)]
        listed: list[tuple[str, int, Mapping[str, float] | None]] = [
            ("dark", self.n_dark, None),
            ("air_before", self.n_air, {}),
            *((f"plate_{i}", self.n_plate, plate) for i, plate in enumerate(plates, 1)),
            ("scan", self.geometry.n_views * self.frames_per_view, None),
            ("air_after", self.n_air, {}),
        ]
        found, begins = [], 0
        for name, n_frames, plate in listed:
            found.append(Measurement(name, n_frames, begins, plate))
            begins += n_frames
        return found

    def exposure(self, of: Measurement) -> Float[Tensor, "frame"]:
        """Output of the tube in each frame, relative; 0 in dark frames."""
        if of.name == "dark":
            return torch.zeros(of.n_frames, dtype=torch.float64)
        n_views = self.geometry.n_views * self.frames_per_view
        time = (of.begins + torch.arange(of.n_frames, dtype=torch.float64)) / n_views
        return 1 + self.drift * torch.sin(3 * pi * time)

    def monitor(self, of: Measurement) -> Float[Tensor, "frame"]:
        """Readings of the monitor."""
        generator = torch.Generator().manual_seed(self.seed + 2 + of.begins)
        error = torch.randn(of.n_frames, generator=generator, dtype=torch.float64)
        return _READING * self.exposure(of) * (1 + self.monitor_error * error.clamp(-3, 3))

    def angles_deg(self) -> Float[np.ndarray, "frame"]:
        """Angle of the rotation in each frame of the scan, at rest in each view."""
        views = np.degrees(self.geometry.angles_rad)
        return np.repeat(views, self.frames_per_view)

    def line_integrals(self) -> Float[Tensor, "material view row column"]:
        """Exact ones of the phantom, for all columns of the panel."""
        return self.phantom.line_integrals(*self.geometry.rays())[:, :, None]

    def frames(self, of: Measurement) -> Iterator[np.ndarray]:
        """Blocks of counts above thresholds (frame, threshold, row, column), cut at the limit."""
        generator = torch.Generator().manual_seed(self.seed + 3 + of.begins)
        exposure = self.exposure(of)
        per_frame = len(self.thresholds_keV) * self.panel.n_columns
        length = max(1, _BLOCK // per_frame // self.frames_per_view) * self.frames_per_view
        expected = self._expected(of)
        dark = self._dark_bins()
        for start in range(0, of.n_frames, length):
            index = torch.arange(start, min(start + length, of.n_frames))
            bins = expected(index) * exposure[index, None, None, None] + dark
            bins = bins.masked_fill(self.dead[..., None], 0.0)
            above = above_from_bins(draw_counts(bins, generator)).movedim(-1, 1)
            yield above.clamp(max=2**self.counter_bits - 1).numpy().astype(self.dtype)

    @torch.no_grad()
    def _expected(self, of: Measurement) -> Callable[[Tensor], Bins]:
        """Function from numbers of frames to their expected bins at an exposure of one."""
        model = self.detector().spectral_model(self.model)
        _, columns = self.panel.positions()
        flux = torch.from_numpy(self.geometry.relative_flux())[:, columns]
        spectra = model.spectra() * (self.photons / self.model.fluence.sum())
        spectra = spectra * flux[..., None, None]
        if of.name != "scan":
            plate = dict(of.thickness_cm or {})
            passed = torch.ones_like(self.model.energies_keV)
            if plate:
                lengths = torch.tensor([*plate.values()], dtype=torch.float64)
                passed = torch.exp(-lengths @ linear_attenuation([*plate], model.energies_keV))
            bins = spectra @ passed
            return lambda index: bins.expand(len(index), *bins.shape)
        table = attenuation_table(self.phantom.materials, model.energies_keV)
        rays = self.line_integrals()[..., columns].movedim(0, -1)
        views = torch.stack([expected_counts(view, spectra, table.to(view)) for view in rays])
        return lambda index: views[index // self.frames_per_view]

    def _dark_bins(self) -> Float[Tensor, "row column bin"]:
        """Dark counts of a frame in bins; above each threshold 0.3 of those above the one below."""
        n = len(self.thresholds_keV)
        above = self._dark[..., None] * _UPPER_DARK ** torch.arange(n, dtype=torch.float64)
        return torch.cat([above[..., :-1] - above[..., 1:], above[..., -1:]], -1)
