"""Counts of frames added up, saturated pixels found, and dark counts subtracted."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Integer

from pcctlearn.bench.description import Bench, Exposure
from pcctlearn.bench.log import FrameLog, read_log
from pcctlearn.bench.stacks import Frames

MOST_BROKEN = 0.1  # share of the pixels of an exposure; more are refused
MOST_DARK = 0.1  # of the counts in air, by the median pixel
MOST_VARIANCE = 1.1  # of net counts over the counts; beyond it a pixel is noisy

Pixels = Bool[np.ndarray, "raw_row raw_column"]
Above = Float[np.ndarray, "threshold raw_row raw_column"]


@dataclass(frozen=True)
class Summed:
    """The frames of one or several exposures, added.

    Args:
        counts: registered above each threshold, exact.
        n_frames: number of frames.
        monitor: sum of the readings; the number of frames where there is no log.
        saturated: pixels of which a counter reached its limit in a frame.
    """

    counts: Integer[np.ndarray, "threshold raw_row raw_column"]
    n_frames: int
    monitor: float
    saturated: Pixels

    def __add__(self, other: "Summed") -> "Summed":
        return Summed(
            self.counts + other.counts,
            self.n_frames + other.n_frames,
            self.monitor + other.monitor,
            self.saturated | other.saturated,
        )


@dataclass(frozen=True)
class Dark:
    """Counts without beam of n_dark frames, summed; none where there are no dark frames."""

    counts: Integer[np.ndarray, "threshold raw_row raw_column"]
    n_frames: int

    @property
    def per_frame(self) -> Above:
        """d̄ = D/n_dark."""
        return self.counts / self.n_frames

    def subtracted(self, summed: Summed) -> tuple[Above, Pixels]:
        """Net counts S − n d̄, and pixels in which they are noise.

        Their variance is S + n² D/n_dark², that of net counts without dark ones S − n d̄: a pixel
        is noisy if the former exceeds the latter by more than a tenth.
        """
        n = summed.n_frames
        net = summed.counts - n * self.per_frame
        variance = summed.counts + (n / self.n_frames) ** 2 * self.counts
        return net, (variance > MOST_VARIANCE * net).any(0)


class Reader:
    """Reads the exposures of a bench, without its masked pixels.

    Args:
        bench: the description.
        masked: pixels of the mask, which are ignored where pixels are counted.
    """

    def __init__(self, bench: Bench, masked: Pixels) -> None:
        self.bench, self.masked = bench, masked

    def frames(self, exposure: Exposure) -> Frames:
        """The frames of an exposure."""
        bench = self.bench
        try:
            return Frames(
                exposure.where,
                exposure.files,
                len(bench.thresholds_keV),
                bench.panel.raw_shape,
                bench.raw,
            )
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{bench.file}: {error}") from None

    def log(self, exposure: Exposure, n_frames: int) -> FrameLog:
        """The log of an exposure; ones where it has none."""
        if exposure.log is None:
            return FrameLog(np.ones(n_frames), None)
        try:
            return read_log(exposure.where, exposure.log, n_frames)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{self.bench.file}: {error}") from None

    def views(
        self, exposure: Exposure, per_view: int
    ) -> Iterator[tuple[int, Integer[np.ndarray, "view threshold raw_row raw_column"], Pixels]]:
        """Blocks of views of some frames each: first view, counts, and saturated pixels."""
        frames = self.frames(exposure)
        limit = self._limit(frames)
        for start, block in frames.blocks(per_view):
            if (negative := (block < 0).any((0, 1)) & ~self.masked).any():
                place = tuple(np.argwhere(negative)[0].tolist())
                raise ValueError(
                    f"{self.bench.file}: {exposure.where} ({_names(exposure)}) has negative counts "
                    f"in {int(negative.sum())} pixels, the first at {place}: correct raw.dtype, or "
                    "mark the pixels that the detector marks so in detector.mask"
                )
            full = np.asarray((block >= limit).any((0, 1)))
            views = block.reshape(-1, per_view, *block.shape[1:]).sum(1, dtype=np.int64)
            yield start // per_view, views, full

    def summed(self, exposure: Exposure) -> Summed:
        """All frames of an exposure.

        Raises:
            ValueError: more than a tenth of the pixels are saturated, or count more above a higher
                threshold.
        """
        shape = (len(self.bench.thresholds_keV), *self.bench.panel.raw_shape)
        total = Summed(np.zeros(shape, np.int64), 0, 0.0, np.zeros(shape[1:], bool))
        for _, counts, full in self.views(exposure, 1):
            total += Summed(counts.sum(0), len(counts), 0.0, full)
        self.require_counters(exposure, total)
        readings = self.log(exposure, total.n_frames).monitor
        return replace(total, monitor=float(readings.sum()))

    def dark(self) -> Dark:
        """The dark frames; no counts where none were measured."""
        bench = self.bench
        if bench.dark is None:
            shape = (len(bench.thresholds_keV), *bench.panel.raw_shape)
            return Dark(np.zeros(shape, np.int64), 1)
        frames = self.frames(bench.dark)
        counts = sum((block.sum(0, dtype=np.int64) for _, block in frames.blocks()), np.int64(0))
        return Dark(np.asarray(counts), frames.n_frames)

    def require_counters(self, exposure: Exposure, summed: Summed) -> None:
        """Raise ValueError if in many pixels counters reached their limit, or counts rise.

        Counts above a threshold are never more than those above the one below it.
        """
        where = f"{self.bench.file}: {exposure.where} ({_names(exposure)})"
        good, keV = ~self.masked, self.bench.thresholds_keV
        most = MOST_BROKEN * good.sum()
        rising = summed.counts[1:] > summed.counts[:-1]
        for index, found in enumerate(rising & good):
            if found.sum() > most:
                raise ValueError(
                    f"{where}: {int(found.sum())} of {int(good.sum())} pixels count more above "
                    f"{keV[index + 1]:g} keV than above {keV[index]:g} keV: list the files from "
                    "the lowest threshold to the highest, with counts above thresholds, not in "
                    "bins, or correct raw.dtype"
                )
        if (found := summed.saturated & good).sum() > most:
            raise ValueError(
                f"{where}: {int(found.sum())} of {int(good.sum())} pixels reached "
                f"{self._limit(self.frames(exposure))}, the limit of their counters: measure with "
                "less tube current or shorter frames, or correct detector.counter_bits"
            )

    def _limit(self, frames: Frames) -> int:
        """The greatest count of the counters, or of the numbers in the files."""
        bits = self.bench.counter_bits
        return frames.most if bits is None else min(frames.most, 2**bits - 1)


def require_beam(bench: Bench, dark: Dark, air: Summed, masked: Pixels) -> None:
    """Raise ValueError if the dark frames have counts of the beam, by the median pixel."""
    if bench.dark is None:
        return
    without, beam = (
        np.median(values[:, ~masked], 1) for values in (dark.per_frame, air.counts / air.n_frames)
    )
    if (without > MOST_DARK * beam).any():
        index = int((without - MOST_DARK * beam).argmax())
        raise ValueError(
            f"{bench.file}: dark ({_names(bench.dark)}) has {without[index]:.4g} counts a frame "
            f"above {bench.thresholds_keV[index]:g} keV in the median pixel, air "
            f"{beam[index]:.4g}: exchange the files of dark and air, or measure dark frames with "
            "the shutter closed"
        )


def _names(exposure: Exposure) -> str:
    return ", ".join(path.name for path in exposure.files)
