"""Build an experiment from its configuration, run it, write down what came out."""

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from pcctlearn.command.console import say
from pcctlearn.command.threads import set_threads
from pcctlearn.experiments.config import check_config
from pcctlearn.experiments.results import StudyResults, finished_with, print_table, write_run
from pcctlearn.experiments.run_folder import MARKER, held, set_aside
from pcctlearn.experiments.simulation import make_scans, scans_to_learn_from
from pcctlearn.figures.arrays import read_numbers
from pcctlearn.files import written_whole

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float | None:
    """Run the study that ``config.study`` builds; return the number ``config.objective`` names."""
    began = time.perf_counter()
    check_config(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    name = HydraConfig.get().runtime.choices["experiment"]
    text = OmegaConf.to_yaml(config, resolve=True)
    sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
    with held(folder, "hydra.sweep.dir" if sweeps else "hydra.run.dir"):
        if sweeps and finished_with(folder, text):
            say(f"{folder} holds this run already")
            return _objective(config, read_numbers(folder), name)
        results = _results(config, folder, text, name, began)
    return _objective(config, results.numbers, name)


def _results(config: DictConfig, folder: Path, text: str, name: str, began: float) -> StudyResults:
    """Run the study and write its results to the held folder."""
    _be_quiet()
    seed_everything(config.seed, workers=True, verbose=False)
    set_threads(config.n_threads)
    # wrong settings raise here, before hours of simulation
    trainer = _trainer(config)
    plan = scans_to_learn_from(config) if "scan" in config else None
    made = {} if plan is None else {"scans": plan.paths}
    study = instantiate(config.study, **made, _convert_="all")
    _begin(folder, config)
    try:
        _start_loggers(trainer, OmegaConf.to_container(config, resolve=True))
        if plan is not None:
            make_scans(plan)
        results: StudyResults = study.run(trainer)
        write_run(name, results, folder, text, began, overrides=HydraConfig.get().overrides.task)
        _log_to(trainer, results, folder)
    finally:
        _finish(trainer)
    print_table(name, results, folder, time.perf_counter() - began)
    return results


def _trainer(config: DictConfig) -> Trainer:
    try:
        return instantiate(config.trainer, _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException):
            raise
        remedy = ""
        if config.trainer.accelerator not in ("cpu", "auto"):
            remedy = "; without such a device, add trainer.accelerator=cpu"
        raise ValueError(f"the trainer cannot be built: {error.__cause__}{remedy}") from None


def _begin(folder: Path, config: DictConfig) -> None:
    """Move outputs of an earlier run aside, and write this run's configuration to ``.hydra``.

    Hydra itself would write it before the folder is held, beside the results of another run.
    """
    checkpoints = list((folder / "checkpoints").glob("*.ckpt"))
    outputs = (MARKER, "report.html", "figures", "checkpoints", "csv", "arrays.h5", ".hydra")
    keep = (folder / MARKER).exists() or bool(checkpoints)
    set_aside(folder, "hydra.run.dir", outputs, keep)
    overrides = HydraConfig.get().overrides.task
    kept = {"config": config, "hydra": HydraConfig.instance().cfg, "overrides": overrides}
    for name, node in kept.items():
        with written_whole(folder / ".hydra" / f"{name}.yaml") as path:
            path.write_text(OmegaConf.to_yaml(node), encoding="utf-8")


def _objective(config: DictConfig, numbers: Mapping[str, float], name: str) -> float | None:
    if config.objective is None:
        return None
    if config.objective not in numbers:
        raise ValueError(
            f"objective={config.objective!r} is no result of {name}, which gives "
            + ", ".join(numbers)
        )
    return numbers[config.objective]


def _start_loggers(trainer: Trainer, config: Any) -> None:
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise ConnectionError(
            f"W&B does not start ({error}): log in with `wandb login`, or leave it offline with "
            "logger.offline=true"
        ) from error


def _log_to(trainer: Trainer, results: StudyResults, folder: Path) -> None:
    for logger in trainer.loggers:
        logger.log_metrics({f"results/{k}": v for k, v in results.numbers.items()})
        if isinstance(logger, WandbLogger):
            for name in results.figures:
                logger.log_image(name, [str(folder / "figures" / f"{name}.png")])


def _finish(trainer: Trainer) -> None:
    """One W&B run per job: the next job of a sweep would go on writing to this one."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        wandb.finish()


def _be_quiet() -> None:
    """Lightning's hints are for other loops than these: one scan, held in memory."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for hint in ("does not have many workers", "sparse CSR", "returned `None`", "LeafSpec"):
        warnings.filterwarnings("ignore", f".*{hint}.*")
