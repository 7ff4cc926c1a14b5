"""What Hydra calls before the first and after the last job of a sweep."""

import atexit
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_folders = ExitStack()  # held; not the callback's, which launchers send to other processes
atexit.register(_folders.close)


class NameFolder(Callback):
    """Let the folder of a sweep be named by the configuration, as that of a single run is."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Set Hydra's configuration, so that ``${hydra:…}`` resolves before the first job."""
        HydraConfig.instance().set_config(config)


class CompareJobs(NameFolder):
    """Hold the folder of a sweep while its jobs run, and compare them in it at the end."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep other sweeps out of the folder; exit with 2 where one is in it."""
        from pcctlearn.runs.folder import held  # heavy, and not needed for --help

        super().on_multirun_start(config, **kwargs)
        try:
            _folders.enter_context(held(Path(config.hydra.sweep.dir), "hydra.sweep.dir"))
        except OSError as error:  # Hydra makes a warning of what its callbacks raise
            print(f"pcctlearn: {error}", file=sys.stderr)
            sys.exit(2)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the comparison, and let other sweeps into the folder.

        A sweep whose jobs failed has no comparison and keeps its folder until the process ends.
        """
        from pcctlearn.app.comparison import compare

        compare(Path(config.hydra.sweep.dir))
        _folders.close()
