"""Hydra callbacks before the first and after the last job of a sweep."""

import atexit
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_folders = ExitStack()  # locked; not in the callback, which launchers copy to other processes
atexit.register(_folders.close)


class NameFolder(Callback):
    """Take the folder of a sweep from the configuration, as for a single run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set Hydra's configuration, so that ``${hydra:…}`` resolves before the first job."""
        HydraConfig.instance().set_config(config)


class CompareJobs(NameFolder):
    """Lock the folder of a sweep while its jobs run, and compare them at the end."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the folder; exit with 2 if another sweep uses it."""
        from pcctlearn.runs.folder import held  # heavy, and not needed for --help

        super().on_multirun_start(config, **kwargs)
        try:
            _folders.enter_context(held(Path(config.hydra.sweep.dir), "hydra.sweep.dir"))
        except OSError as error:  # Hydra turns errors of callbacks into warnings
            print(f"pcctlearn: {error}", file=sys.stderr)
            sys.exit(2)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the comparison, and unlock the folder.

        If jobs failed, there is no comparison, and the folder is unlocked when the process ends.
        """
        from pcctlearn.app.comparison import compare

        compare(Path(config.hydra.sweep.dir))
        _folders.close()
