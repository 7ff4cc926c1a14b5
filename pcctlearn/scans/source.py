"""Interface of the scans of a study: files of one scanner."""

from abc import ABC, abstractmethod
from pathlib import Path

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import VolumeGrid


class ScanSource(ABC):
    """Scan files of one scanner, in a fixed order. ``make`` writes those that do not exist yet."""

    paths: list[Path]

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """The geometry of all scans."""

    @property
    @abstractmethod
    def grid(self) -> VolumeGrid:
        """The grid of all reconstructions."""

    @property
    @abstractmethod
    def model(self) -> SpectralModel:
        """The spectral model of all scans, with nominal thresholds."""

    def make(self) -> None:  # noqa: B027  # existing files need no override
        """Write the files that do not exist yet."""
