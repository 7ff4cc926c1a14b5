"""Judge a scatter correction by scans whose primary counts are known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pcctlearn.chain import Chain
from pcctlearn.figures.arrays import as_array
from pcctlearn.metrics.correction import correction_errors
from pcctlearn.metrics.errors import CORRECTED, NOISE_ALONE, UNCORRECTED, ErrorTable
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.scans.flat_field import FlatFielded
from pcctlearn.scatter.base import ScatterCorrection

_SHOWN = (UNCORRECTED, CORRECTED, "reference")


@dataclass
class Judgement:
    """Errors of all scans, and what figures show of the first one.

    ``materials`` are those of its maps and line integrals.
    """

    materials: tuple[str, ...] = ()
    errors: ErrorTable = field(default_factory=ErrorTable)
    shown: dict[str, Tensor] = field(default_factory=dict)

    def arrays(self) -> dict[str, Tensor | np.ndarray]:
        """The errors, and what is shown, for arrays.h5."""
        return {**self.errors.to_arrays(), **self.shown, "materials": as_array(self.materials)}

    def show(self, method: str, scan: Scan, image: MonoenergeticImages) -> None:
        """Keep the images of a scan, the middle slice of its maps, and its first view."""
        maps = scan.at("maps")
        self.shown[f"{method}/vmi_HU"] = image.hounsfield(maps)[0, 0]
        self.shown[f"{method}/axial_maps"] = maps[0, :, maps.shape[2] // 2]
        self.shown[f"{method}/line_integrals"] = scan.at("line_integrals")[0, :, 0]


@torch.no_grad()
def judge(
    chain: Chain,
    scans: Iterable[FlatFielded],
    noise_seed: int | None = 0,
    baselines: Mapping[str, ScatterCorrection] | None = None,
) -> Judgement:
    """Errors of scans with and without correction, against their primary counts without noise.

    All counts go through the same chain. Without noise, the expected counts of every scan are
    taken; with noise the measured ones, where they have any, and primary counts with noise of
    their own ("noise_alone"), which a perfect correction would leave.

    Args:
        chain: with an image of one energy, the first of which counts.
        scans: with known primary and scatter.
        noise_seed: of that noise, which depends on the seed and the name of the scan alone;
            ``None`` judges without noise.
        baselines: other corrections by name, judged without noise.
    """
    chain.eval()
    image = chain.image
    if image is None:
        raise ValueError("a chain needs monoenergetic images to be judged")
    plain = Chain(chain.decompose, chain.reconstruct, image)
    others = {
        name: Chain(chain.decompose, chain.reconstruct, image, correct).eval()
        for name, correct in (baselines or {}).items()
    }
    chains = {UNCORRECTED: plain} | ({} if chain.correct is None else {CORRECTED: chain})
    result = Judgement(tuple(chain.decompose.model.materials))
    for scan in scans:
        geometry, grid = scan.recorded.geometry, scan.recorded.grid
        visible = torch.from_numpy(geometry.seen_by_all_views(grid))
        expected = scan.scan(noise=False)
        primary, counts = (expected.at(stage)[None] for stage in ("corrected_counts", "counts"))
        reference = replace(plain(primary, until="maps"), corrected_counts=primary)
        cases = [(method, False, steps, counts) for method, steps in (chains | others).items()]
        if noise_seed is not None and scan.has_noise:
            measured, alone = scan.counts[None], scan.noisy_primary(noise_seed)[None]
            cases += [(method, True, steps, measured) for method, steps in chains.items()]
            cases.append((NOISE_ALONE, True, plain, alone))
        outcomes = {}
        for method, noisy, steps, given in cases:
            outcome = steps(given, until="maps")
            errors = correction_errors(outcome, reference, image, result.materials, visible)
            result.errors.add(method, errors, noisy)
            if not noisy and method in _SHOWN:
                outcomes[method] = outcome
        if not result.shown:
            for method, outcome in (outcomes | {"reference": reference}).items():
                result.show(method, outcome, image)
    return result
