"""Scan files as a data set to learn from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from pcctlearn.datasets.recorded_scan import RecordedScan
from pcctlearn.datasets.scan_file import read_scan
from pcctlearn.scan import Scan

NEEDED = ("counts", "primary", "scatter")


class ScanSet(Dataset):
    """Scans with their scatter-free truth, flat-field corrected, float32, kept in memory.

    Counts are multiplied by air of the model over air of the pixel: what each would count if all
    pixels were lit alike. Where the bins of a pixel share this factor, it leaves the likelihood's
    minimum where it was. A scan's scatter_fraction is scatter over primary and scatter, as
    expected, and its corrected_counts are what that fraction leaves of the counts. Of noisy counts
    they are the expected number that did not scatter, so that truth and counts share their noise
    and the true fraction has no error.

    Args:
        paths: of the scan files.
        air: (bin) of the model that will decompose them.
        noise: counts as measured; else primary and scatter without noise.

    ``gains`` (bin, 1, row, column) are the factors of each scan.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        air: Float[Tensor, "bin"],
        noise: bool = True,
    ) -> None:
        if not paths:
            raise ValueError("a set of scans needs one file at least")
        self.names = [path.stem for path in paths]
        self.gains, self._scans = [], []
        for path in paths:
            recorded = read_scan(path, NEEDED)
            if recorded.at("counts").isnan().any() or not (recorded.air > 0).all():
                raise ValueError(
                    f"{path} has dead pixels (NaN counts, or air NaN or zero), which a network "
                    "cannot learn from: leave this scan out"
                )
            if len(recorded.air) != len(air):
                raise ValueError(
                    f"{path} has {len(recorded.air)} bins, the model {len(air)}: choose the "
                    "thresholds that the scan was made with"
                )
            gain = (air[:, None, None] / recorded.air)[:, None].float()
            self.gains.append(gain)
            self._scans.append(truth_of(recorded, gain, noise))

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Scan:
        """One scan, without a batch axis."""
        return self._scans[index]


def truth_of(recorded: RecordedScan, gain: Tensor, noise: bool) -> Scan:
    """Counts of a simulated scan, measured or expected, and the share that did not scatter."""
    primary, scatter = recorded.at("primary"), recorded.at("scatter")
    both = primary + scatter
    fraction = torch.where(both > 0, scatter / both, 0.0)
    counts = gain * (recorded.at("counts") if noise else both)
    return Scan(counts=counts, scatter_fraction=fraction, corrected_counts=counts * (1 - fraction))


def collate(scans: Sequence[Scan]) -> Scan:
    """A batch of scans."""
    stages = vars(scans[0])
    held = [name for name in stages if stages[name] is not None]
    return Scan(**{name: torch.stack([scan.at(name) for scan in scans]) for name in held})
