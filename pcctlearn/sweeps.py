"""What Hydra calls when the jobs of a sweep are done."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CompareJobs(Callback):
    """Compare the jobs of a sweep, in the folder that holds them."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the comparison; a sweep whose jobs failed has none."""
        from pcctlearn.experiments.comparison import compare  # heavy, and only needed here

        compare(Path(config.hydra.sweep.dir))
