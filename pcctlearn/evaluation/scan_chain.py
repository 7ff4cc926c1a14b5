"""The chain for the scanner that a scan file records, built once for all scans of a scanner."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scans.folder import same_scanner
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scatter.checkpoint import CorrectionBuilder
from pcctlearn.tomography.fbp import fbp, require_truncation
from pcctlearn.tomography.filters import RampFilter
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.variance import fbp_variance

log = logging.getLogger(__name__)

_ENERGIES_keV = [20.0, 30.0, 40.0, 60.0, 80.0, 120.0]
_SAME_SHAPE = 1e-2  # least distance of two normalized attenuation curves; water and PMMA: 0.11
_BASIS = ("water", "calcium")  # for files that name no materials
SCANNER = ("spectrum", "response")  # parts of a file that describe its scanner, with thresholds


@dataclass(frozen=True)
class ScanChain:
    """A chain, its images, and the differences from the geometry of the correction.

    ``variance`` carries variances of line integrals to variances of the maps.
    """

    recorded: ScanRecord
    chain: Chain
    image: MonoenergeticImages
    variance: LinearOperator
    differences: list[str]

    def fits(self, other: ScanRecord) -> bool:
        """Whether another scan was made with the same scanner and names the same materials."""
        return self.recorded.materials == other.materials and same_scanner(self.recorded, other)


class ScanChains:
    """Builds chains for recorded scanners, and keeps the latest one.

    Args:
        decomposition: constructor of the decomposition layer for a model.
        scatter: builds the scatter correction for a scanner.
        vmi_keV: energies of the monoenergetic images.
        materials: basis materials; by default those of each file's truth, else water and calcium.
        filter, truncation: settings of the reconstruction, as in ``fbp``.
        pixels: calibrated detector of all scans; by default all pixels are nominal.
    """

    def __init__(
        self,
        decomposition: Callable[..., Decomposition],
        scatter: CorrectionBuilder | None,
        vmi_keV: Sequence[float] = (60.0,),
        materials: Sequence[str] | None = None,
        filter: str = "ramp",
        truncation: str = "water",
        pixels: PixelModel | None = None,
    ) -> None:
        require_truncation(truncation)
        RampFilter((1, 1), 1.0, filter)  # rejects an unknown filter before a scan is read
        if scatter is None:
            raise ValueError(
                "scatter needs a choice: scatter=network scatter.checkpoint=CHECKPOINT.ckpt (the "
                "checkpoints/best.ckpt of a scatter study), scatter=kernel (of the scanner's own "
                "pencil beams), or scatter=none"
            )
        if not vmi_keV:
            raise ValueError("vmi_keV needs at least one energy, such as vmi_keV=[60]")
        self.decomposition, self.scatter, self.pixels = decomposition, scatter, pixels
        self.vmi_keV = list(vmi_keV)
        self.materials = _checked_basis(materials)
        self.reconstruct = partial(fbp, filter=filter, truncation=truncation)
        self.variance = partial(fbp_variance, filter=filter, truncation=truncation)
        self._last: ScanChain | None = None

    def of(self, path: Path, recorded: ScanRecord) -> ScanChain:
        """The chain for this scan's scanner; differences from the checkpoint are logged."""
        if self._last is None or not self._last.fits(recorded):
            model, geometry = self._model(path, recorded), recorded.geometry
            correct = self.scatter.ready(geometry, model)
            differences = self.scatter.differences(geometry)
            for difference in differences:
                log.warning("the checkpoint was trained with a different geometry: %s", difference)
            image = MonoenergeticImages(model.materials, self.vmi_keV)
            reconstruct = self.reconstruct(geometry, recorded.grid)
            decompose = self.decomposition(self._calibrated(path, model, geometry))
            decompose = decompose.of_scan(geometry, recorded.grid, reconstruct)
            self._last = ScanChain(
                replace(recorded, counts=None, primary=None, scatter=None),
                Chain(decompose, reconstruct, image, correct).eval(),
                image,
                self.variance(geometry, recorded.grid),
                differences,
            )
        return self._last

    def _calibrated(self, path: Path, model: SpectralModel, geometry: Geometry) -> SpectralModel:
        """The model with the gain, skew and thresholds of every pixel."""
        if self.pixels is None:
            return model
        shape = (geometry.n_rows, geometry.n_columns)
        try:
            self.pixels.require_scanner(shape, model.thresholds.edges_keV.detach())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return self.pixels.as_panel(shape).spectral_model(model)

    def _model(self, path: Path, recorded: ScanRecord) -> SpectralModel:
        """The spectral model with the file's spectrum, response and thresholds."""
        basis = self.materials or recorded.materials
        if not basis:
            log.warning("%s names no materials: it is decomposed into water and calcium", path)
            basis = _BASIS
        if len(basis) > len(recorded.air):
            raise ValueError(
                f"{path} has {len(recorded.air)} bins, too few for {', '.join(basis)}: choose at "
                "most as many materials=[…] as there are bins"
            )
        model = recorded.spectral_model(basis)
        if model is None:
            absent = " and ".join(name for name in SCANNER if getattr(recorded, name) is None)
            raise ValueError(
                f"{path} holds no {absent}, so that its counts cannot be decomposed: add it as "
                "described in docs/scan_file.md"
            )
        return model


def _checked_basis(materials: Sequence[str] | None) -> tuple[str, ...]:
    """The materials if they are known and distinguishable; empty if none are chosen."""
    basis = tuple(materials or ())
    if materials is not None and len(set(basis)) < max(len(basis), 1):
        raise ValueError(
            f"materials must name each basis material once, such as materials=[water,iodine], got "
            f"{list(basis)}"
        )
    per_gram = attenuation_table(basis or _BASIS, _ENERGIES_keV)
    shapes = per_gram / per_gram.norm(dim=1, keepdim=True)
    for one, other in combinations(range(len(basis)), 2):
        if (shapes[one] - shapes[other]).norm() < _SAME_SHAPE:
            raise ValueError(
                f"{basis[one]} and {basis[other]} have the same energy dependence of attenuation "
                "and cannot be separated: choose others, such as materials=[water,iodine]"
            )
    return basis
