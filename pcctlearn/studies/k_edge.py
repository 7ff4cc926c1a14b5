"""Contrast agents told apart by their K edges: detectors and numbers of bins at equal dose."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.figures.arrays import as_array
from pcctlearn.metrics.images import structural_similarity
from pcctlearn.metrics.inserts import cnr_over_energy, insert_errors
from pcctlearn.metrics.resolution import Curve, disc_mtf, noise_power, require_resolved
from pcctlearn.montecarlo.object.dose import scan_dose
from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.inserts import Insert, InsertPhantom
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.response.pairs import bin_covariance
from pcctlearn.physics.response.presets import pairs_of
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import channels_last
from pcctlearn.studies.insert_scans import Maps, decomposed_maps, noisy_counts, regions
from pcctlearn.studies.k_edge_tables import Bins, KEdgeTables, Numbers
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.units import MG_ML
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

_BEYOND_keV = 20.0  # top edge above the highest energy: the last bin has no upper limit
_BODY_G_CM3 = 0.5


class Outcome(NamedTuple):
    """Maps (draw, material, y, x) in g/cm³ with noise and without, and unsolved rays."""

    noisy: Maps
    clean: Float[Tensor, "material y x"]
    failed_percent: float


class KEdge:
    """Decompose the same noisy scans with several detectors, numbers of bins and bases.

    A head holds inserts of several materials and concentrations. All scans have one spectrum and
    one dose (``scan_dose``). Counts have the noise of the detector: with ``pairs``, bins are
    correlated by photons that are registered twice. Materials that a basis lacks appear in its
    other maps, which the errors include.

    Args:
        spectrum: of the tube, scaled to the dose.
        detectors: {name: response}.
        bins: {name: thresholds and basis materials}.
        phantom: head with inserts.
        geometry, grid: fan beam and images.
        decomposition: constructor of the decomposition layer for a model.
        pairs: {detector: its pairs of events, as in ``pairs_of``}, which correlate the counts;
            counts of other detectors are independent.
        dose_mGy: mean absorbed dose in the slice.
        vmi_keV: energies of the monoenergetic images; SSIM is that of the one nearest to 70 keV.
        texture_cm: side of the central square in which the noise power spectrum is measured.
        n_draws: scans with noise.
        filter: of the reconstruction.
        seed: of noise and dose.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        detectors: Mapping[str, Response],
        bins: Mapping[str, Bins],
        phantom: InsertPhantom,
        geometry: FanBeam,
        grid: ImageGrid,
        decomposition: Callable[[SpectralModel], Decomposition],
        pairs: Mapping[str, str] | None = None,
        dose_mGy: float = 40.0,
        vmi_keV: Sequence[float] = (40.0, 50.0, 60.0, 70.0, 80.0, 100.0),
        texture_cm: float = 4.0,
        n_draws: int = 20,
        filter: str = "hann",
        seed: int = 0,
    ) -> None:
        require_positive(dose_mGy=dose_mGy, texture_cm=texture_cm, n_draws=n_draws)
        if n_draws < 2:
            raise ValueError(f"n_draws must be 2 or more, got {n_draws}")
        if not isinstance(phantom, InsertPhantom):
            raise TypeError(
                f"k_edge needs a phantom with inserts, got {type(phantom).__name__}: use "
                "phantoms=head_inserts"
            )
        if not isinstance(geometry, FanBeam):
            raise TypeError(
                f"k_edge needs a fan beam, got {type(geometry).__name__}: use tomography=fan"
            )
        if unknown := set(pairs or {}) - set(detectors):
            raise ValueError(f"pairs names {', '.join(unknown)}: use {', '.join(detectors)}")
        for insert in phantom.inserts:
            require_resolved(insert.radius_cm, grid.voxel_cm)
        self.spectrum, self.detectors, self.bins = spectrum, dict(detectors), dict(bins)
        self.pairs = {name: pairs_of(of, detectors[name]) for name, of in (pairs or {}).items()}
        self.phantom, self.geometry, self.grid = phantom, geometry, grid
        self.decomposition, self.dose_mGy = decomposition, dose_mGy
        self.vmi_keV, self.n_draws, self.seed = list(vmi_keV), n_draws, seed
        self._points = voxel_centers(*grid.shape, grid.voxel_cm, dtype=torch.float64)
        self._regions = regions([*phantom.inserts, phantom.background], grid)
        self._square = _central(grid, texture_cm)
        self._reconstruct = fbp(geometry, grid, filter, truncation="cosine").double()

    def run(self, context: Context) -> StudyResults:
        """Scan with every detector, decompose in all bases, and measure the inserts."""
        truth = self.phantom.maps(self.grid)
        dose = scan_dose(
            truth,
            self.grid,
            self.phantom.materials,
            self.geometry,
            highest_keV=max(140.0, self.spectrum.energies_keV[-1].item()),
            seed=self.seed,
        )
        spectrum = copy.copy(self.spectrum)
        spectrum.fluence = spectrum.fluence * (
            self.dose_mGy / float(dose.mGy(spectrum.energies_keV, spectrum.fluence))
        )
        A = channels_last(self.phantom.line_integrals(*self.geometry.rays())[None])[0]
        numbers: Numbers = {"photons": float(spectrum.fluence.sum())}
        arrays: dict[str, Tensor | np.ndarray] = {"vmi_keV": np.array(self.vmi_keV)}
        cases = [(d, b) for d in self.detectors for b in self.bins]
        for detector, name in cases:
            case = f"{detector}_{name}"
            log.info("%s: %s", case.replace("_", " "), ", ".join(self.bins[name].materials))
            outcome = self.scanned(detector, self.bins[name], spectrum, A)
            found, curves = self.measured(outcome, self.bins[name], truth)
            numbers |= {f"{key}.{case}": value for key, value in found.items()}
            arrays |= {f"{key}/{case}": values for key, values in curves.items()}
        arrays |= {
            "detectors": as_array(list(self.detectors)),
            "bins": as_array(list(self.bins)),
            "inserts": as_array([one.name for one in self.phantom.inserts]),
            "truth": MG_ML * truth,
            "truth_materials": as_array(self.phantom.materials),
        }
        return self.report(numbers, arrays, cases)

    @torch.no_grad()
    def scanned(self, detector: str, bins: Bins, spectrum: Spectrum, A: Tensor) -> Outcome:
        """Maps of the scans of one detector, decomposed in one basis."""
        response = self.detectors[detector]
        edges = [*bins.thresholds_keV, spectrum.energies_keV[-1].item() + _BEYOND_keV]
        model = SpectralModel.from_parts(spectrum, response, Thresholds(edges), bins.materials)
        table = attenuation_table(self.phantom.materials, spectrum.energies_keV)
        expected = expected_counts(A, model.spectra(), table)
        covariance = None
        if detector in self.pairs:
            behind = spectrum.fluence * torch.exp(-A @ table)
            top = model.thresholds.edges_keV
            covariance = bin_covariance(
                response, self.pairs[detector], top, spectrum.energies_keV, behind
            )
        layer = self.decomposition(model)
        draws = noisy_counts(expected, self.n_draws, self.seed, detector, covariance)
        noisy, failed = decomposed_maps(layer, self._images, draws)
        clean, _ = decomposed_maps(layer, self._images, iter([expected[None]]))
        return Outcome(noisy, clean[0], failed)

    def measured(
        self, outcome: Outcome, bins: Bins, truth: Tensor
    ) -> tuple[Numbers, dict[str, Tensor]]:
        """Errors of all inserts in all maps, image metrics, and curves and images for figures."""
        materials = list(bins.materials)
        contrast = materials[-1]
        background = self._regions[self.phantom.background.name]
        numbers: Numbers = {"rays_not_converged_percent": outcome.failed_percent}
        curves: dict[str, Tensor] = {}
        for insert in self.phantom.inserts:
            for material, images in zip(materials, outcome.noisy.unbind(1), strict=True):
                if material == "water":
                    continue
                true = insert.mg_mL if material == insert.material else 0.0
                inside = self._regions[insert.name]
                found = insert_errors(MG_ML * images, inside, background, true)
                key = f"{material}_in_{insert.name}"
                numbers |= {
                    f"{key}_bias_mg_mL": found.bias,
                    f"{key}_sd_mg_mL": found.sd,
                    f"{key}_mean_sd_mg_mL": found.mean_sd,
                    f"{key}_cnr": found.cnr,
                }
        image = MonoenergeticImages(materials, self.vmi_keV)
        vmi = image(outcome.noisy)
        for insert in self.phantom.inserts:
            cnr = cnr_over_energy(vmi, self._regions[insert.name], background)
            curves[f"cnr/{insert.name}"] = cnr
        body = truth.sum(0) > _BODY_G_CM3
        true_vmi = MonoenergeticImages(self.phantom.materials, [self._ssim_keV])(truth[None])[0, 0]
        one = vmi[0, self.vmi_keV.index(self._ssim_keV)]
        numbers[f"vmi{self._ssim_keV:g}_ssim"] = structural_similarity(one, true_vmi, body)
        densest = self._densest(contrast)
        if densest is not None:
            mtf = disc_mtf(outcome.clean[-1], self._points, densest.center_cm, densest.radius_cm)
            numbers[f"{contrast}_mtf50_per_cm"] = mtf.crossing_per_cm(0.5)
            curves |= _stored("mtf", mtf)
        texture = MG_ML * outcome.noisy[:, -1][:, *self._square]
        nps = noise_power(texture, self.grid.voxel_cm)
        numbers[f"{contrast}_nps_mean_per_cm"] = nps.mean_per_cm
        curves |= _stored("nps", nps)
        for material, one in zip(materials, outcome.noisy[0], strict=True):
            curves[f"map/{material}"] = MG_ML * one
        return numbers, curves

    def report(
        self,
        numbers: Numbers,
        arrays: dict[str, Tensor | np.ndarray],
        cases: Sequence[tuple[str, str]],
    ) -> StudyResults:
        """Tables of the inserts of each material, of false signals, and of image quality."""
        tables = KEdgeTables(numbers, self.bins, self.phantom.inserts, cases)
        names = ["k_edge.maps", "k_edge.cnr_over_energy", "k_edge.resolution_and_noise"]
        return StudyResults(
            numbers,
            arrays,
            names,
            f"Head of {self.dose_mGy:g} mGy, {numbers['photons']:.3g} photons a pixel in "
            f"{self.geometry.n_views} views, {self.n_draws} draws of noise. Bias and standard "
            "deviation of a voxel in mg/mL, CNR to the brain in the map of the material.",
            tables=[
                *tables.of_materials(),
                tables.false_signals(),
                tables.quality(self._ssim_keV),
            ],
            tabulated=[key for key in numbers if "." in key],
        )

    @property
    def _ssim_keV(self) -> float:
        return min(self.vmi_keV, key=lambda energy: abs(energy - 70))

    def _images(self, line_integrals: Tensor) -> Tensor:
        return self._reconstruct @ line_integrals

    def _densest(self, material: str) -> Insert | None:
        """The insert of this material with the highest concentration."""
        of = [one for one in self.phantom.inserts if one.material == material]
        return max(of, key=lambda one: one.mg_mL) if of else None


def _central(grid: ImageGrid, side_cm: float) -> tuple[slice, ...]:
    """Rows and columns of a central square."""
    n, most = round(side_cm / grid.voxel_cm), min(grid.shape)
    if not 8 <= n <= most:
        raise ValueError(
            f"texture_cm={side_cm:g} gives {n} voxels: use {8 * grid.voxel_cm:.2g} to "
            f"{most * grid.voxel_cm:.3g} cm"
        )
    return tuple(slice((size - n) // 2, (size - n) // 2 + n) for size in grid.shape)


def _stored(name: str, curve: Curve) -> dict[str, Tensor]:
    return {f"{name}_per_cm": curve.frequencies_per_cm, name: curve.values}
