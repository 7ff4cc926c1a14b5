"""The panel of a bench: its pixels, the columns and rows missing between modules, its mask."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Shaped

Missing = Mapping[int, int]


@dataclass(frozen=True)
class Panel:
    """Pixels of the raw frames, and pixels that lie between modules and are not in the frames.

    Args:
        n_rows, n_columns: of the raw frames.
        missing_rows, missing_columns: {n: m}: m rows or columns are missing after the first n.
    """

    n_rows: int
    n_columns: int
    missing_rows: Missing = field(default_factory=dict)
    missing_columns: Missing = field(default_factory=dict)

    @property
    def raw_shape(self) -> tuple[int, int]:
        """Rows and columns of the raw frames."""
        return self.n_rows, self.n_columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole panel."""
        return tuple(
            n + sum(missing.values())
            for n, missing in zip(
                self.raw_shape, (self.missing_rows, self.missing_columns), strict=True
            )
        )  # type: ignore[return-value]

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the panel for each row and column of the raw frames."""
        return (
            _positions(self.n_rows, self.missing_rows),
            _positions(self.n_columns, self.missing_columns),
        )

    def spread(
        self, values: Shaped[np.ndarray, "*any raw_row raw_column"], missing: float | bool
    ) -> Shaped[np.ndarray, "*any row column"]:
        """Values of the raw frames at their place on the panel, and ``missing`` in the gaps."""
        panel = np.full((*values.shape[:-2], *self.shape), missing, values.dtype)
        rows, columns = self.positions()
        panel[..., rows[:, None], columns] = values
        return panel

    def gaps(self) -> Float[np.ndarray, "row column"]:
        """1 in the gaps, 0 elsewhere."""
        return self.spread(np.zeros(self.raw_shape), 1.0)


def _positions(n: int, missing: Missing) -> np.ndarray:
    places = np.arange(n)
    return places + sum((m * (places >= after) for after, m in missing.items()), np.zeros(n, int))
