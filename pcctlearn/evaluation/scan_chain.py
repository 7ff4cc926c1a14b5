"""The chain of the scanner that a scan file records, built once for all scans of one scanner."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scans.folder import same_scanner
from pcctlearn.scans.record import RecordedScan
from pcctlearn.scatter.checkpoint import CorrectionBuilder
from pcctlearn.tomography.fbp import fbp, require_truncation
from pcctlearn.tomography.filters import RampFilter

log = logging.getLogger(__name__)

_ENERGIES_keV = [20.0, 30.0, 40.0, 60.0, 80.0, 120.0]
_SAME_SHAPE = 1e-2  # distance of two attenuation curves of norm one; water and PMMA are 0.11 apart
_BASIS = ("water", "calcium")  # where a file names no materials
SCANNER = ("spectrum", "response")  # what must be read of a file beside its thresholds


@dataclass(frozen=True)
class ScanChain:
    """A chain, its images, and in what the scanner of its correction differs from this one."""

    recorded: RecordedScan
    chain: Chain
    image: MonoenergeticImages
    differences: list[str]

    def fits(self, other: RecordedScan) -> bool:
        """Whether another scan is of the same scanner."""
        mine = self.recorded
        return mine.materials == other.materials and same_scanner(mine, other)


class ScanChains:
    """Chains of recorded scanners, the last of which is kept.

    Args:
        decomposition: constructor of the decomposition layer, awaiting its model.
        scatter: builds the scatter correction of a scanner.
        vmi_keV: of the monoenergetic images.
        materials: the basis; by default that of each file's truth, else water and calcium.
        filter, truncation: of the reconstruction, as in ``fbp``.
    """

    def __init__(
        self,
        decomposition: Callable[..., Decomposition],
        scatter: CorrectionBuilder | None,
        vmi_keV: Sequence[float] = (60.0,),
        materials: Sequence[str] | None = None,
        filter: str = "ramp",
        truncation: str = "water",
    ) -> None:
        require_truncation(truncation)
        RampFilter((1, 1), 1.0, filter)  # refuses an unknown filter before a scan is read
        if scatter is None:
            raise ValueError(
                "scatter needs a choice: scatter=network scatter.checkpoint=CHECKPOINT.ckpt (the "
                "checkpoints/best.ckpt of a scatter study), scatter=kernel (of the scanner's own "
                "pencil beams), or scatter=none"
            )
        if not vmi_keV:
            raise ValueError("vmi_keV needs one energy at least, such as vmi_keV=[60]")
        self.decomposition, self.scatter = decomposition, scatter
        self.vmi_keV = list(vmi_keV)
        self.materials = _checked_basis(materials)
        self.reconstruct = partial(fbp, filter=filter, truncation=truncation)
        self._last: ScanChain | None = None

    def of(self, path: Path, recorded: RecordedScan) -> ScanChain:
        """The chain for this scan's scanner; differences from the checkpoint's are logged."""
        if self._last is None or not self._last.fits(recorded):
            model, geometry = self._model(path, recorded), recorded.geometry
            correct = self.scatter.ready(geometry, model)
            differences = self.scatter.differences(geometry)
            for difference in differences:
                log.warning("the scanner of the checkpoint is another: %s", difference)
            decompose = self.decomposition(model)
            image = MonoenergeticImages(model.materials, self.vmi_keV)
            reconstruct = self.reconstruct(geometry, recorded.grid)
            self._last = ScanChain(
                replace(recorded, counts=None, primary=None, scatter=None),
                Chain(decompose, reconstruct, image, correct).eval(),
                image,
                differences,
            )
        return self._last

    def _model(self, path: Path, recorded: RecordedScan) -> SpectralModel:
        """Of the file's own spectrum, response and thresholds."""
        basis = self.materials or recorded.materials
        if not basis:
            log.warning("%s names no materials: it is decomposed into water and calcium", path)
            basis = _BASIS
        if len(basis) > len(recorded.air):
            raise ValueError(
                f"{path} has {len(recorded.air)} bins, too few for {', '.join(basis)}: choose as "
                "many with materials=[…] as there are bins, or fewer"
            )
        model = recorded.spectral_model(basis)
        if model is None:
            absent = " and ".join(name for name in SCANNER if getattr(recorded, name) is None)
            raise ValueError(
                f"{path} holds no {absent}, without which its counts cannot be decomposed: add "
                "what is missing as docs/scan_file.md says"
            )
        return model


def _checked_basis(materials: Sequence[str] | None) -> tuple[str, ...]:
    """Names of known materials, each once; empty where none are chosen."""
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
                f"{basis[one]} and {basis[other]} attenuate alike at all energies, so that counts "
                "cannot separate them: choose other materials, such as materials=[water,iodine]"
            )
    return basis
