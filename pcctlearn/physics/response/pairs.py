"""Covariance of energy bins due to photons registered more than once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.response.base import Response, columns_around
from pcctlearn.physics.spectral_model import expected_counts
from pcctlearn.reading.arrays import read_npz
from pcctlearn.shapes import Attenuation, Edges, Energies, RayLineIntegrals

_NAMES = ("energies_keV", "borders_keV", "upper_quanta", "quantum")


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of different events of one photon, E[n_i n_j − δ_ij n_i] for cells i, j.

    Args:
        energies_keV: photon energies.
        borders_keV: borders of the cells of registered energy.
        pairs_per_photon: (energy, cell, cell), symmetric in the cells.
    """

    energies_keV: Energies
    borders_keV: Float[Tensor, "border"]
    pairs_per_photon: Float[Tensor, "energy cell cell"]

    def __post_init__(self) -> None:
        n_energies, n_cells = len(self.energies_keV), len(self.borders_keV) - 1
        if self.pairs_per_photon.shape != (n_energies, n_cells, n_cells):
            raise ValueError(
                f"pairs_per_photon must be ({n_energies}, {n_cells}, {n_cells}), got "
                f"{tuple(self.pairs_per_photon.shape)}"
            )
        if n_cells < 1 or not (self.borders_keV.diff() > 0).all():
            raise ValueError(f"borders_keV must increase, got {self.borders_keV.tolist()}")
        for name in ("energies_keV", "borders_keV", "pairs_per_photon"):
            values = getattr(self, name)
            if not (values.isfinite().all() and (name == "borders_keV" or (values >= 0).all())):
                raise ValueError(
                    f"{name} must be finite and not negative: simulate the pairs again"
                )

    @classmethod
    def from_file(cls, path: str | Path) -> "Pairs":
        """Read the .npz written with a simulated response; pickles are never loaded."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no pairs of events at {path}: simulate them together with the response, by "
                "`python simulate.py detector=<name>`"
            )
        remedy = f"give an .npz with the arrays {', '.join(_NAMES[:-1])} and {_NAMES[-1]}"
        arrays = read_npz(path, _NAMES, "the pairs of events of a response", remedy)
        energies, borders, quanta, quantum = (
            torch.from_numpy(arrays[name].astype(np.float64)) for name in _NAMES
        )
        n_cells = borders.numel() - 1
        wanted = (
            (energies.numel(),),
            (n_cells + 1,),
            (energies.numel(), n_cells * (n_cells + 1) // 2),
        )
        shapes = (tuple(energies.shape), tuple(borders.shape), tuple(quanta.shape))
        if shapes != wanted or quantum.numel() != 1:
            raise ValueError(f"{path} holds no pairs of events (its shapes are {shapes}): {remedy}")
        rows, columns = torch.triu_indices(n_cells, n_cells)
        pairs = torch.zeros(len(energies), n_cells, n_cells, dtype=torch.float64)
        pairs[:, rows, columns] = quanta * quantum
        pairs[:, columns, rows] = quanta * quantum
        try:
            return cls(energies, borders, pairs)
        except ValueError as error:
            raise ValueError(f"{path} holds no pairs of events: {error}") from None

    def between(self, edges_keV: Edges, energies_keV: Energies) -> Float[Tensor, "energy bin bin"]:
        """E[n_b n_b' − δ_bb' n_b] of the bins between edges, for pairs uniform within a cell."""
        around = columns_around(self.energies_keV, energies_keV)
        borders = self.borders_keV.to(edges_keV)
        if (edges_keV < borders[0] - 1e-3).any():
            raise ValueError(
                f"an edge of {edges_keV.min().item():g} keV lies below the registered energies, "
                f"which begin at {borders[0].item():g} keV"
            )
        low = torch.maximum(edges_keV[:-1, None], borders[:-1])
        high = torch.minimum(edges_keV[1:, None], borders[1:])
        inside = (high - low).clamp(min=0) / borders.diff()
        pairs = self.pairs_per_photon
        share = around.share.to(pairs)[:, None, None]
        chosen = torch.lerp(pairs[around.left], pairs[around.right], share)
        return inside @ chosen.to(edges_keV) @ inside.T


def pair_counts(
    pairs: Pairs,
    line_integrals: RayLineIntegrals,
    edges_keV: Edges,
    energies_keV: Energies,
    fluence: Energies,
    attenuation: Attenuation,
) -> Float[Tensor, "*ray bin bin"]:
    """Λ_bc(A) = Σ_E' S(E') exp(−μ·A) E[n_b n_c − δ_bc n_b], by which counts exceed Poisson noise.

    The covariance of the counts ȳ(A) is diag ȳ + Λ.
    """
    together = pairs.between(edges_keV, energies_keV).to(line_integrals) * fluence[:, None, None]
    flat = expected_counts(
        line_integrals, together.flatten(1).mT.to(line_integrals), attenuation.to(line_integrals)
    )
    return flat.unflatten(-1, together.shape[1:])


def bin_covariance(
    response: Response,
    pairs: Pairs,
    edges_keV: Edges,
    energies_keV: Energies,
    fluence: Float[Tensor, "*ray energy"],
) -> Float[Tensor, "*ray bin bin"]:
    """Cov(N_b, N_b') = Σ_E' S(E') E[n_b n_b'], S Poisson: the compound Poisson distribution.

    n_b are the events of one photon in bin b; the mean counts are Σ_E' S(E') E[n_b]. Poisson
    counts, of photons registered at most once, have the diagonal matrix of the means instead.
    """
    above = response.above(edges_keV, energies_keV)
    means = fluence @ (above[:-1] - above[1:]).mT
    together = torch.einsum("ebc,...e->...bc", pairs.between(edges_keV, energies_keV), fluence)
    return torch.diag_embed(means) + together


def write_pairs(path: Path, pairs: Pairs, quantum: float = 1e-6) -> None:
    """Write plain arrays: the upper triangle of the cells in whole quanta, (energy, cell pair)."""
    n_cells = len(pairs.borders_keV) - 1
    rows, columns = torch.triu_indices(n_cells, n_cells)
    quanta = (pairs.pairs_per_photon[:, rows, columns] / quantum).round()
    with path.open("wb") as file:  # given a name, numpy would append .npz
        np.savez_compressed(
            file,
            energies_keV=pairs.energies_keV.numpy(),
            borders_keV=pairs.borders_keV.numpy(),
            upper_quanta=quanta.numpy().astype(np.int32),
            quantum=np.float64(quantum),
        )
