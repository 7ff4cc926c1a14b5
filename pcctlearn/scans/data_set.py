"""A data set of scan files for training."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from pcctlearn.reading.damaged import readable
from pcctlearn.scan import Scan
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.flat_field import FlatFielded, flat_fielded
from pcctlearn.scans.reference import Reference

TRUTH = ("counts", "primary", "scatter")


class ScanSet(Dataset):
    """Scans with a scatter-free reference, flat-field corrected, float32, kept in memory.

    Args:
        paths: scan files.
        air: counts of the spectral model with nothing in the beam.
        reference: the scatter-free counts of each scan.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        air: Float[Tensor, "bin"],
        reference: Reference,
    ) -> None:
        if not paths:
            raise ValueError("paths is empty: give at least one scan file")
        self._scans = [reference.of(scan) for scan in usable_scans(paths, air, reference.needed)]

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Scan:
        """One scan, without a batch axis."""
        return self._scans[index]

    def batches_of_one(self) -> list[Scan]:
        """All scans, each with a batch axis; they share their memory with the set."""
        return [
            Scan(
                **{
                    stage: values[None]
                    for stage, values in vars(scan).items()
                    if values is not None
                }
            )
            for scan in self._scans
        ]


def usable_scans(
    paths: Iterable[Path], air: Float[Tensor, "bin"], needed: Sequence[str] = TRUTH
) -> Iterator[FlatFielded]:
    """Read scan files, one after the other; by default with their primary and scatter.

    Raises:
        ValueError: a file lacks something, has dead pixels or another number of bins.
    """
    for path in paths:
        recorded = read_scan(path, needed)
        if recorded.at("counts").isnan().any() or not (recorded.air > 0).all():
            raise ValueError(
                f"{path} has dead pixels (NaN counts, or air NaN or zero), and training needs "
                "counts in all pixels: leave this scan out"
            )
        yield flat_fielded(recorded, air)


def require_stored(paths: Iterable[Path], names: Sequence[str], remedy: str) -> None:
    """Raise ValueError if a scan file lacks one of these arrays."""
    for path in paths:
        with readable(path, "a scan file", "simulate it again"), h5py.File(path) as file:
            missing = [name for name in names if name not in file]
        if missing:
            raise ValueError(f"{path} holds no {' and no '.join(missing)}: {remedy}")


def collate(scans: Sequence[Scan]) -> Scan:
    """A batch of scans."""
    stages = [name for name, values in vars(scans[0]).items() if values is not None]
    return Scan(**{name: torch.stack([scan.at(name) for scan in scans]) for name in stages})
