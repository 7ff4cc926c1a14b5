"""Scan files as a data set to learn from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.utils.data import Dataset

from pcctlearn.datasets.recorded_scan import RecordedScan
from pcctlearn.datasets.scan_file import read_scan
from pcctlearn.physics.noise import unscattered
from pcctlearn.scan import Scan

NEEDED = ("counts", "primary", "scatter")


class ScanSet(Dataset):
    """Scans with their scatter-free truth, flat-field corrected, float32, kept in memory.

    Counts are multiplied by air of the model over air of the pixel: what each would count if all
    pixels were lit alike, which leaves the likelihood's minimum where it was. A scan's
    corrected_counts are its primary counts, its scatter_fraction scatter over both. Where counts
    are noisy, the primary counts are those photons among them that did not scatter: what the same
    scan would have counted without scatter, with the same noise.

    Args:
        paths: of the scan files.
        air: (bin) of the model that will decompose them.
        noise: counts as measured; else primary and scatter without noise.
        seed: of which photons had scattered.

    ``gains`` (bin, 1, row, column) are the factors of each scan.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        air: Float[Tensor, "bin"],
        noise: bool = True,
        seed: int = 0,
    ) -> None:
        if not paths:
            raise ValueError("a set of scans needs one file at least")
        self.names = [path.stem for path in paths]
        generator = Generator().manual_seed(seed)
        self.gains, self._scans = [], []
        for path in paths:
            recorded = read_scan(path, NEEDED)
            if len(recorded.air) != len(air):
                raise ValueError(
                    f"{path} has {len(recorded.air)} bins, the model {len(air)}: choose the "
                    "thresholds that the scan was made with"
                )
            gain = (air[:, None, None] / recorded.air)[:, None].float()
            self.gains.append(gain)
            self._scans.append(truth_of(recorded, gain, generator if noise else None))

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Scan:
        """One scan, without a batch axis."""
        return self._scans[index]


def truth_of(recorded: RecordedScan, gain: Tensor, generator: Generator | None = None) -> Scan:
    """Counts, scattered fraction and primary counts of a simulated scan.

    Without a generator all are as expected; with one the counts are as measured.
    """
    primary, scatter = recorded.at("primary"), recorded.at("scatter")
    fraction = scatter / (primary + scatter)
    counts = primary + scatter
    if generator is not None:
        counts = recorded.at("counts")
        primary = unscattered(counts, fraction, generator)
    return Scan(counts=counts * gain, scatter_fraction=fraction, corrected_counts=primary * gain)


def collate(scans: Sequence[Scan]) -> Scan:
    """A batch of scans."""
    stages = vars(scans[0])
    held = [name for name in stages if stages[name] is not None]
    return Scan(**{name: torch.stack([scan.at(name) for scan in scans]) for name in held})
