"""Atomic Lightning checkpoints."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from pcctlearn.scatter.checkpoint import write_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints to a temporary file in their folder, and rename it when it is complete.

    Lightning itself copies from the system's temporary folder: a full disk or a killed process can
    leave half a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; ``OSError`` if the disk is full."""
        write_checkpoint(Path(path), checkpoint)
