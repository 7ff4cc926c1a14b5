"""What a correction of scatter is worth: errors of scans whose primary counts are known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Generator, Tensor

from pcctlearn.chain import Chain
from pcctlearn.datasets.scan_set import ScanSet, collate
from pcctlearn.metrics.correction import correction_errors
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.training.chain_module import with_truth

NOISY = "noisy_"  # before the name of a metric: of counts with their Poisson noise


@dataclass
class Judgement:
    """``errors`` {method: {metric: one for each scan}}, and what is shown of the first scan.

    Methods are "uncorrected" and "corrected"; for the noisy metrics also "noise_alone", which is
    the scatter-free counts with noise of their own.
    """

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
        """Means and standard deviations over the scans, and what is left of the uncorrected."""
        numbers = {}
        for metric, before in self.errors["uncorrected"].items():
            after = self.errors["corrected"][metric]
            numbers[f"{metric}_uncorrected"] = float(np.mean(before))
            numbers[metric] = float(np.mean(after))
            numbers[f"{metric}_sd"] = float(np.std(after))
            numbers[f"{metric}_over_uncorrected"] = float(np.mean(after) / np.mean(before))
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
        return {**table, **self.shown}


@torch.no_grad()
def judge(
    chain: Chain, scans: Sequence[Path], geometry: ConeBeam, with_noise: bool = True
) -> Judgement:
    """All errors against the same scan's primary counts, without noise, through the same chain.

    Without noise counts are primary and scatter as expected; ``with_noise`` judges the measured
    counts too.
    """
    image, model = chain.image, chain.decompose.model
    assert image is not None
    chain.eval()
    plain = Chain(chain.decompose, chain.reconstruct, image)
    air = model.air().detach().float()
    seen, materials = seen_by_all(geometry), tuple(model.materials)
    expected = ScanSet(scans, air, noise=False)
    measured = ScanSet(scans, air, noise=True) if with_noise else None
    generator = Generator().manual_seed(0)
    result = Judgement()
    for k in track(range(len(scans)), "test scans"):
        scan = collate([expected[k]])
        reference = with_truth(scan, chain, "maps")
        cases = {("uncorrected", ""): (plain, scan), ("corrected", ""): (chain, scan)}
        if measured is not None:
            noisy = collate([measured[k]])
            gain = expected.gains[k]
            alone = draw_counts(scan.at("corrected_counts") / gain, generator) * gain
            cases |= {
                ("uncorrected", NOISY): (plain, noisy),
                ("corrected", NOISY): (chain, noisy),
                ("noise_alone", NOISY): (plain, Scan(counts=alone)),
            }
        for (method, before), (steps, given) in cases.items():
            outcome = steps(given.at("counts"), until="maps")
            errors = correction_errors(outcome, reference, image, materials, seen)
            result.add(method, errors, before)
            if k == 0 and not before:
                result.show(method, outcome, image)
        if k == 0:
            result.show("reference", reference, image)
    return result


def seen_by_all(geometry: ConeBeam) -> Tensor:
    """(z, y, x): the voxels that fall on the panel in every view, around an axis in its middle."""
    grid = geometry.volume
    rows, columns = np.arange(grid.n_y), np.arange(grid.n_x)
    index = np.stack(np.broadcast_arrays(columns, rows[:, None], 1.0), -1)
    x, y, _ = np.moveaxis(index @ grid.index_to_cm.T, -1, 0)
    radius = np.hypot(x, y)
    reach = min(geometry.reaches_cm)  # on the panel: the tangent of the outermost ray
    sine = reach / np.hypot(reach, geometry.source_to_detector_cm)
    within = radius <= geometry.source_to_axis_cm * sine
    nearest = 1 - radius / geometry.source_to_axis_cm
    low, high = geometry.axial_range_cm
    z = grid.slices_cm[:, None, None]
    return torch.from_numpy(within & (z >= low * nearest) & (z <= high * nearest))
