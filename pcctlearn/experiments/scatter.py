"""Scatter correction learned from scans, and what it is worth in counts and in images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from pytorch_lightning import Trainer
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pcctlearn.chain import Chain
from pcctlearn.datasets.scan_set import ScanSet, collate
from pcctlearn.datasets.simulated import ScanSimulator
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.experiments.results import StudyResults
from pcctlearn.figures import scatter_correction as figures
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.metrics.correction import correction_errors
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import STAGES, Scan
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.fdk import fdk
from pcctlearn.training.chain_module import ChainModule, with_truth


class ScatterStudy:
    """Learn the scattered fraction of the counts on some scans, judge it on others.

    All errors are against the same scan's primary counts through the same chain.

    Args:
        scans: their files, in order: those to learn from first, then those that choose the best
            weights, then those that are judged.
        scan: the scanner that made them; its geometry and model are those of the chain.
        decomposition: constructor of the decomposition layer, awaiting its model.
        correction: constructor of what estimates the scattered fraction, awaiting air.
        loss: on any stage of the chain; nothing else tells direct from cross-domain learning.
        training: constructor of the module, awaiting chain and loss.
        split: how many scans are learned from, choose, and are judged.
        vmi_keV: of the monoenergetic images.
        test_noise: judge noisy counts; else expected ones.
        seed: of the network and of the noise.
    """

    def __init__(
        self,
        scans: Sequence[Path],
        scan: ScanSimulator,
        decomposition: Callable[..., MaximumLikelihood],
        correction: Callable[..., nn.Module],
        loss: TotalLoss,
        training: Callable[..., ChainModule],
        split: Sequence[int] = (6, 2, 2),
        vmi_keV: float = 60.0,
        test_noise: bool = False,
        seed: int = 0,
    ) -> None:
        if len(split) != 3 or min(split) < 1 or sum(split) > len(scans):
            raise ValueError(
                f"study.split must be three numbers of scans, {len(scans)} in all at most, got "
                f"{list(split)}: lower it, or raise datasets.n_cases"
            )
        self.geometry, self.model = scan.geometry, scan.model
        first, second, third = np.cumsum(split).tolist()
        self.scans = {
            "train": scans[:first],
            "val": scans[first:second],
            "test": scans[second:third],
        }
        self.loss, self.training, self.test_noise, self.seed = loss, training, test_noise, seed
        torch.manual_seed(seed)
        air = self.model.air().detach().float()
        self.air = air
        panel = (self.geometry.n_rows, self.geometry.n_columns)
        self.chain = Chain(
            decomposition(self.model),
            fdk(self.geometry),
            MonoenergeticImages(self.model.materials, [vmi_keV]),
            correction(air, panel=panel),
        )

    def run(self, trainer: Trainer) -> StudyResults:
        """Learn, take the best weights, judge."""
        self.model.thresholds.requires_grad_(False)
        module = self.training(self.chain, self.loss)
        train, val = (self._prepared(name, redraw=name == "train") for name in ("train", "val"))
        began = perf_counter()
        trainer.fit(module, _loader(train, shuffle=True), _loader(val))
        seconds = perf_counter() - began
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            module.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
        module.eval()
        n_scans = len(train) * trainer.current_epoch  # type: ignore[arg-type]
        return self._judge(module, seconds, n_scans)

    def _prepared(self, name: str, redraw: bool = False) -> Dataset:
        """Scans with the truth of the stages that the loss looks at."""
        scans = ScanSet(self.scans[name], self.air, noise=True, redraw=redraw, seed=self.seed)
        if STAGES.index(self.loss.deepest) <= STAGES.index("corrected_counts"):
            return scans
        truths = [
            with_truth(collate([scans[k]]), self.chain, self.loss.deepest)
            for k in track(range(len(scans)), f"truth of the {name} scans")
        ]
        return _WithTruth(scans, truths)

    @torch.no_grad()
    def _judge(self, module: ChainModule, seconds: float, n_scans: int) -> StudyResults:
        scans = ScanSet(self.scans["test"], self.air, noise=self.test_noise)
        image, seen = module.chain.image, seen_by_all(self.geometry)
        assert image is not None
        plain = Chain(module.chain.decompose, module.chain.reconstruct, image)
        materials = tuple(self.model.materials)
        table: dict[str, list[dict[str, float]]] = {"uncorrected": [], "corrected": []}
        arrays: dict[str, Tensor | np.ndarray] = {}
        for k in track(range(len(scans)), "test scans"):
            scan = collate([scans[k]])
            reference = with_truth(scan, module.chain, "maps")
            outcomes = {
                "uncorrected": plain(scan.at("counts"), until="maps"),
                "corrected": module.chain(scan.at("counts"), until="maps"),
            }
            for method, outcome in outcomes.items():
                errors = correction_errors(outcome, reference, image, materials, seen)
                table[method].append(errors)
            if k == 0:
                shown = {"reference": reference, **outcomes}
                for method, outcome in shown.items():
                    arrays[f"{method}/vmi_HU"] = image.hounsfield(outcome.at("maps"))[0, 0]
                    arrays[f"{method}/line_integrals"] = outcome.at("line_integrals")[0, :, 0]
        numbers = _summary(table)
        rays = n_scans * int(np.prod(self.geometry.shape))
        numbers["training_seconds"] = seconds
        numbers["training_rays_per_second"] = rays / seconds
        for method, rows in table.items():
            for metric in rows[0]:
                arrays[f"{metric}/{method}"] = np.array([row[metric] for row in rows])
        vmi = next(name for name in table["corrected"][0] if name.startswith("vmi"))
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures={"images": figures.images, "errors": figures.errors},
            captions={
                "images": "The first test scan: monoenergetic images without correction, with it, "
                "and of the scatter-free counts; below, the difference from the last.",
                "errors": "Errors of every test scan, before and after correction.",
            },
            summary=f"Learned from {len(self.scans['train'])} scans with a loss on "
            f"{', '.join(sorted(self.loss.stages))}: {vmi} falls to "
            f"{numbers[f'{vmi}_over_uncorrected']:.2f} of its value without correction.",
        )


class _WithTruth(Dataset):
    """Scans, their noise drawn anew, with stages that are known."""

    def __init__(self, scans: ScanSet, truths: Sequence[Scan]) -> None:
        self.scans, self.truths = scans, truths

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> Scan:
        truth = self.truths[index]
        held = [s for s in ("line_integrals", "maps") if getattr(truth, s) is not None]
        return replace(self.scans[index], **{stage: truth.at(stage)[0] for stage in held})


def seen_by_all(geometry: ConeBeam) -> Tensor:
    """(z, y, x): the voxels that fall on the panel in every view, around an axis in its middle."""
    grid = geometry.volume
    rows, columns = np.arange(grid.n_y), np.arange(grid.n_x)
    index = np.stack(np.broadcast_arrays(columns, rows[:, None], 1.0), -1)
    x, y, _ = np.moveaxis(index @ grid.index_to_cm.T, -1, 0)
    radius = np.hypot(x, y)
    within = radius <= min(geometry.reaches_cm) / geometry.magnification
    nearest = 1 - radius / geometry.source_to_axis_cm
    low, high = geometry.axial_range_cm
    z = grid.slices_cm[:, None, None]
    return torch.from_numpy(within & (z >= low * nearest) & (z <= high * nearest))


def _loader(scans: Dataset, shuffle: bool = False) -> DataLoader:
    return DataLoader(scans, batch_size=1, shuffle=shuffle, collate_fn=collate)


def _summary(table: Mapping[str, list[dict[str, float]]]) -> dict[str, float]:
    """Means and standard deviations over scans, and what is left of the uncorrected errors."""
    numbers = {}
    for metric in table["uncorrected"][0]:
        values = {m: np.array([row[metric] for row in rows]) for m, rows in table.items()}
        numbers[f"{metric}_uncorrected"] = float(values["uncorrected"].mean())
        numbers[metric] = float(values["corrected"].mean())
        numbers[f"{metric}_sd"] = float(values["corrected"].std())
        ratio = values["corrected"].mean() / values["uncorrected"].mean()
        numbers[f"{metric}_over_uncorrected"] = float(ratio)
    return numbers
