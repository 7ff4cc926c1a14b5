"""Tabulated detector response, measured or simulated."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.response.base import Above, Response, SAME_keV, columns_around
from pcctlearn.reading.arrays import Arrays, read_mat, read_npz
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.text import read_text
from pcctlearn.shapes import Edges, Energies
from pcctlearn.validation import require_positive

_LAYOUT = (
    "a .csv whose first line is '# unit: 1/keV' and whose table has a first row "
    "'deposited_keV,<energy>,<energy>,…' in keV, or an .npz or .mat with the arrays energies_keV, "
    "deposited_keV and response_per_keV (deposited, energy)"
)
_WHAT = "a detector response"
_NAMES = ("energies_keV", "deposited_keV", "response_per_keV")
_EVENTS = (0.01, 100.0)  # per photon; sums outside this range have another unit
_HIGHEST_keV = 1000.0  # larger numbers are energies in eV
_MISSED_EVENTS = 1e-6  # per photon, above the end of a sampled table


class Table(Response):
    """Density h(E; E') on a regular grid of registered energies, summed from the top.

    Between cell borders the sum is a cubic Hermite interpolant whose slopes are the limited
    harmonic means of F. N. Fritsch and R. E. Carlson (SIAM J. Numer. Anal. 17 (1980) 238). It is
    monotone, C¹, and differentiable in the edges and in the table.

    Args:
        energies_keV: photon energies of the columns.
        deposited_keV: centers of the cells of registered energy (rows), equally spaced.
        response_per_keV: events per keV and photon.
        widest_gap_keV: columns farther apart are not interpolated. The default is about the width
            of a photopeak due to electronic noise.
    """

    energies_keV: Tensor
    deposited_keV: Tensor
    response_per_keV: Tensor

    def __init__(
        self,
        energies_keV: Energies,
        deposited_keV: Float[Tensor, "deposited"],
        response_per_keV: Float[Tensor, "deposited energy"],
        *,
        widest_gap_keV: float = 2.0,
    ) -> None:
        super().__init__()
        self.widest_gap_keV = widest_gap_keV
        if response_per_keV.shape != (len(deposited_keV), len(energies_keV)):
            raise ValueError(
                f"response_per_keV must be (deposited, energy) = ({len(deposited_keV)}, "
                f"{len(energies_keV)}), got {tuple(response_per_keV.shape)}"
            )
        step = deposited_keV.diff()
        if len(step) < 2 or not torch.allclose(step, step[0]) or step[0] <= 0:
            raise ValueError(
                "deposited_keV must increase in equal steps and have at least three values"
            )
        for name, energies in (("energies_keV", energies_keV), ("deposited_keV", deposited_keV)):
            _check_energies(name, energies)
        apart = energies_keV.sort().values.diff()
        if energies_keV.min() <= 0 or (apart < SAME_keV).any():
            raise ValueError("energies_keV must be positive and distinct")
        if not (response_per_keV.isfinite().all() and (response_per_keV >= 0).all()):
            raise ValueError(
                "response_per_keV must be finite and not negative: set negative values to 0, and "
                "interpolate missing ones from neighbouring columns"
            )
        most = (response_per_keV.sum(0) * step[0]).max().item()
        if not _EVENTS[0] <= most <= _EVENTS[1]:
            raise ValueError(
                f"the response registers at most {most:.3g} events per photon, where 0.01 to 100 "
                "are possible: give response_per_keV as events per keV and photon"
            )
        self.register_buffer("energies_keV", energies_keV)
        self.register_buffer("deposited_keV", deposited_keV)
        self.register_buffer("response_per_keV", response_per_keV)

    @classmethod
    def from_file(cls, path: str | Path, widest_gap_keV: float = 2.0) -> "Table":
        """Read a response from CSV, which states its unit, or from NPZ or MAT.

        Units in NPZ and MAT follow from the array names: keV, and events per keV and photon.
        """
        arrays = read_response(Path(path))
        try:
            return cls(*arrays, widest_gap_keV=widest_gap_keV)
        except ValueError as error:
            raise ValueError(f"{path} is not a response: {error}") from None

    @classmethod
    @torch.no_grad()
    def sampled(
        cls,
        response: Response,
        energies_keV: Energies,
        step_keV: float = 0.5,
        highest_keV: float | None = None,
    ) -> "Table":
        """h(E_i; E') = [above(E_i − ΔE/2) − above(E_i + ΔE/2)] / ΔE, from E = 0 on.

        The table equals the response at cell borders and interpolates between them. Steps of
        0.5 keV suffice for the analytic responses, whose noise is three times as wide. The last
        cell is at ``highest_keV``, by default 20 keV above the photon energies.

        Raises:
            ValueError: a step that is not positive; events beyond ``highest_keV``.
        """
        require_positive(step_keV=step_keV)
        last = energies_keV.max().item() + 20 if highest_keV is None else highest_keV
        n_cells = math.ceil(last / step_keV)
        borders = step_keV * torch.arange(n_cells + 1).to(energies_keV)
        above = response.above(borders, energies_keV)
        if (missed := above[-1].max().item()) > _MISSED_EVENTS:
            raise ValueError(
                f"the response registers up to {missed:.2g} events per photon above {last:g} keV, "
                "the end of the table: raise highest_keV"
            )
        density = -above.diff(dim=0).clamp(max=0) / step_keV  # rounding can give −1e-17
        return cls(energies_keV, borders[:-1] + step_keV / 2, density)

    def above(self, edges_keV: Edges, energies_keV: Energies) -> Above:
        """Cubic Hermite interpolant of the summed table; ValueError for edges below it.

        At photon energies between columns the table is interpolated (``columns_around``). For the
        analytic responses of CdTe and silicon, with columns every 1 keV and a spectrum every
        0.5 keV, air counts of four bins have errors below 0.1 %, and those of 8 keV wide bins below
        0.2 %.
        """
        density = self._density(energies_keV).to(edges_keV)
        step = (self.deposited_keV[1] - self.deposited_keV[0]).to(edges_keV)
        lowest = self.deposited_keV[0].to(edges_keV) - step / 2

        none = torch.zeros_like(density[:1])
        border = torch.cat([(density * step).flip(0).cumsum(0).flip(0), none])
        falls = torch.cat([none, density, none])  # −slope of each cell, zero outside the table
        product, total = falls[1:] * falls[:-1], falls[1:] + falls[:-1]
        slope = -2 * product / torch.where(total > 0, total, 1)

        z = (edges_keV - lowest) / step
        if bool((z < -1e-3).any()):
            raise ValueError(
                f"a threshold of {edges_keV.min().item():g} keV lies below the registered energies "
                f"of the response, which begin at {lowest.item():g} keV"
            )
        z = z.clamp(0, len(density))
        cell = z.detach().long().clamp(max=len(density) - 1)
        t = (z - cell)[..., None]
        rise, stay = t**2 * (3 - 2 * t), t * (1 - t)
        return (
            border[cell] * (1 - rise)
            + border[cell + 1] * rise
            + step * stay * (slope[cell] * (1 - t) - slope[cell + 1] * t)
        )

    def _density(self, energies_keV: Energies) -> Float[Tensor, "deposited energy"]:
        around = columns_around(self.energies_keV, energies_keV, self.widest_gap_keV)
        density = self.response_per_keV
        share = around.share.to(density)
        mixed = torch.lerp(density[:, around.left], density[:, around.right], share)
        if not around.shift_keV.any():
            return mixed
        step = self.deposited_keV[1] - self.deposited_keV[0]
        rows = torch.arange(len(mixed), device=mixed.device)[:, None]
        source = (rows - around.shift_keV.to(density) / step).clamp(0, len(mixed) - 1)
        lower = source.long()
        upper = (lower + 1).clamp(max=len(mixed) - 1)
        return torch.lerp(mixed.gather(0, lower), mixed.gather(0, upper), source - lower)


def _check_energies(name: str, energies_keV: Tensor) -> None:
    """Raise ValueError for energies that are not finite or are in eV."""
    if not energies_keV.isfinite().all():
        raise ValueError(f"{name} must be finite, got {energies_keV.tolist()}")
    if (highest := energies_keV.max().item()) > _HIGHEST_keV:
        raise ValueError(f"{name} runs to {highest:g} keV: if that is in eV, divide {name} by 1000")


def read_response(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Photon energies and registered energies (keV) and h (1/keV); pickles are never loaded."""
    if not path.is_file():
        raise FileNotFoundError(f"no response at {path}: give {_LAYOUT}")
    called = (path, _NAMES, _WHAT, f"give {_LAYOUT}")
    if path.suffix == ".csv":
        arrays = _read_csv(path)
    elif path.suffix == ".npz":
        arrays = read_npz(*called)
    elif path.suffix == ".mat":
        arrays = read_mat(*called)
        arrays |= {
            name: arrays[name].ravel() for name in _NAMES[:2]
        }  # row or column vectors in MATLAB
    else:
        raise ValueError(f"{path} is not a response (suffix {path.suffix!r}): give {_LAYOUT}")
    energies, deposited, density = (
        torch.from_numpy(arrays[name].astype(np.float64)) for name in _NAMES
    )
    if not energies.ndim == deposited.ndim == 1 or density.shape != (
        *deposited.shape,
        *energies.shape,
    ):
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in _NAMES)
        raise ValueError(f"{path} is not a response (shapes {shapes}): give {_LAYOUT}")
    return energies, deposited, density


def _read_csv(path: Path) -> Arrays:
    text = read_text(path, _WHAT, f"give {_LAYOUT}")
    with readable(path, _WHAT, f"give {_LAYOUT}"):
        lines = text.splitlines()
        if not lines or lines[0].replace(" ", "") != "#unit:1/keV":
            raise ValueError(f"its first line is {lines[0] if lines else ''!r}")
        rows = [line.split(",") for line in lines if line and not line.startswith("#")]
        if len(rows) < 2:
            raise ValueError("it has no table")
        if rows[0][0] != "deposited_keV":
            raise ValueError(f"its first column is {rows[0][0]!r}")
        table = np.array([[float(cell) for cell in row] for row in rows[1:]])
        energies = np.array([float(cell) for cell in rows[0][1:]])
    return dict(zip(_NAMES, (energies, table[:, 0], table[:, 1:]), strict=True))
