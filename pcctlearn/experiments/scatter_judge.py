"""What a correction of scatter is worth: errors of scans whose primary counts are known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Generator, Tensor

from pcctlearn.chain import Chain
from pcctlearn.datasets.scan_set import ScanSet, collate
from pcctlearn.figures.arrays import as_array
from pcctlearn.metrics.correction import correction_errors
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

NOISY = "noisy_"  # before the name of a metric: of counts with their Poisson noise


class Judged(NamedTuple):
    """Counts at the end of the chain, and their errors.

    ``method`` is "uncorrected", "corrected", the name of a baseline, or "noise_alone" of
    scatter-free counts with noise of their own, or "reference" of those without; ``before`` is
    ``NOISY``, or empty.
    """

    method: str
    before: str
    outcome: Scan
    errors: dict[str, float]


@dataclass
class Judgement:
    """``errors`` {method: {metric: one for each scan}}, and what is shown of the first scan.

    ``materials`` are those of its maps and line integrals.
    """

    materials: tuple[str, ...] = ()
    errors: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    shown: dict[str, Tensor] = field(default_factory=dict)

    def add(self, method: str, errors: dict[str, float], before: str) -> None:
        """Errors of one more scan."""
        for metric, value in errors.items():
            self.errors.setdefault(method, {}).setdefault(before + metric, []).append(value)

    def show(self, method: str, scan: Scan, image: MonoenergeticImages) -> None:
        """Keep the images of a scan, the middle slice of its maps, and its first view."""
        maps = scan.at("maps")
        self.shown[f"{method}/vmi_HU"] = image.hounsfield(maps)[0, 0]
        self.shown[f"{method}/axial_maps"] = maps[0, :, maps.shape[2] // 2]
        self.shown[f"{method}/line_integrals"] = scan.at("line_integrals")[0, :, 0]

    def numbers(self) -> dict[str, float]:
        """Means over the scans, standard deviations, and what is left of the uncorrected.

        The deviations are those of a sample, and left out where there is one scan. Of baselines
        what is left of the uncorrected is given alone.
        """
        numbers = {}
        baselines = self.errors.keys() - {"uncorrected", "corrected", "noise_alone"}
        for metric, before in self.errors.get("uncorrected", {}).items():
            numbers[f"{metric}_uncorrected"] = float(np.mean(before))
            if "corrected" in self.errors:
                after = self.errors["corrected"][metric]
                numbers[metric] = float(np.mean(after))
                if len(after) > 1:
                    numbers[f"{metric}_sd"] = float(np.std(after, ddof=1))
                numbers[f"{metric}_over_uncorrected"] = float(np.mean(after) / np.mean(before))
            for name in sorted(baselines):
                if metric in self.errors[name]:
                    ratio = np.mean(self.errors[name][metric]) / np.mean(before)
                    numbers[f"{metric}_{name}_over_uncorrected"] = float(ratio)
            if metric.startswith(NOISY):
                alone = self.errors["noise_alone"][metric]
                numbers[f"{metric}_of_noise_alone"] = float(np.mean(alone))
        return numbers

    def arrays(self) -> dict[str, Tensor | np.ndarray]:
        """errors/<metric>.<method> (scan), and what is shown."""
        table = {
            f"errors/{metric}.{method}": np.array(values)
            for method, metrics in self.errors.items()
            for metric, values in metrics.items()
        }
        return {**table, **self.shown, "materials": as_array(self.materials)}


@torch.no_grad()
def judged(
    chain: Chain,
    geometry: ConeBeam,
    grid: VolumeGrid,
    expected: Scan,
    measured: Tensor | None = None,
    alone: Tensor | None = None,
    baselines: Mapping[str, ScatterCorrection] | None = None,
) -> Iterator[Judged]:
    """A scan with and without correction, against its primary counts without noise.

    All go through the same chain. ``expected`` holds counts and corrected_counts without noise,
    a batch of one; ``measured`` are counts with noise and ``alone`` scatter-free ones. The last
    that comes is the reference, without errors.
    """
    image = chain.image
    assert image is not None
    plain = Chain(chain.decompose, chain.reconstruct, image)
    visible = torch.from_numpy(geometry.seen_by_all_views(grid))
    materials = tuple(chain.decompose.model.materials)
    primary = expected.at("corrected_counts")
    reference = replace(plain(primary, until="maps"), corrected_counts=primary)
    given = [("", expected.at("counts"))]
    if measured is not None:
        given.append((NOISY, measured))
    cases = [("uncorrected", before, plain, counts) for before, counts in given]
    if chain.correct is not None:
        cases += [("corrected", before, chain, counts) for before, counts in given]
    for name, correct in (baselines or {}).items():
        other = Chain(chain.decompose, chain.reconstruct, image, correct).eval()
        cases.append((name, "", other, expected.at("counts")))
    if alone is not None:
        cases.append(("noise_alone", NOISY, plain, alone))
    for method, before, steps, counts in cases:
        outcome = steps(counts, until="maps")
        errors = correction_errors(outcome, reference, image, materials, visible)
        yield Judged(method, before, outcome, errors)
    yield Judged("reference", "", reference, {})


def judge(
    chain: Chain,
    scans: Sequence[Path],
    geometry: ConeBeam,
    grid: VolumeGrid,
    with_noise: bool = True,
    baselines: Mapping[str, ScatterCorrection] | None = None,
) -> Judgement:
    """All errors of some scans, without noise and, ``with_noise``, of the measured counts too.

    Those of ``baselines``, other corrections by name, without noise alone.
    """
    assert chain.image is not None
    chain.eval()
    air = chain.decompose.model.air().detach().float()
    generator = Generator().manual_seed(0)
    result = Judgement(tuple(chain.decompose.model.materials))
    for k, path in enumerate(track(scans, "test scans")):
        free = ScanSet([path], air, noise=False)
        expected, measured, alone = collate([free[0]]), None, None
        if with_noise:
            measured = ScanSet([path], air)[0].at("counts")[None]
            gain = free.gains[0]
            alone = draw_counts(expected.at("corrected_counts") / gain, generator) * gain
        for case in judged(chain, geometry, grid, expected, measured, alone, baselines):
            result.add(case.method, case.errors, case.before)
            if k == 0 and not case.before and case.method not in (baselines or {}):
                result.show(case.method, case.outcome, chain.image)
    return result
