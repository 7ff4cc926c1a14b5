"""Simulation of a scan: primary photons, scatter, detector imperfections and noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.montecarlo.object.transport import ObjectScatter
from pcctlearn.physics.attenuation import attenuation_table, linear_attenuation
from pcctlearn.physics.noise import draw_correlated, draw_counts
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.response.pairs import Pairs, pair_counts
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import transmission
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.record import ResponseRecord, ScanRecord, SpectrumRecord
from pcctlearn.shapes import Attenuation, Energies
from pcctlearn.simulation.scatter_views import between_views, simulated_views
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.projector import projector
from pcctlearn.validation import FloatArray

_MOST_SKEW = 10.0  # largest accepted change of the fluence by a skew filter

Progress = Callable[[int, int], None]  # views done, of all


@dataclass(frozen=True)
class _Detector:
    """Response of each pixel; an axis of length one means that all rows or columns are equal."""

    thresholds_keV: Float[Tensor, "#row #column edge"]
    skew_cm: Float[Tensor, "filter #row #column"]
    filters: tuple[str, ...]
    model: SpectralModel
    gain: Float[Tensor, "row column"] | None = None

    def registered(self, energies_keV: Energies) -> Float[Tensor, "row column bin energy"]:
        """Counts in each bin for one photon of each energy that reaches a pixel."""
        above = self.model.response.above(self.thresholds_keV, energies_keV).detach()
        bins = above[..., :-1, :] - above[..., 1:, :]
        if self.gain is not None:
            bins = self.gain[..., None, None] * bins
        if not self.filters:
            return bins
        thickness_cm = self.skew_cm.movedim(0, -1)
        attenuation = linear_attenuation(self.filters, energies_keV)
        passed = skew_filter(torch.ones_like(thickness_cm[..., 0]), thickness_cm, attenuation)
        return bins * passed[..., None, :]


class ScanSimulator:
    """Simulate scans of objects with one scanner.

    Line integrals are computed by Joseph's method on the object's voxels, primary counts from them
    by ``expected_counts``, and scatter by Monte Carlo simulation of every view of a cone beam.
    Primary, scatter and ``air`` of a point source fall off toward the edges of the detector as cos³
    of the angle of incidence.

    Args:
        geometry: the scanner.
        grid: grid of the objects; scan files record it as the grid of the reconstruction. For a fan
            or parallel beam it has one slice; an ImageGrid is the slice at z = 0.
        model: spectrum, response and thresholds. The basis materials have no effect on scans of
            maps whose materials are given.
        scatter: simulation of scatter, for cone beams; ``None``: no scatter.
        scatter_every: simulate the scatter of every n-th view, and interpolate between these;
            ``None``: simulate all.
        spr: scale the scatter of every scan so that scatter over primary, summed over the bins,
            has this mean over the rays through the object, as an anti-scatter grid would.
        grid_transmission: scale the scatter by this factor instead; give one of the two.
        threshold_error_keV: standard deviation of the pixels' true thresholds about the nominal.
        skew_cm: {filter material: standard deviation of its thickness in front of each pixel}; the
            mean is zero, so that some thicknesses are negative.
        pixel_model: gain, skew and thresholds of every pixel, in place of the two above.
        pile_up: what counters with dead times register of the photons; primary and scatter of the
            scan are those of counters without.
        noise: draw counts instead of using the expected ones.
        pairs: of events of a photon; counts are then drawn with the covariance of photons that are
            registered more than once (``draw_correlated``), by default as Poisson counts.
        seed: seed of the detector's imperfections, which are the same in every scan.
    """

    def __init__(
        self,
        geometry: Geometry,
        grid: VolumeGrid | ImageGrid,
        model: SpectralModel,
        scatter: ObjectScatter | None = None,
        scatter_every: int | None = None,
        spr: float | None = None,
        grid_transmission: float | None = None,
        threshold_error_keV: float = 0.0,
        skew_cm: Mapping[str, float] | None = None,
        pixel_model: PixelModel | None = None,
        pile_up: PileUp | None = None,
        noise: bool = True,
        seed: int = 0,
        pairs: Pairs | None = None,
    ) -> None:
        if spr is not None and grid_transmission is not None:
            raise ValueError(
                "give spr or grid_transmission, not both: use scan.grid_transmission=null with "
                "scan.spr=…"
            )
        for name, value in (("spr", spr), ("grid_transmission", grid_transmission)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {value}")
            if value is not None and scatter is None:
                raise ValueError(
                    f"{name}={value:g} has nothing to scale without scatter (scatter=null): use "
                    f"scan.{name}=null"
                )
        if scatter is not None and not isinstance(geometry, ConeBeam):
            # without_scatter would replace scan=of_plates, and its pixel model with it
            choice = ", or choose scan=without_scatter" if pixel_model is None else ""
            raise ValueError(
                f"scatter is simulated in cone beams only, got {type(geometry).__name__}: set "
                f"scan.scatter=null scan.grid_transmission=null{choice}"
            )
        self._simulated = simulated_views(geometry, scatter_every)
        if not 0 <= threshold_error_keV < float("inf"):
            raise ValueError(f"threshold_error_keV must be 0 or more, got {threshold_error_keV}")
        if model.skew is not None:
            raise ValueError("the model must have no skew: differences of pixels come from skew_cm")
        edges = model.thresholds.edges_keV.detach()
        if edges.ndim > 1:
            raise ValueError(
                "the model's thresholds must be shared by all pixels: use threshold_error_keV for "
                "differences between pixels"
            )
        geometry.require_grid(grid)
        self.geometry = geometry
        self.grid = grid.as_volume() if isinstance(grid, ImageGrid) else grid
        self.model, self.scatter = model, scatter
        self.spr, self.grid_transmission, self.noise = spr, grid_transmission, noise
        self.pile_up, self.pairs = pile_up, pairs
        if pile_up is not None:
            pile_up.require_thresholds(model.thresholds.n_bins)
            _require_poisson(pairs)
        self._projector = projector(geometry, self.grid)
        if pixel_model is None:
            self._detector = self._imperfect(edges, threshold_error_keV, dict(skew_cm or {}), seed)
        elif threshold_error_keV or skew_cm:
            raise ValueError(
                "pixel_model determines thresholds and skew: set scan.threshold_error_keV=0 "
                "scan.skew_cm=null"
            )
        else:
            self._detector = self._given(pixel_model, edges)

    def scan(
        self,
        maps: Float[Tensor, "material z y x"],
        name: str,
        seed: int,
        progress: Progress | None = None,
        config: str | None = None,
        scanner_to_patient: FloatArray | None = None,
        materials: Sequence[str] | None = None,
    ) -> ScanRecord:
        """Simulate one scan; the same seed gives the same scan.

        ``scanner_to_patient`` is recorded as the position of the maps in their CT volume.
        ``materials`` are those of the maps, by default the basis of the model.
        """
        model, detector = self.model, self._detector
        line_integrals = self._projector @ maps
        open_beam = detector.registered(model.energies_keV) * model.fluence
        rays = line_integrals.movedim(0, -1).to(open_beam)
        flux = torch.from_numpy(self.geometry.relative_flux()).to(open_beam)
        if materials is None:
            materials, attenuation = model.materials, model.attenuation
        else:
            attenuation = attenuation_table(materials, model.energies_keV)
        primary = torch.stack(
            [expected_counts(view, open_beam, attenuation.to(view)) for view in rays]
        )
        primary = (primary * flux[..., None]).movedim(-1, 0)
        scatter, error = self._scatter(
            maps, materials, seed, progress or (lambda done, total: None)
        )
        factor = self._factor(primary, scatter, line_integrals)
        scatter, error = scatter * factor, error * factor
        expected = self._registered(primary + scatter)
        air = (open_beam.sum(-1) * flux[..., None]).movedim(-1, 0)
        generator = torch.Generator().manual_seed(seed)
        counts = expected
        if self.noise and self.pairs is None:
            counts = draw_counts(expected, generator)
        elif self.noise:
            counts = self._correlated(expected, primary, rays, attenuation, flux, generator)
        response = model.response
        if not isinstance(response, Table):
            response = Table.sampled(response, model.energies_keV)
        differ = detector.thresholds_keV.shape[:2] != (1, 1)
        skewed = len(detector.filters) > 0
        return ScanRecord(
            name=name,
            geometry=self.geometry,
            grid=self.grid,
            thresholds_keV=model.thresholds.edges_keV.detach(),
            air=self._registered(air[:, None])[:, 0].float(),
            counts=counts.float(),
            primary=primary.float(),
            scatter=scatter.float(),
            scatter_standard_error=error.float(),
            line_integrals=line_integrals.float(),
            maps=maps.float(),
            maps_grid=self.grid,
            materials=tuple(materials),
            true_thresholds_keV=detector.thresholds_keV if differ else None,
            skew_cm=detector.skew_cm if skewed else None,
            scanner_to_patient=(
                None if scanner_to_patient is None else torch.from_numpy(scanner_to_patient)
            ),
            filter_materials=detector.filters,
            spectrum=SpectrumRecord(model.energies_keV, model.fluence),
            response=ResponseRecord(
                response.energies_keV, response.deposited_keV, response.response_per_keV
            ),
            seed=seed,
            grid_transmission=factor,
            view_s=None if self.pile_up is None else self.pile_up.time_s,
            config=config,
            software="pcctlearn",
        )

    def _correlated(
        self,
        expected: Float[Tensor, "bin view row column"],
        primary: Float[Tensor, "bin view row column"],
        rays: Float[Tensor, "view row column material"],
        attenuation: Attenuation,
        flux: Float[Tensor, "row column"],
        generator: torch.Generator,
    ) -> Float[Tensor, "bin view row column"]:
        """Counts whose bins are correlated, view by view.

        The pairs are those of the nominal thresholds; scattered photons have as many as primary
        ones.
        """
        assert self.pairs is not None
        model, views = self.model, []
        edges, energies = model.thresholds.edges_keV.detach(), model.energies_keV
        for n, p, A in zip(expected.unbind(1), primary.unbind(1), rays, strict=True):
            together = pair_counts(self.pairs, A, edges, energies, model.fluence, attenuation)
            root = (flux * n / p).sqrt().movedim(0, -1)
            together = root[..., None] * together * root[..., None, :]
            views.append(draw_correlated(n.movedim(0, -1), together, generator))
        return torch.stack(views).movedim(-1, 0)

    def _scatter(
        self,
        maps: Float[Tensor, "material z y x"],
        materials: Sequence[str],
        seed: int,
        progress: Progress,
    ) -> tuple[Float[Tensor, "bin view row column"], Float[Tensor, "bin view row column"]]:
        beam, n_bins = self.geometry, self.model.thresholds.n_bins
        shape = (n_bins, beam.n_views, beam.n_rows, beam.n_columns)
        if self.scatter is None:
            scatter, error = torch.zeros(2, *shape, dtype=torch.float64)
            return scatter, error
        assert isinstance(beam, ConeBeam)
        model = self.model
        scene = self.scatter.scene(
            maps, self.grid, materials, beam, model.energies_keV, model.fluence
        )
        each = self._detector.registered(scene.spectrum.groups_keV)
        typical = each.mean((0, 1))
        counts, errors = [], []
        for view in self._simulated.tolist():
            estimate = self.scatter.estimate(scene, view, typical, seed)
            counts.append(estimate.counts(each).double())
            errors.append(estimate.standard_error.double())
            progress(len(counts), len(self._simulated))
        scatter, error = torch.stack(counts, 1), torch.stack(errors, 1)
        if len(counts) < beam.n_views:
            weights = between_views(beam, self._simulated)
            scatter = torch.einsum("vs,bsrc->bvrc", weights, scatter).clamp(min=0)
            error = torch.einsum("vs,bsrc->bvrc", weights**2, error**2).sqrt()
        return scatter, error

    @torch.no_grad()
    def _registered(
        self, counts: Float[Tensor, "bin view row column"]
    ) -> Float[Tensor, "bin view row column"]:
        """Expected counts of counters with dead time."""
        if self.pile_up is None:
            return counts
        registered = self.pile_up(counts.movedim(0, -1)).movedim(-1, 0)
        if bool((registered < 0).any()):
            raise ValueError(
                "a threshold registers more than the one below it, which loses more photons: lower "
                "scan.pile_up.paralysable_s of the lower thresholds or the photons "
                "(physics.spectrum.photons_per_pixel)"
            )
        return registered

    def _factor(self, primary: Tensor, scatter: Tensor, line_integrals: Tensor) -> float:
        if self.grid_transmission is not None:
            return self.grid_transmission
        if self.spr is None or self.scatter is None:
            return 1.0
        simulated = mean_spr(primary, scatter, line_integrals)
        if simulated == 0:
            raise ValueError(f"no scatter to be scaled to spr={self.spr:g}: set spr to null")
        return self.spr / simulated

    def _given(self, pixels: PixelModel, edges_keV: Float[Tensor, "edge"]) -> _Detector:
        shape = (self.geometry.n_rows, self.geometry.n_columns)
        pixels.require_scanner(
            shape,
            edges_keV,
            "plates and scan must agree: give both simulations the same number of pixels "
            "(datasets.n_columns of the plates, tomography.geometry.n_columns of the scan) and the "
            "same physics.thresholds.edges_keV",
        )
        last = edges_keV[-1:].expand(*shape, 1)
        return _Detector(
            torch.cat([pixels.thresholds_keV.reshape(*shape, -1), last], -1),
            pixels.thickness_cm.movedim(-1, 0).reshape(-1, *shape),
            pixels.materials,
            self.model,
            pixels.gain.reshape(shape),
        )

    def _imperfect(
        self,
        edges_keV: Float[Tensor, "edge"],
        error_keV: float,
        skew_cm: dict[str, float],
        seed: int,
    ) -> _Detector:
        generator = torch.Generator().manual_seed(seed)
        shape = (self.geometry.n_rows, self.geometry.n_columns)
        thresholds = edges_keV[None, None]
        if error_keV > 0:
            errors = torch.randn(*shape, len(edges_keV), generator=generator, dtype=torch.float64)
            thresholds = thresholds + error_keV * errors
            if not (thresholds.diff(dim=-1) > 0).all():
                raise ValueError(
                    f"threshold_error_keV={error_keV:g} reverses the order of a pixel's "
                    "thresholds: lower it or move the thresholds apart"
                )
        for name, sd_cm in skew_cm.items():
            if not 0 <= sd_cm < float("inf"):
                raise ValueError(
                    f"skew_cm.{name} is a standard deviation and must be 0 or more, got {sd_cm}"
                )
            # ± 3 standard deviations, at the energy with the largest attenuation
            if transmission(name, 3 * sd_cm, self.model.energies_keV).min() < 1 / _MOST_SKEW:
                raise ValueError(
                    f"skew_cm.{name}={sd_cm:g} changes the fluence more than {_MOST_SKEW:g}-fold "
                    "in some pixels, too much for any calibration: lower it"
                )
        filters = [
            sd_cm * torch.randn(*shape, generator=generator, dtype=torch.float64)
            for sd_cm in skew_cm.values()
        ]
        empty = torch.zeros(0, *shape, dtype=torch.float64)
        skew = torch.stack(filters) if filters else empty
        return _Detector(thresholds, skew, tuple(skew_cm), self.model)


def _require_poisson(pairs: Pairs | None) -> None:
    """Raise ValueError for pairs in a scan with pile-up."""
    if pairs is not None:
        raise ValueError(
            "the noise of counters with dead times is drawn as Poisson noise: give pairs or "
            "pile_up, not both (scan=correlated or scan=piled_up)"
        )


def mean_spr(
    primary: Float[Tensor, "bin view row column"],
    scatter: Float[Tensor, "bin view row column"],
    line_integrals: Float[Tensor, "material view row column"],
) -> float:
    """Scatter over primary, all bins together, averaged over the rays through the object."""
    shadow = line_integrals.sum(0) > SHADOW_G_CM2
    if not shadow.any():
        raise ValueError(
            "no ray passes through the object, so that its scatter-to-primary ratio is undefined: "
            "check that the object lies within the field of view"
        )
    return (scatter.sum(0) / primary.sum(0))[shadow].mean().item()
