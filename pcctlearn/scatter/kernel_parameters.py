"""Parameters of scatter kernels for every bin and thickness group, and their file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.files.atomic import written_whole
from pcctlearn.reading.damaged import damaged
from pcctlearn.reading.text import read_json
from pcctlearn.validation import require_positive

QUANTITY = "scatter kernels of each bin and thickness group"
KERNEL = ("amplitude_per_cm2", "alpha", "beta", "sigma1_cm", "share", "sigma2_cm", "residual")
_WATER = ("water_rates", "water_weights")

BinGroup = Float[Tensor, "bin group"]


@dataclass(frozen=True)
class KernelParameters:
    """Scatter c g(r) at the distance r from a pencil beam, with transmission T in the highest bin.

    c = A T^α L^β and g = exp(−r²/2σ1²) + B exp(−r²/2σ2²), with L = −ln T. It is scatter per cm² of
    the panel and per primary photon of the highest bin; scatter and primary are relative to the
    counts of their bin in air.

    Behind water of depth L in the highest bin, the primary of bin b is T_b = Σ_k w_bk exp(−a_k L).

    Attributes:
        amplitude_per_cm2, alpha, beta, sigma1_cm, share, sigma2_cm: A, α, β, σ1, B and σ2.
        residual: root mean square residual of the fit, over the peak of each profile.
        water_rates, water_weights: a and w.
        borders_cm: thicknesses of water that separate the groups, one fewer than groups.
        water_per_cm: L of 1 cm of water.
        source_to_detector_cm: distance in the scanner of the fit.
        passport: provenance, {name: value}.
    """

    amplitude_per_cm2: BinGroup
    alpha: BinGroup
    beta: BinGroup
    sigma1_cm: BinGroup
    share: BinGroup
    sigma2_cm: BinGroup
    residual: BinGroup
    water_rates: Float[Tensor, "term"]
    water_weights: Float[Tensor, "bin term"]
    borders_cm: Sequence[float]
    water_per_cm: float
    source_to_detector_cm: float
    passport: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (self.n_bins, len(self.borders_cm) + 1)
        shapes = dict.fromkeys(KERNEL, shape)
        shapes["water_weights"] = (self.n_bins, len(self.water_rates))
        for name, wanted in shapes.items():
            values = getattr(self, name)
            if tuple(values.shape) != wanted:
                raise ValueError(
                    f"{name} of the scatter kernels must have the shape {wanted}, for "
                    f"{self.n_bins} bins and borders_cm {list(self.borders_cm)}, got "
                    f"{tuple(values.shape)}"
                )
            least = -float("inf") if name == "alpha" else 0
            if not (values.isfinite().all() and values.min() >= least):
                raise ValueError(f"{name} of the scatter kernels must be finite and not negative")
        if not min(self.sigma1_cm.min(), self.sigma2_cm.min(), self.beta.min()) > 0:
            raise ValueError("sigma1_cm, sigma2_cm and beta of scatter kernels must be positive")
        borders = list(self.borders_cm)
        if borders != sorted(set(borders)) or min(borders, default=1) <= 0:
            raise ValueError(f"borders_cm must be positive and increase, got {borders}")
        require_positive(
            water_per_cm=self.water_per_cm, source_to_detector_cm=self.source_to_detector_cm
        )

    @property
    def n_bins(self) -> int:
        """Number of energy bins."""
        return len(self.amplitude_per_cm2)

    def plain(self) -> dict[str, Any]:
        """All values as lists, numbers and strings."""
        return {
            "quantity": QUANTITY,
            "passport": dict(self.passport),
            "borders_cm": list(self.borders_cm),
            "water_per_cm": self.water_per_cm,
            "source_to_detector_cm": self.source_to_detector_cm,
            **{name: getattr(self, name).tolist() for name in (*KERNEL, *_WATER)},
        }

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "KernelParameters":
        """Inverse of ``plain``; KeyError, TypeError or ValueError for other contents."""
        if content["quantity"] != QUANTITY:
            raise ValueError(f"it contains {content['quantity']!r}")
        values: dict[str, Any] = {
            name: _numbers(name, content[name]) for name in (*KERNEL, *_WATER, "borders_cm")
        }
        values["borders_cm"] = values["borders_cm"].tolist()
        for name in ("water_per_cm", "source_to_detector_cm"):
            if (value := _numbers(name, content[name])).ndim:
                raise ValueError(f"{name} is not a number")
            values[name] = value.item()
        passport = {str(key): str(value) for key, value in dict(content["passport"]).items()}
        return cls(**values, passport=passport)

    def save(self, path: str | Path) -> None:
        """Write the parameters and their provenance as JSON."""
        with written_whole(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.plain(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "KernelParameters":
        """Read a file of ``save``.

        Raises:
            FileNotFoundError: no such file. ValueError: the file has no scatter kernels.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no scatter kernels at {path}: create them with "
                "pcctlearn.scatter.pencil_beams.fit_kernels(geometry, model).save(path)"
            )
        called = (path, "a file of scatter kernels")
        remedy = "give a file of KernelParameters.save"
        content = read_json(*called, remedy)
        try:
            return cls.from_plain(content)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(*called, error, remedy) from None


def _numbers(name: str, value: Any) -> Tensor:
    """A number, or nested lists of numbers, as a tensor."""
    try:
        numbers = torch.tensor(value, dtype=torch.float64)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a number or a table of numbers") from error
    if not numbers.isfinite().all():
        raise ValueError(f"{name} contains NaN or infinity")
    return numbers
