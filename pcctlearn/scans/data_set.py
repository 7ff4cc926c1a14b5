"""Scan files as a data set to learn from."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from pcctlearn.scan import Scan
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.flat_field import FlatFielded, flat_fielded

NEEDED = ("counts", "primary", "scatter")


class ScanSet(Dataset):
    """Scans with their scatter-free truth, flat-field corrected, float32, kept in memory.

    Args:
        paths: of the scan files.
        air: (bin) of the model that will decompose them.
        noise: counts as measured; else primary and scatter without noise (``FlatFielded.scan``).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        air: Float[Tensor, "bin"],
        noise: bool = True,
    ) -> None:
        if not paths:
            raise ValueError("a set of scans needs one file at least")
        self._scans = [known.scan(noise) for known in known_scans(paths, air)]

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Scan:
        """One scan, without a batch axis."""
        return self._scans[index]

    def batches_of_one(self) -> list[Scan]:
        """Every scan with a batch axis; it shares its memory with the set."""
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


def known_scans(paths: Iterable[Path], air: Float[Tensor, "bin"]) -> Iterator[FlatFielded]:
    """Read scan files with known primary and scatter, one after the other, once each.

    Raises:
        ValueError: a file with dead pixels, or of another detector.
    """
    for path in paths:
        recorded = read_scan(path, NEEDED)
        if recorded.at("counts").isnan().any() or not (recorded.air > 0).all():
            raise ValueError(
                f"{path} has dead pixels (NaN counts, or air NaN or zero), which a network "
                "cannot learn from: leave this scan out"
            )
        yield flat_fielded(recorded, air)


def collate(scans: Sequence[Scan]) -> Scan:
    """A batch of scans."""
    stages = vars(scans[0])
    held = [name for name in stages if stages[name] is not None]
    return Scan(**{name: torch.stack([scan.at(name) for scan in scans]) for name in held})
