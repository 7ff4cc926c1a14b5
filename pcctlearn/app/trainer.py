"""Build Lightning's trainer; start and end its loggers."""

import logging
import warnings
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from pcctlearn.figures import file_stem
from pcctlearn.runs.results import StudyResults


def build_trainer(config: DictConfig) -> Trainer:
    """The trainer of ``config.trainer``.

    Raises:
        ValueError: settings that Lightning refuses.
    """
    _be_quiet()
    try:
        return instantiate(config.trainer, _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException):
            raise
        remedy = ""
        if config.trainer.accelerator not in ("cpu", "auto"):
            remedy = "; without such a device, add trainer.accelerator=cpu"
        raise ValueError(f"the trainer cannot be built: {error.__cause__}{remedy}") from None


def start_loggers(trainer: Trainer, config: DictConfig) -> None:
    """Start the trainer's loggers and log the configuration.

    Raises:
        ConnectionError: W&B does not start.
    """
    settings: Any = OmegaConf.to_container(config, resolve=True)
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise ConnectionError(
            f"W&B does not start ({error}): log in with `wandb login`, or leave it offline with "
            "logger.offline=true"
        ) from error


def log_results(trainer: Trainer, results: StudyResults, folder: Path) -> None:
    """Log the numbers of a finished run, and its figures to W&B."""
    for logger in trainer.loggers:
        logger.log_metrics({f"results/{k}": v for k, v in results.numbers.items()})
        if isinstance(logger, WandbLogger):
            for name in map(file_stem, results.figures):
                logger.log_image(name, [str(folder / "figures" / f"{name}.png")])


def end_loggers(trainer: Trainer) -> None:
    """End the W&B run, so that the next job of a sweep starts its own."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        wandb.finish()


def _be_quiet() -> None:
    """Silence Lightning's hints that do not apply, as data are held in memory."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for hint in ("does not have many workers", "sparse CSR", "returned `None`", "LeafSpec"):
        warnings.filterwarnings("ignore", f".*{hint}.*")
