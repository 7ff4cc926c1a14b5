"""Scan files as a data set to learn from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.utils.data import Dataset

from pcctlearn.datasets.recorded_scan import RecordedScan
from pcctlearn.datasets.scan_file import read_scan
from pcctlearn.physics.noise import draw_counts
from pcctlearn.scan import Scan

NEEDED = ("counts", "primary", "scatter")


class ScanSet(Dataset):
    """Scans with their scatter-free truth, flat-field corrected, float32, kept in memory.

    Counts are multiplied by air of the model over air of the pixel: what each would count if all
    pixels were lit alike, which leaves the likelihood's minimum where it was. A scan's
    corrected_counts are its primary counts, its scatter_fraction scatter over both.

    Args:
        paths: of the scan files.
        air: (bin) of the model that will decompose them.
        noise: counts as measured; else primary and scatter without noise.
        redraw: draw the noise anew each time a scan is taken, from its expected counts.

    ``gains`` (bin, 1, row, column) are the factors of each scan.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        air: Float[Tensor, "bin"],
        noise: bool = True,
        redraw: bool = False,
        seed: int = 0,
    ) -> None:
        if not paths:
            raise ValueError("a set of scans needs one file at least")
        self.names = [path.stem for path in paths]
        self.redraw = redraw and noise
        self._generator = Generator().manual_seed(seed)
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
            self._scans.append(truth_of(recorded, gain, noise))

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Scan:
        """One scan, without a batch axis."""
        scan, gain = self._scans[index], self.gains[index]
        if not self.redraw:
            return scan
        expected = scan.at("corrected_counts") / (1 - scan.at("scatter_fraction"))
        counts = draw_counts(expected / gain, self._generator) * gain
        return replace(scan, counts=counts)


def truth_of(recorded: RecordedScan, gain: Tensor, noise: bool) -> Scan:
    """Counts, scattered fraction and primary counts of a simulated scan."""
    primary, scatter = recorded.at("primary"), recorded.at("scatter")
    counts = recorded.at("counts") if noise else primary + scatter
    return Scan(
        counts=counts * gain,
        scatter_fraction=scatter / (primary + scatter),
        corrected_counts=primary * gain,
    )


def collate(scans: Sequence[Scan]) -> Scan:
    """A batch of scans."""
    stages = vars(scans[0])
    held = [name for name in stages if stages[name] is not None]
    return Scan(**{name: torch.stack([scan.at(name) for scan in scans]) for name in held})
