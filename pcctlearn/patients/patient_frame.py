"""The transform from scanner to patient coordinates: a 4 × 4 matrix, both in cm."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pcctlearn.validation import FloatArray

# for objects without a CT: x points to the patient's left, y to the front and z to the head
UPRIGHT = np.diag([-1.0, 1.0, 1.0, 1.0])


class PlacedCase(NamedTuple):
    """Density maps of ``materials`` on the grid of a scan.

    ``scanner_to_patient`` takes (x, y, z, 1) of the scanner to (R, A, S, 1) of the CT, both in cm;
    it is ``None`` for an object without a CT.
    """

    maps: Float[Tensor, "material z y x"]
    scanner_to_patient: FloatArray | None
    materials: tuple[str, ...] = ("water", "calcium")


def frame_faults(scanner_to_patient: FloatArray) -> Iterator[str]:
    """Faults of a matrix that should take scanner to patient coordinates, one sentence each."""
    if scanner_to_patient.shape != (4, 4):
        yield (
            f"scanner_to_patient has shape {scanner_to_patient.shape}: store a 4 × 4 matrix that "
            "takes (x, y, z, 1) in cm to (R, A, S, 1) in cm"
        )
    elif not np.isfinite(scanner_to_patient).all():
        yield "scanner_to_patient holds NaN or infinite values: leave it out if it is unknown"
    elif not np.array_equal(scanner_to_patient[3], [0, 0, 0, 1]):
        yield (
            f"the last row of scanner_to_patient must be 0 0 0 1, got "
            f"{scanner_to_patient[3].tolist()}: transpose it if the shift is in that row"
        )
    elif np.linalg.cond(scanner_to_patient[:3, :3]) > 1e6:
        yield (
            "scanner_to_patient cannot be inverted, because its columns are linearly dependent: "
            "leave it out if it is unknown"
        )
