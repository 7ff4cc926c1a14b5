"""The chain of the scanner that a scan file records, built once for all scans of one scanner."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from torch import Tensor

from pcctlearn.chain import Chain
from pcctlearn.datasets.recorded_scan import RecordedScan
from pcctlearn.datasets.scan_files import same_scanner
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scatter.checkpoint import CorrectionBuilder
from pcctlearn.tomography.fbp import fbp, require_truncation

log = logging.getLogger(__name__)

_ENERGIES_keV = [20.0, 30.0, 40.0, 60.0, 80.0, 120.0]
_SAME_SHAPE = 1e-2  # distance of two attenuation curves of norm one; water and PMMA are 0.11 apart
_BASIS = ("water", "calcium")  # where a file names no materials
SCANNER = ("spectrum", "response")  # what must be read of a file beside its thresholds


@dataclass(frozen=True)
class ScanChain:
    """A chain, and in what the scanner of its correction differs from this one."""

    recorded: RecordedScan
    chain: Chain
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
        truncation: how rows that the panel cuts are continued, as in ``fbp``.
    """

    def __init__(
        self,
        decomposition: Callable[..., Decomposition],
        scatter: CorrectionBuilder | None,
        vmi_keV: Sequence[float] = (60.0,),
        materials: Sequence[str] | None = None,
        truncation: str = "water",
    ) -> None:
        require_truncation(truncation)
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
        self.materials, self.truncation = _checked_basis(materials), truncation
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
            reconstruct = fbp(geometry, recorded.grid, truncation=self.truncation)
            self._last = ScanChain(
                replace(recorded, counts=None, primary=None, scatter=None),
                Chain(decompose, reconstruct, image, correct).eval(),
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


def air_of_pixels(model: SpectralModel) -> Tensor:
    """(bin, row, column), the last two of length one where all pixels are alike."""
    air = model.air().detach().float()
    return air[:, None, None] if air.ndim == 1 else air.movedim(-1, 0)


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
