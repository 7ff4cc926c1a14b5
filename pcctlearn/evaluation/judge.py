"""Errors of a scatter correction on scans whose primary counts are known."""

from collections.abc import Collection, Iterable, Mapping
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

_SHOWN = (UNCORRECTED, CORRECTED)


@dataclass
class Judgement:
    """Errors of all scans, and arrays of the first one for the figures.

    ``materials`` are those of the maps and line integrals.
    """

    materials: tuple[str, ...] = ()
    errors: ErrorTable = field(default_factory=ErrorTable)
    shown: dict[str, Tensor] = field(default_factory=dict)

    def arrays(self) -> dict[str, Tensor | np.ndarray]:
        """The errors, and the arrays for the figures, to be stored in arrays.h5."""
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
    others: Mapping[str, ScatterCorrection] | None = None,
    others_with_noise: bool = False,
    shown: Collection[str] = _SHOWN,
) -> Judgement:
    """Errors of scans with and without correction, relative to their noise-free primary counts.

    All counts pass through the same chain. Errors without noise are those of the expected counts.
    Errors with noise are those of the measured counts, if they have noise, and of primary counts
    with noise drawn here ("noise_alone"), the limit for a perfect correction.

    Args:
        chain: chain with monoenergetic images; image errors are those of the first energy.
        scans: scans with known primary and scatter.
        noise_seed: seed of the drawn noise, which depends on this seed and the name of the scan
            only; ``None``: errors without noise only.
        others: {name: other correction}, such as baselines.
        others_with_noise: compute their errors with noise as well.
        shown: methods whose arrays of the first scan are kept, besides those of the reference.
    """
    chain.eval()
    image = chain.image
    if image is None:
        raise ValueError("the chain must have monoenergetic images (image=MonoenergeticImages(…))")
    plain = Chain(chain.decompose, chain.reconstruct, image)
    rest = {
        name: Chain(chain.decompose, chain.reconstruct, image, correct).eval()
        for name, correct in (others or {}).items()
    }
    chains = {UNCORRECTED: plain} | ({} if chain.correct is None else {CORRECTED: chain})
    noisy_chains = chains | rest if others_with_noise else chains
    result = Judgement(tuple(chain.decompose.model.materials))
    for scan in scans:
        geometry, grid = scan.recorded.geometry, scan.recorded.grid
        visible = torch.from_numpy(geometry.visible_in_all_views(grid))
        expected = scan.scan(noise=False)
        primary, counts = (expected.at(stage)[None] for stage in ("corrected_counts", "counts"))
        reference = replace(plain(primary, until="maps"), corrected_counts=primary)
        cases = [(method, False, steps, counts) for method, steps in (chains | rest).items()]
        if noise_seed is not None and scan.has_noise:
            measured, alone = scan.counts[None], scan.noisy_primary(noise_seed)[None]
            cases += [(method, True, steps, measured) for method, steps in noisy_chains.items()]
            cases.append((NOISE_ALONE, True, plain, alone))
        outcomes = {}
        for method, noisy, steps, inputs in cases:
            outcome = steps(inputs, until="maps")
            errors = correction_errors(outcome, reference, image, result.materials, visible)
            result.errors.add(method, errors, noisy)
            if not noisy and method in shown and not result.shown:
                outcomes[method] = outcome
        if not result.shown:
            for method, outcome in (outcomes | {"reference": reference}).items():
                result.show(method, outcome, image)
    return result
