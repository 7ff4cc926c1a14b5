"""Scatter correction learned from scans, and its errors in counts and images."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Transform
from pytorch_lightning import Trainer
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.evaluation.judge import Judgement, judge
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.metrics.errors import CORRECTED, ErrorTable, Metric
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scan import STAGES, Scan
from pcctlearn.scans.data_set import TRUTH, ScanSet, collate, require_stored, usable_scans
from pcctlearn.scans.reference import Reference
from pcctlearn.scans.source import ScanSource
from pcctlearn.scatter.base import ScatterCorrection, require_cone
from pcctlearn.scatter.checkpoint import KEY, CorrectionBuilder, described, save_correction
from pcctlearn.scatter.uniform import UniformFraction, UniformScatter
from pcctlearn.studies.paired import compared
from pcctlearn.tomography.fbp import fbp
from pcctlearn.training.chain_module import ChainModule, with_truth
from pcctlearn.training.step_profile import step_seconds

_BASELINES = {
    "untrained": "The untrained correction",
    "uniform": "Uniform scatter, the mean of the training scans,",
    "fraction": "A constant scatter fraction, the mean of the training scans,",
}


class ScatterStudy:
    """Fit a scatter correction to training scans and compute its errors on test scans.

    A network is trained with the loss; kernels are fitted in closed form. Errors are relative to
    the primary counts of the same scan, passed through the same chain.

    Args:
        scans: scan files of one scanner, in order: training, validation (which selects the best
            weights), test.
        decomposition: constructor of the decomposition layer for a model.
        scatter: builds the scatter correction, untrained or from a checkpoint.
        reference: the scatter-free counts that training and validation compare with.
        loss: on any stage of the chain; direct and cross-domain learning differ in the loss only.
        training: constructor of the Lightning module, called with chain, loss and notes.
        split: numbers of scans for training, validation and test; scans without primary counts and
            scatter cannot be judged: none for test.
        vmi_keV: energy of the monoenergetic images.
        filter, truncation: settings of the reconstruction, as in ``fbp``.
        with_noise: compute errors of noisy counts as well.
        seed: seed of the network's initial weights.
    """

    def __init__(
        self,
        scans: ScanSource,
        decomposition: Callable[..., Decomposition],
        scatter: CorrectionBuilder,
        reference: Reference,
        loss: TotalLoss,
        training: Callable[..., ChainModule],
        split: Sequence[int] = (6, 2, 2),
        vmi_keV: float = 60.0,
        filter: str = "ramp",
        truncation: str = "water",
        with_noise: bool = True,
        seed: int = 0,
    ) -> None:
        if len(split) != 3 or min(split) < 0 or not all(split[:2]) or sum(split) > len(scans.paths):
            raise ValueError(
                "study.split must be three positive numbers, of which the last may be 0, with a "
                f"sum of at most {len(scans.paths)} (scans), got {list(split)}: lower it, or raise "
                "datasets.n_cases"
            )
        self.source, self.model = scans, scans.model
        self.geometry, self.grid = require_cone(scans.geometry), scans.grid
        first, second, third = np.cumsum(split).tolist()
        self.scans = {
            "train": scans.paths[:first],
            "val": scans.paths[first:second],
            "test": scans.paths[second:third],
        }
        self.reference, self.loss, self.training = reference, loss, training
        self.with_noise = with_noise
        torch.manual_seed(seed)
        self.air = self.model.air().detach().float()
        correction = scatter(self.geometry, self.model)
        if correction is None:
            raise ValueError(
                "scatter=none has nothing to fit: choose scatter=network, kernel or uniform"
            )
        if not reference.known and (loss.compared or not correction.learns):
            raise ValueError(
                "reference=none has no scatter-free counts: use losses=self_supervised with "
                "scatter=network, or reference=independent"
            )
        self.correction = correction
        self.chain = Chain(
            decomposition(self.model),
            fbp(self.geometry, self.grid, filter, truncation),
            MonoenergeticImages(self.model.materials, [vmi_keV]),
            correction,
        )
        if correction.learns:
            self._module().configure_optimizers()  # rejects wrong settings before scans are made

    def _module(self) -> ChainModule:
        notes = {KEY: described(self.correction, self.geometry, self.model)}
        try:
            return self.training(self.chain, self.loss, notes=notes)
        except TypeError as error:
            raise TypeError(
                f"training does not build a ChainModule: {error}; use training=chain"
            ) from None

    def run(self, context: Context) -> StudyResults:
        """Make the scans, fit the correction, and compute its errors."""
        trainer = context.trainer
        self.source.make()
        require_stored(self.scans["test"], TRUTH, "use study.split=[…,…,0] to train without a test")
        self.model.thresholds.requires_grad_(False)
        baselines: dict[str, ScatterCorrection] = {"untrained": deepcopy(self.correction)}
        scans = ScanSet(self.scans["train"], self.air, self.reference)
        if self.reference.known:
            baselines["uniform"] = UniformScatter(self.geometry, self.model)
            baselines["fraction"] = UniformFraction(self.geometry, self.model)
            for name in ("uniform", "fraction"):
                baselines[name].fit(scans.batches_of_one(), dict)
        began = perf_counter()
        learned = self.correction.fit(scans.batches_of_one(), lambda: self._train(trainer, scans))
        learned = {"training_seconds": perf_counter() - began, **learned}
        checkpoints = getattr(trainer.checkpoint_callback, "dirpath", None)
        if checkpoints and not list(Path(checkpoints).glob("*.ckpt")):  # fitted in closed form
            path = Path(checkpoints) / "best.ckpt"
            save_correction(path, self.correction, self.geometry, self.model)
        if not self.scans["test"]:
            return _not_judged(learned, self._fitted_by(learned))
        test = track(self.scans["test"], "test scans")
        noise_seed = 0 if self.with_noise else None  # the same noise for every seed of the network
        judgement = judge(self.chain, usable_scans(test, self.air), noise_seed, baselines)
        return _results(judgement, learned, self._fitted_by(learned))

    def _train(self, trainer: Trainer, scans: ScanSet) -> dict[str, float]:
        module = self._module()
        train = self._prepared(scans)
        val = self._prepared(ScanSet(self.scans["val"], self.air, self.reference))
        (untrained,) = trainer.validate(module, _loader(val), verbose=False)
        began = perf_counter()
        trainer.fit(module, _loader(train, shuffle=True), _loader(val))
        seconds = perf_counter() - began
        last = trainer.callback_metrics.get("val/loss", untrained["val/loss"])  # max_epochs=0
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            module.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
        rays = len(train) * trainer.current_epoch * np.prod(self.geometry.shape)  # type: ignore[arg-type]
        score = getattr(trainer.checkpoint_callback, "best_model_score", None)
        val_loss = float(last if score is None else score)
        numbers = {
            "val_loss": val_loss,
            "val_loss_over_untrained": val_loss / untrained["val/loss"],
            "epochs": float(trainer.current_epoch),
            "training_seconds": seconds,
            "training_rays_per_second": float(rays) / seconds,
        }
        return numbers | self._profile(trainer, collate([train[0]]))

    def _profile(self, trainer: Trainer, target: Scan) -> dict[str, float]:
        """Rays per second of one training step, and the time share of each part.

        Measured on the trainer's device and in its precision, with a copy of the chain, since a
        step changes the running statistics of the network.
        """
        device = trainer.strategy.root_device
        chain = deepcopy(self.chain).to(device).train()
        with trainer.precision_plugin.forward_context():
            parts = step_seconds(chain, self.loss, trainer.strategy.batch_to_device(target, device))
        total = sum(seconds for part in parts.values() for seconds in part.values())
        shares = {
            f"step_share_{stage}_{direction}": seconds / total
            for stage, part in parts.items()
            for direction, seconds in part.items()
        }
        rays = float(np.prod(self.geometry.shape))
        return {"step_rays_per_second": rays / total, **shares}

    def _fitted_by(self, learned: dict[str, float]) -> str:
        fitted = f"{self.correction.title} fitted to {len(self.scans['train'])} scans"
        reference = f"The reference is {self.reference.title}"
        if self.correction.learns and not self.loss.compared:
            reference = "No reference was compared with"
        if "epochs" not in learned:
            return f"{fitted}. {reference}"
        stages = ", ".join(sorted(self.loss.stages))
        epochs = f"{learned['epochs']:.0f} epochs"
        return f"{fitted} in {epochs} with a loss on {stages}. {reference}"

    def _prepared(self, scans: ScanSet) -> Dataset:
        """Scans with the true values of the stages that the loss compares, computed once."""
        truth = _Truth(self.chain, self.loss)
        if not truth.stages:
            return scans
        return CacheDataset([scans[k] for k in range(len(scans))], truth, copy_cache=False)


def _not_judged(fitted: dict[str, float], by: str) -> StudyResults:
    figures = ["scatter_correction.step"] if "step_rays_per_second" in fitted else []
    return StudyResults(fitted, {}, figures, f"{by}. No scans were judged.")


def _results(judgement: Judgement, fitted: dict[str, float], by: str) -> StudyResults:
    errors = judgement.errors
    summary, metric = errors.summary(), errors.image_metrics[0]
    figures = ["scatter_correction.images", "scatter_correction.errors"]
    if "step_rays_per_second" in fitted:
        figures.append("scatter_correction.step")
    return StudyResults(
        numbers={**summary, **fitted},
        arrays=judgement.arrays(),
        figures=figures,
        summary=f"{by}. {metric.label}: {errors.share(metric):.2f} of the uncorrected error "
        f"remains. {_compared_with_baselines(errors, metric)}",
        tables=errors.tables(),
        tabulated=summary,
    )


def _compared_with_baselines(errors: ErrorTable, metric: Metric) -> str:
    """Remaining errors of the untrained correction and of uniform scatter, and the comparison."""
    corrected = errors.values[metric, CORRECTED]
    found = {name: errors.values.get((metric, name)) for name in _BASELINES}
    return " ".join(
        f"{_BASELINES[name]} leaves {errors.share(metric, name):.2f}; compared with it, the error "
        f"is {compared(corrected, values)}."
        for name, values in found.items()
        if values is not None
    )


class _Truth(Transform):
    """Adds the true values of stages after the corrected counts that a loss compares."""

    def __init__(self, chain: Chain, loss: TotalLoss) -> None:
        known = STAGES.index("corrected_counts")
        self.chain, self.loss = chain, loss
        self.stages = [stage for stage in loss.compared if STAGES.index(stage) > known]

    def __call__(self, scan: Scan) -> Scan:
        truth = with_truth(collate([scan]), self.chain, self.loss.deepest, self.loss.expects)
        return replace(scan, **{stage: truth.at(stage)[0] for stage in self.stages})


def _loader(scans: Dataset, shuffle: bool = False) -> DataLoader:
    return DataLoader(scans, batch_size=1, shuffle=shuffle, collate_fn=collate)
