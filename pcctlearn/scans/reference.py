"""What a scatter correction learns from: scatter-free counts of the objects that are scanned."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pcctlearn.physics.noise import draw_counts, generator_of
from pcctlearn.scan import Scan
from pcctlearn.scans.flat_field import FlatFielded
from pcctlearn.validation import require_positive


@runtime_checkable
class Reference(Protocol):
    """Counts of a scan without scatter, as a laboratory could know them.

    ``title`` completes "The reference is …". ``needed`` names the parts of a scan file that it is
    made from. ``known`` is False if there are no scatter-free counts.
    """

    title: str
    needed: tuple[str, ...]
    known: bool

    def of(self, scan: FlatFielded) -> Scan:
        """Measured counts, scatter-free counts, and the fraction that is missing in the latter."""
        ...


@dataclass(frozen=True)
class SecondScan:
    """The same object scanned again without scatter, such as through slits, with its own noise.

    The scatter-free counts are r = Poisson(d ȳ)/d for expected primary counts ȳ, and the scatter
    fraction is 1 − r/y, which noise can make negative.

    Args:
        dose: d, that of the second scan relative to the first.
        seed: of its noise, which also depends on the name of the scan.
    """

    dose: float = 1.0
    seed: int = 0

    needed = ("counts", "primary")
    known = True

    def __post_init__(self) -> None:
        require_positive(dose=self.dose)

    @property
    def title(self) -> str:
        """What completes "The reference is …"."""
        dose = "the same dose" if self.dose == 1 else f"{self.dose:g} times the dose"
        return f"a second scan without scatter, with noise of its own and {dose}"

    def of(self, scan: FlatFielded) -> Scan:
        """Counts of both scans."""
        generator = generator_of(self.seed, f"noise of the reference, {scan.recorded.name}")
        counts = draw_counts(self.dose * scan.recorded.at("primary"), generator) / self.dose
        return _with_reference(scan.counts, scan.prepared(counts))


@dataclass(frozen=True)
class Measured:
    """The primary counts of the scan file as they are, such as those of a second, real scan.

    A simulated file holds expected counts, which have no noise.
    """

    title = "the primary counts of the scan files, as they are"
    needed = ("counts", "primary")
    known = True

    def of(self, scan: FlatFielded) -> Scan:
        """Counts of both scans."""
        return _with_reference(scan.counts, scan.prepared(scan.recorded.at("primary")))


@dataclass(frozen=True)
class KnownObject:
    """Expected counts behind an object whose line integrals are known, such as a phantom.

    They have no noise, and need neither a simulation of scatter nor a second scan.
    """

    title = "the expected counts behind objects that are known"
    needed = ("counts", "line_integrals", "spectrum", "response")
    known = True

    @torch.no_grad()
    def of(self, scan: FlatFielded) -> Scan:
        """Measured counts, and those that the spectral model expects without scatter."""
        model = scan.recorded.spectral_model()
        if model is None:
            raise ValueError(
                f"the scan {scan.recorded.name!r} holds no spectrum or response, which the counts "
                "behind a known object need: add them (docs/scan_file.md), or use "
                "reference=independent"
            )
        rays = model(scan.recorded.at("line_integrals").double().movedim(0, -1)).movedim(-1, 0)
        relative = rays / model.air()[:, None, None, None]
        expected = relative.float() * scan.recorded.air[:, None]
        if scan.recorded.exposure is not None:
            expected = expected * scan.recorded.exposure.float()[:, None, None]
        return _with_reference(scan.counts, scan.prepared(expected))


@dataclass(frozen=True)
class SharedNoise:
    """The scan's own counts without the scattered fraction that a simulation knows.

    No laboratory can measure it: counts and reference have the same noise, which cancels in any
    loss that compares them.
    """

    title = (
        "the scan's own noisy counts without the simulated scatter, which cannot be measured: "
        "their noise is that of the input, and cancels in the loss"
    )
    needed = ("counts", "primary", "scatter")
    known = True

    def of(self, scan: FlatFielded) -> Scan:
        """Measured counts, and the same without scatter."""
        return scan.scan()


@dataclass(frozen=True)
class NoReference:
    """The scan alone, for losses that compare with nothing (losses=self_supervised)."""

    title = "none: the correction learned from the scans themselves"
    needed = ("counts",)
    known = False

    def of(self, scan: FlatFielded) -> Scan:
        """Measured counts."""
        return Scan(counts=scan.counts)


def _with_reference(counts: Tensor, reference: Tensor) -> Scan:
    fraction = torch.where(counts > 0, 1 - reference / counts, 0.0)
    return replace(Scan(counts=counts), scatter_fraction=fraction, corrected_counts=reference)
