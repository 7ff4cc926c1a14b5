"""Flat-field correction: scale each pixel's counts to the air of the model, fill dead pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.physics.noise import draw_counts, generator_of
from pcctlearn.scan import Scan
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, filled, listed, require_all_views
from pcctlearn.scans.record import ScanRecord

Pixels = Bool[Tensor, "row column"]


@dataclass(frozen=True)
class FlatFielded:
    """A scan with corrected counts n · gain, where gain = air of the model / (air · exposure).

    The exposure is that of the view, relative to the air of the pixel. If all bins of a ray have
    the same gain, the minimum of the likelihood does not move. Dead pixels are filled
    from their neighbours. All arrays are float32, without a batch axis.
    """

    recorded: ScanRecord
    gain: Float[Tensor, "bin #view row column"]
    dead: Pixels

    @property
    def counts(self) -> Float[Tensor, "bin view row column"]:
        """The measured counts, corrected."""
        return self.prepared(self.recorded.at("counts"))

    @property
    def has_truth(self) -> bool:
        """Whether primary and scatter are known."""
        return self.recorded.primary is not None and self.recorded.scatter is not None

    @property
    def has_noise(self) -> bool:
        """Whether the measured counts differ from the expected ones."""
        expected = self.prepared(self.recorded.at("primary") + self.recorded.at("scatter"))
        return not torch.allclose(self.counts, expected, rtol=1e-5, atol=0)

    def scan(self, noise: bool = True) -> Scan:
        """Counts, scatter fraction and scatter-free counts, if primary and scatter are known.

        fraction = scatter / (primary + scatter), without noise; corrected_counts =
        counts · (1 − fraction), with the noise of the counts.

        Args:
            noise: use the measured counts; otherwise primary + scatter without noise.
        """
        primary, scatter = self.recorded.at("primary"), self.recorded.at("scatter")
        both = primary + scatter
        fraction = torch.where(both > 0, scatter / both, 0.0)
        counts = self.gain * (self.recorded.at("counts") if noise else both)
        return Scan(
            counts=filled(counts, self.dead),
            scatter_fraction=filled(fraction, self.dead),
            corrected_counts=filled(counts * (1 - fraction), self.dead),
        )

    def noisy_primary(self, seed: int) -> Float[Tensor, "bin view row column"]:
        """Primary counts with new Poisson noise, drawn from the seed and the name of the scan."""
        generator = generator_of(seed, f"noise of primary counts, {self.recorded.name}")
        return self.prepared(draw_counts(self.recorded.at("primary"), generator))

    def in_pixels(self, scan: Scan) -> Scan:
        """Divide counts and corrected_counts by the gain: photons as in the file."""
        stages = {name: getattr(scan, name) for name in ("counts", "corrected_counts")}
        divided = {name: n / self.gain for name, n in stages.items() if n is not None}
        return Scan(**{**vars(scan), **divided})

    def prepared(self, counts: Tensor) -> Tensor:
        """Counts of the pixels of the file on the scale of the model, dead pixels filled."""
        return filled(counts * self.gain, self.dead)


def flat_fielded(
    recorded: ScanRecord, air: Float[Tensor, "*pixel bin"], dead: Pixels | None = None
) -> FlatFielded:
    """Correct a scan so that every pixel has the air of the model, and every view its exposure.

    Args:
        recorded: a scan with counts.
        air: counts of the model with nothing in the beam.
        dead: pixels to fill from their neighbours; by default none.

    Raises:
        ValueError: the model has another number of bins.
    """
    if len(recorded.air) != air.shape[-1]:
        raise ValueError(
            f"{recorded.name} has {len(recorded.air)} bins, the model {air.shape[-1]}: choose the "
            "thresholds that the scan was made with"
        )
    if dead is None:
        dead = torch.zeros(recorded.air.shape[1:], dtype=torch.bool)
    pixels = air[:, None, None] if air.ndim == 1 else air.movedim(-1, 0)
    gain = filled((pixels.float() / recorded.air)[:, None].float(), dead)
    if recorded.exposure is not None:
        gain = gain / recorded.exposure.float()[:, None, None]
    return FlatFielded(recorded, gain, dead)


def pixels_to_fill(
    recorded: ScanRecord, max_dead_share: float, others: Mapping[str, Pixels] | None = None
) -> dict[str, Pixels]:
    """Dead pixels of a measured scan, by kind, and ``others`` that must be filled as well.

    Raises:
        ValueError: views are missing, or more than ``max_dead_share`` of the pixels are dead.
    """
    counts = recorded.at("counts")
    require_all_views(counts)
    kinds = dead_pixels(counts, recorded.air) | dict(others or {})
    dead = any_of(kinds)
    if (share := dead.double().mean().item()) > max_dead_share:
        accepted = math.ceil(100 * share) / 100
        remedy = (
            f", or fill that many from their neighbours with max_dead_share={accepted:g}"
            if accepted < 1
            else ""
        )
        raise ValueError(
            f"{int(dead.sum())} of {dead.numel()} pixels are dead ({100 * share:.3g} %; "
            f"{listed(kinds)}), more than max_dead_share={max_dead_share:g}: correct counts and "
            f"air{remedy}"
        )
    return kinds
