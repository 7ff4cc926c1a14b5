"""What a phantom scan cannot tell apart, in words: weak directions of its information matrix."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.detector_rays import RegisteredCounts
from pcctlearn.calibration.layer_problem import Unknowns
from pcctlearn.calibration.shared_unknowns import SharedUnknowns, Vector
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.solvers.arrow import Arrow, ArrowCovariance

_LEAST_PART = 0.2  # of the largest one, in tolerances
_CORRELATED = 0.95
_MOST_PARTS = 4

Covariance = Float[Tensor, "unknown unknown"]


class Unknown(NamedTuple):
    """One number: its name, its unit, the size of one unit in the fit, and what error matters.

    ``tolerance`` is in the unit; directions are weak or strong relative to it.
    """

    name: str
    unit: str
    size: float
    tolerance: float


def unknowns_of_pixels(unknowns: SharedUnknowns, skew: Sequence[str]) -> list[Unknown]:
    """ln k, thicknesses and thresholds, in their order."""
    lowest, *others = unknowns.thresholds_keV
    return [
        Unknown("gain", "%", 0.01, 1.0),
        *(Unknown(f"{name} skew", "µm", 1e-4, 1.0) for name in skew),
        Unknown(f"the lowest threshold ({lowest:g} keV)", "keV", 1.0, 0.05),
        *(Unknown(f"the threshold of {keV:g} keV", "keV", 1.0, 0.05) for keV in others),
    ]


def unknowns_shared(unknowns: SharedUnknowns, shared: Vector) -> list[Unknown]:
    """Dead times and amplitude, in their order."""
    tau = shared[: unknowns.n_times].clamp(min=1e-3)
    names = unknowns.names()
    times = [
        Unknown(name.removesuffix(" (ns)"), "ns", 1.0, 0.02 * float(t))
        for name, t in zip(names, tau, strict=False)
    ]
    square = Unknown("the square of the nonparalysable dead time", "ns²", 1.0, float(tau[0]) ** 2)
    amplitude = [Unknown("the amplitude of the scatter", "%", 0.01, 1.0)][: unknowns.scatter]
    return [*times, square, *amplitude]


class Weak(NamedTuple):
    """A direction that the counts determine badly: one standard deviation of each unknown in it."""

    amounts: Float[Tensor, "unknown"]  # in the units of the fit

    def sentence(self, names: Sequence[Unknown], where: str) -> str:
        """ "+0.1 keV of A in where looks like −1 µm of B"."""
        sizes = torch.tensor([one.size for one in names], dtype=torch.float64)
        tolerances = torch.tensor([one.tolerance for one in names], dtype=torch.float64)
        amounts = self.amounts / sizes
        relative = (amounts / tolerances).abs()
        order = relative.argsort(descending=True).tolist()
        first = order[0]
        amounts = amounts * torch.sign(amounts[first])

        def part(index: int, sign: float) -> str:
            value = sign * float(amounts[index])
            return f"{value:+.2g} {names[index].unit} of {names[index].name}"

        others = [i for i in order[1:] if relative[i] > _LEAST_PART * relative[first]]
        text = f"{where}, {part(first, 1.0)}"
        if not others:
            return f"{text} changes the counts by no more than their noise"
        return f"{text} looks like {' and '.join(part(i, -1.0) for i in others[:_MOST_PARTS])}"


def weakest(covariance: Covariance, names: Sequence[Unknown], n: int = 1) -> list[Weak]:
    """Directions of the largest standard deviation in tolerances, the largest first."""
    scale = torch.tensor([one.size * one.tolerance for one in names], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance / scale[:, None] / scale)
    best = values.argsort(descending=True)[:n]
    return [Weak(vectors[:, i] * values[i].clamp(min=0).sqrt() * scale) for i in best]


def correlated(covariance: Covariance, names: Sequence[Unknown]) -> Iterator[str]:
    """A sentence for each pair of unknowns with a correlation beyond ±0.95."""
    sd = covariance.diagonal().clamp(min=0).sqrt()
    for i in range(len(names)):
        for j in range(i):
            r = float(covariance[i, j] / (sd[i] * sd[j]))
            if abs(r) > _CORRELATED:
                yield (
                    f"{names[j].name} and {names[i].name} have a correlation of {r:.3f}, so that "
                    f"errors of {'the same sign' if r > 0 else 'opposite signs'} go together"
                )


class Information(NamedTuple):
    """What the counts tell, with nothing assumed of the thresholds, or with their population.

    ``typical`` is the covariance of the median pixel with the shared unknowns known, ``means`` that
    of the means over the pixels and of the shared unknowns.
    """

    typical: Covariance
    means: Covariance

    @classmethod
    def of(cls, found: ArrowCovariance, n_shared: int) -> "Information":
        """Of the first ``n_shared`` shared unknowns."""
        alone = found.alone[found.sound]
        n = alone.shape[-1] + n_shared
        return cls(alone.median(0).values, found.of_means()[:n, :n])

    def sentences(self, of_pixel: Sequence[Unknown], shared: Sequence[Unknown]) -> list[str]:
        """The weakest direction of a pixel, two of the detector, and strong correlations."""
        pixel = weakest(self.typical, of_pixel)[0].sentence(of_pixel, "in one pixel")
        both = [
            *(one._replace(name=f"{one.name} of every pixel") for one in of_pixel), *shared
        ]  # fmt: skip
        common = [one.sentence(both, "in common") for one in weakest(self.means, both, 2)]
        return [pixel, *common, *correlated(self.means, both)]

    def standard_deviations(
        self, of_pixel: Sequence[Unknown], shared: Sequence[Unknown]
    ) -> tuple[list[float], list[float]]:
        """Of the unknowns of the median pixel, and of means and shared unknowns, in their units."""
        sizes = [one.size for one in of_pixel]
        pixel = self.typical.diagonal().clamp(min=0).sqrt() / torch.tensor(sizes)
        both = torch.tensor([*sizes, *(one.size for one in shared)])
        means = self.means.diagonal().clamp(min=0).sqrt() / both
        return pixel.tolist(), means.tolist()


def taken_for(
    counts: RegisteredCounts,
    x: Unknowns,
    shared: Vector,
    arrow: Arrow,
    material: str = "aluminium",
    thickness_cm: float = 0.01,
) -> tuple[Float[Tensor, "unknown"], Vector]:
    """Errors of the fit where the tube has a filter that its spectrum lacks.

    Returns:
        Mean error of the unknowns of the pixels, and of the shared ones.
    """
    filtered = linear_attenuation([material], counts.model.energies_keV)[0]
    local, of_shared = counts.along_spectrum(x, shared, -thickness_cm * filtered)
    padded = torch.nn.functional.pad(of_shared, (0, len(arrow.corner) - len(of_shared)))
    of_pixels, of_all = arrow.solve(local, padded)
    return of_pixels.mean(0), of_all[: len(shared)]
