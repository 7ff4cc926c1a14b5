"""Images of another object by a detector as a calibration knows it, against those of the truth."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.detector_rays import scatter_g_cm2
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.metrics.errors import rms
from pcctlearn.metrics.images import ring_rms
from pcctlearn.phantoms.ellipses import EllipsePhantom, voxel_centers
from pcctlearn.physics.attenuation import attenuation_table, linear_attenuation
from pcctlearn.physics.pileup import true_rate
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.shapes import channels_first
from pcctlearn.studies.flawed_bench import interpolated
from pcctlearn.studies.joint_bench import Bins, JointBench
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.units import hounsfield

Image = Float[Tensor, "y x"]

_LEAST_BODY_HU = -500.0


class KnownDetector(NamedTuple):
    """What a calibration knows: pixels, τ_p and τ_n of each threshold in s, and the amplitude."""

    pixels: PixelModel
    paralysable_s: Float[Tensor, "threshold"]
    nonparalysable_s: Float[Tensor, "threshold"]
    amplitude: float


class JudgedImages:
    """A scan without noise of an object, corrected and decomposed as a calibration says.

    Counts are corrected for pile-up and divided by the air of their pixels, as by a flat field. The
    scatter of the known shape is subtracted, and the rest decomposed with the spectra of the pixels
    and reconstructed at one energy. All differences from the image of the primary counts and the
    true detector are errors of the calibration, or of the known scatter.

    Args:
        bench: that makes the scan.
        phantom: the object, of any materials.
        geometry, grid: of the scan; its columns are those of the bench.
        decomposition: constructor of the decomposition for a model.
        keV: energy of the images.
        filter: of the reconstruction.
    """

    def __init__(
        self,
        bench: JointBench,
        phantom: EllipsePhantom,
        geometry: FanBeam,
        grid: ImageGrid,
        decomposition: Callable[[SpectralModel], Decomposition],
        keV: float,
        filter: str,
    ) -> None:
        self.bench, self.phantom, self.geometry = bench, phantom, geometry
        self.grid, self.decomposition, self.keV = grid, decomposition, keV
        self._reconstruct = fbp(geometry, grid, filter, truncation="cosine").double()

    @torch.no_grad()
    def scan(self, view_s: float) -> "JudgedScan":
        """Measure the object, the counting time of a view being that of the phantom scan."""
        bench, n_views = self.bench, self.geometry.n_views
        true, known = (bench.scatter(self.phantom, n_views, known) for known in (False, True))
        area = self.phantom.line_integrals(*self.geometry.rays())
        table = attenuation_table(self.phantom.materials, bench.model.energies_keV)
        photons = bench.counters.photons_per_s * view_s
        scale = photons / float(bench.model.fluence.sum())
        counts, air = bench.registered(area, table, true, scale, view_s)
        primary, _ = bench.registered(area, table, None, scale, view_s)
        return JudgedScan(self, counts, primary, air, known, view_s)

    def image(
        self,
        counts: Bins,
        air: Float[Tensor, "column bin"],
        pixels: PixelModel,
        scatter: Bins | None = None,
    ) -> Image:
        """Monoenergetic image in HU of counts of counters without dead time, less the scatter."""
        model = pixels.spectral_model(self.bench.model)
        scaled = counts / air * model.air()
        if scatter is not None:
            scaled = scaled - self._of_pixels(scatter, model)
        scaled = scaled.clamp(min=0)
        x = self.decomposition(model)(channels_first(scaled[None])).x[0]
        table = attenuation_table(self.bench.model.materials, [self.keV])[:, 0].to(x)
        rays = torch.einsum("m,mvc->vc", table, x)
        rays = interpolated(rays[..., None], pixels.calibrated)[..., 0]
        water = float(linear_attenuation(["water"], [self.keV]))
        return hounsfield(self._reconstruct @ rays[None].double().contiguous(), water)[0]

    def _of_pixels(self, scatter: Bins, model: SpectralModel) -> Bins:
        """Scatter of nominal pixels as these register it (``scatter_g_cm2``)."""
        nominal = self.bench.model
        g_cm2 = scatter_g_cm2(scatter, nominal.spectra().double(), nominal.attenuation[0].double())
        counts, own = scatter.clone(), model.spectra()
        for view, depth in enumerate(g_cm2):
            behind = torch.exp(-depth[:, None] * nominal.attenuation[0])
            registered = torch.einsum("ce,cbe->cb", behind, own)
            counts[view] *= registered / (behind @ nominal.spectra().T)
        return counts


class JudgedScan:
    """Registered counts of an object, and what is known of its scatter."""

    def __init__(
        self,
        judge: JudgedImages,
        counts: Bins,
        primary: Bins,
        air: Float[Tensor, "column bin"],
        known: Bins,
        view_s: float,
    ) -> None:
        self.judge, self.counts, self.air = judge, counts, air
        self.known, self.view_s = known, view_s
        pair = judge.bench.counters.pile_up(view_s)
        times = pair.paralysable_s.detach(), pair.nonparalysable_s.detach()
        true = self._linear(primary, *times), self._linear(air, *times)
        self.reference = judge.image(*true, judge.bench.pixels)
        points = voxel_centers(*judge.grid.shape, judge.grid.voxel_cm, dtype=torch.float64)
        self.points: Float[Tensor, "y x 2"] = points
        self.body: Bool[Tensor, "y x"] = self.reference > _LEAST_BODY_HU

    @torch.no_grad()
    def image(self, known: KnownDetector) -> Image:
        """As a calibration says."""
        times = known.paralysable_s, known.nonparalysable_s
        counts, air = self._linear(self.counts, *times), self._linear(self.air, *times)
        return self.judge.image(counts, air, known.pixels, known.amplitude * self.known)

    def errors(self, image: Image) -> dict[str, float]:
        """Rings, and all differences from the reference, in HU over the body."""
        difference = image - self.reference
        return {
            "rings_HU": ring_rms(difference, self.points, self.body, self.judge.grid.voxel_cm),
            "image_rms_HU": rms(difference[self.body]),
            "image_mean_HU": difference[self.body].mean().item(),
        }

    def _linear(self, counts: Tensor, tp: Tensor, tn: Tensor) -> Tensor:
        """Counts in bins of counters without dead time."""
        rate = true_rate(above_from_bins(counts) / self.view_s, tp, tn).rate
        return bins_from_above(rate * self.view_s)
