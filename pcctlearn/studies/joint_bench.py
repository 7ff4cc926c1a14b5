"""A bench whose line detector has every flaw at once: pixels, dead time and scatter."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from scipy.signal import resample
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.dead_times import CurrentSeries
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.physics.attenuation import attenuation_table, linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.scans.record import ScanRecord
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.simulation.plates import measured_plates
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.validation import require_positive

Bins = Float[Tensor, "view column bin"]

_SLICES = 20  # of the object in the simulation of its scatter


@dataclass(frozen=True)
class Counters:
    """What the pixels of a detector count, and how fast.

    Args:
        paralysable_s: τ_p of each threshold.
        nonparalysable_s: τ_n of all of them.
        photons_per_s: that reach a pixel without an object.
    """

    paralysable_s: Sequence[float]
    nonparalysable_s: float
    photons_per_s: float

    def __post_init__(self) -> None:
        require_positive(photons_per_s=self.photons_per_s)

    def pile_up(self, view_s: float) -> PileUp:
        """What counters with dead time register in a view."""
        n = len(self.paralysable_s)
        return PileUp(list(self.paralysable_s), [self.nonparalysable_s] * n, view_s)


@dataclass(frozen=True)
class CollimatedBeam:
    """The beam that makes scatter, and its simulation.

    Args:
        height_cm: on the detector.
        n_views: in which scatter is simulated; it is interpolated between them.
        transport: the simulation.
        amplitude: share of the scatter that reaches the detector, as behind a grid.
    """

    height_cm: float
    n_views: int
    transport: ObjectScatter
    amplitude: float

    def __post_init__(self) -> None:
        require_positive(height_cm=self.height_cm, n_views=self.n_views)


class JointBench:
    """Scans of ellipses by pixels that differ, pile up and see scatter.

    The fan is the central row of a beam of some height. Its scatter is simulated in some views for
    an object as high as the beam, in every energy. "Known" scatter is a second simulation with
    photons of its own, for nominal pixels.

    Args:
        model: the nominal scanner.
        errors: of the pixels.
        common_keV: bias of each threshold that all pixels share.
        counters, beam: dead times and scatter.
        geometry: of the phantom scan; one column for each pixel.
        air_views: number of views whose mean is the air of a scan.
        seed: of the detector and of the scatter.
    """

    def __init__(
        self,
        model: SpectralModel,
        errors: DetectorErrors,
        common_keV: Sequence[float],
        counters: Counters,
        beam: CollimatedBeam,
        geometry: FanBeam,
        air_views: int,
        seed: int,
    ) -> None:
        require_positive(air_views=air_views)
        self.model, self.counters, self.beam = model, counters, beam
        self.geometry, self.air_views, self.seed = geometry, air_views, seed
        nominal_keV = model.thresholds.edges_keV.detach()[:-1]
        n = len(nominal_keV)
        if len(common_keV) != n or len(counters.paralysable_s) != n:
            raise ValueError(
                f"common_keV and paralysable_s need one number for each of {n} thresholds, got "
                f"{len(common_keV)} and {len(counters.paralysable_s)}: give one for each"
            )
        pixels = errors.pixels(nominal_keV, geometry.n_columns, seed)
        common = torch.tensor(list(common_keV), dtype=torch.float64)
        self.pixels: PixelModel = replace(pixels, thresholds_keV=pixels.thresholds_keV + common)

    @cached_property
    def true_model(self) -> SpectralModel:
        """The scanner with its true pixels."""
        return self.pixels.spectral_model(self.model)

    def scatter(self, phantom: EllipsePhantom, n_views: int, known: bool) -> Bins:
        """Counts of scatter for an amplitude of one and the fluence of the model.

        Args:
            phantom: the object, as high as the beam.
            n_views: in which it is needed, over a full turn.
            known: for nominal pixels, with photons of its own.
        """
        fan, beam = self.geometry, self.beam
        cone = ConeBeam(
            beam.n_views, 1, fan.n_columns, (beam.height_cm, fan.column_cm),
            fan.source_to_axis_cm, fan.source_to_detector_cm,
        )  # fmt: skip
        voxel_cm = beam.transport.voxel_cm
        reach = max(max(map(abs, e.center_cm)) + max(e.semi_axes_cm) for e in phantom.ellipses)
        n = 2 * int(reach / voxel_cm + 1)
        maps = phantom.maps(ImageGrid(n, n, voxel_cm), 4)[:, None]
        height = beam.height_cm / cone.magnification
        grid = VolumeGrid(_SLICES, n, n, (1.5 * height / _SLICES, voxel_cm, voxel_cm))
        scene = beam.transport.scene(
            maps.expand(-1, _SLICES, -1, -1).contiguous(), grid, phantom.materials, cone,
            self.model.energies_keV, self.model.fluence,
        )  # fmt: skip
        each = self._registered(scene.spectrum.groups_keV, None if known else self.pixels)
        typical = each.mean(0)
        seed = self.seed + (1 if known else 2)
        views = [
            beam.transport.estimate(scene, view, typical, seed).counts(each)[:, 0].T
            for view in range(beam.n_views)
        ]
        return torch.from_numpy(resample(torch.stack(views).numpy(), n_views)).clamp(min=0)

    def _registered(
        self, energies_keV: Tensor, pixels: PixelModel | None
    ) -> Float[Tensor, "column bin energy"]:
        """Counts for one photon of each energy."""
        nominal = self.model.thresholds.edges_keV.detach()[:-1]
        n = self.geometry.n_columns
        T = nominal.expand(n, -1) if pixels is None else pixels.thresholds_keV
        above = self.model.response.above(T, energies_keV).detach()
        bins = bins_from_above(above, dim=-2)
        if pixels is None:
            return bins
        table = linear_attenuation(pixels.materials, energies_keV)
        return bins * skew_filter(pixels.gain, pixels.thickness_cm, table)[:, None]

    def view_s(self, photons: float) -> float:
        """Counting time of a view of the phantom scan for so many photons in all views."""
        return photons / self.geometry.n_views / self.counters.photons_per_s

    @torch.no_grad()
    def expected(
        self, phantom: EllipsePhantom, photons: float, scatter: Bins, known: Bins
    ) -> ScanRecord:
        """A phantom scan without noise, with ``photons`` to a pixel in all views together.

        Args:
            phantom: the object.
            photons: without an object.
            scatter: that is counted, for an amplitude of one.
            known: scatter in the record, which a calibration reads.
        """
        geometry = self.geometry
        scale = photons / geometry.n_views / float(self.model.fluence.sum())
        area = phantom.line_integrals(*geometry.rays())
        table = attenuation_table(phantom.materials, self.model.energies_keV)
        counts, air = self.registered(area, table, scatter, scale, self.view_s(photons))
        return self.record(phantom, counts, air, self.view_s(photons), known)

    def record(
        self,
        phantom: EllipsePhantom,
        counts: Bins,
        air: Float[Tensor, "column bin"],
        view_s: float,
        known: Bins | None = None,
    ) -> ScanRecord:
        """A phantom scan as in a file."""
        return ScanRecord(
            name="phantom",
            geometry=self.geometry,
            grid=VolumeGrid(1, 64, 64, 0.5),
            thresholds_keV=self.model.thresholds.edges_keV.detach(),
            air=air.T[:, None],
            counts=counts.movedim(-1, 0)[:, :, None],
            line_integrals=phantom.line_integrals(*self.geometry.rays())[:, :, None],
            scatter=None if known is None else known.movedim(-1, 0)[:, :, None],
            materials=tuple(phantom.materials),
            view_s=view_s,
        )

    def with_pixels(self, pixels: PixelModel, geometry: FanBeam) -> "JointBench":
        """The same bench with other pixels."""
        other = copy(self)
        other.pixels, other.geometry = pixels, geometry
        vars(other).pop("true_model", None)
        return other

    @torch.no_grad()
    def registered(
        self,
        area: Float[Tensor, "material view column"],
        table: Float[Tensor, "material energy"],
        scatter: Bins | None,
        scale: float,
        view_s: float,
    ) -> tuple[Bins, Float[Tensor, "column bin"]]:
        """Expected counts in bins of the views and of air, ``scale`` times the fluence."""
        spectra = self.true_model.spectra()
        views = [expected_counts(view, spectra, table) for view in area.movedim(0, -1)]
        counts, pile_up = torch.stack(views), self.counters.pile_up(view_s)
        if scatter is not None:
            counts = counts + self.beam.amplitude * scatter
        return pile_up(scale * counts), pile_up(scale * spectra.sum(-1))

    def noisy(self, scan: ScanRecord, seed: int) -> ScanRecord:
        """The scan with Poisson counts, its air being the mean of some views."""
        generator = torch.Generator().manual_seed(seed)
        air = draw_counts(self.air_views * scan.air, generator) / self.air_views
        return replace(scan, counts=draw_counts(scan.at("counts"), generator), air=air)

    @torch.no_grad()
    def plates(
        self, lengths_cm: Float[Tensor, "exposure material"], materials: tuple[str, ...],
        photons: float, seed: int,
    ) -> tuple[CalibrationSet, float]:  # fmt: skip
        """Registered counts behind plates, without scatter, and their counting time."""
        expected = measured_plates(self.pixels, self.model, lengths_cm, materials, photons)
        time_s = photons / self.counters.photons_per_s
        bins = self.counters.pile_up(time_s)(bins_from_above(expected.counts))
        drawn = draw_counts(bins, torch.Generator().manual_seed(seed))
        return replace(expected, counts=above_from_bins(drawn), noise_free=False), time_s

    @torch.no_grad()
    def series(self, shares: Sequence[float], photons: float, seed: int) -> CurrentSeries:
        """Counts in air at currents of these shares of the usual one, for the same time."""
        current = torch.tensor(sorted(shares), dtype=torch.float64)
        air = self.true_model.air() * (photons / float(self.model.fluence.sum()))
        time_s = photons / self.counters.photons_per_s
        bins = self.counters.pile_up(time_s)(current[:, None, None] * air)
        drawn = draw_counts(bins, torch.Generator().manual_seed(seed))
        nominal = self.model.thresholds.edges_keV.detach()[:-1]
        return CurrentSeries(
            current, above_from_bins(drawn), torch.full_like(current, time_s), nominal
        )
