"""Lightning checkpoints that are complete or absent, however the run ends."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from pcctlearn.scatter.checkpoint import write_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints beside their final name, and rename them once they are on the disk.

    Lightning itself writes to the system's temporary folder and copies from there: on another
    disk, one that is full or a process that is killed leaves half a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write one checkpoint; ``OSError`` where there is no space."""
        write_checkpoint(Path(path), checkpoint)
