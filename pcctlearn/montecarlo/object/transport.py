"""Monte Carlo estimate of object scatter, view by view."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pcctlearn.montecarlo.object.analog_numba import analog
from pcctlearn.montecarlo.object.forced_numba import forced
from pcctlearn.montecarlo.object.scene import Scene, TubeSpectrum, scene_of
from pcctlearn.montecarlo.object.tracking_numba import N_LEDGER, Panel
from pcctlearn.montecarlo.tally import Accumulator, relative_noise, smoothing_matrix
from pcctlearn.physics.attenuation import Material
from pcctlearn.shapes import Energies, Fluence
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

N_KINDS = 4  # primary, single Compton, single Rayleigh and multiple scatter
_CHUNKS_AT_ONCE = 8


@dataclass(frozen=True)
class Tally:
    """Photons of one view, (chunk, kind, row, column, group), each chunk an independent estimate.

    A tally without kinds has one. ``ledger`` (chunk, column) holds energies in keV and numbers of
    interactions, summed over histories; the columns are named in tracking_numba.
    """

    values: NDArray[np.float64]
    ledger: NDArray[np.float64]


def follow(
    scene: Scene,
    panel: Panel,
    seed: int,
    n_chunks: int,
    n_histories: int,
    first_chunk: int = 0,
    n_points: int | None = 4,
    by_kind: bool = False,
) -> Tally:
    """Follow n_chunks · n_histories photons of one view.

    Results are bit-identical for any number of threads and any partition into calls.

    Args:
        n_points: points of the panel at which each interaction is scored (next-event estimator);
            None: analog transport, which tallies primary photons as well.
        by_kind: tally primary, single Compton, single Rayleigh and multiple scatter separately.
    """
    n_kinds = N_KINDS if by_kind or n_points is None else 1
    n_groups = len(scene.spectrum.groups_keV)
    values = np.zeros((n_chunks, n_kinds, *scene.tallied.shape[1:], n_groups))
    ledger = np.zeros((n_chunks, N_LEDGER))
    first = first_chunk * n_histories
    inputs = (panel, scene.voxels, scene.tables, scene.energies)
    if n_points is None:
        analog(*inputs, seed, first, n_histories, values, ledger)
    else:
        zeros = (0.0,) * scene.voxels.density.shape[-1]
        forced(*inputs, n_points, seed, first, n_histories, zeros, values, ledger)
    values *= scene.photons(panel) / n_histories
    return Tally(values, ledger)


@dataclass(frozen=True)
class ScatterEstimate:
    """Scattered photons of one view and their statistical error.

    Args:
        photons: incident on the panel, at each energy of groups_keV; ``counts`` applies a detector
            response.
        standard_error: of the counts, for the response given to the simulation.
        relative_noise: mean of standard error over scatter where scatter is strong.
        n_histories: photons followed.
    """

    photons: Float[Tensor, "group row column"]
    groups_keV: Energies
    standard_error: Float[Tensor, "bin row column"]
    relative_noise: Float[Tensor, "bin"]
    n_histories: int

    def counts(
        self, registered: Float[Tensor, "*pixel bin group"]
    ) -> Float[Tensor, "bin row column"]:
        """Σ_g R_b(g) N_g: counts in each bin; the response is shared or per pixel."""
        photons = self.photons.movedim(0, -1)[..., None]
        return (registered.to(photons) @ photons)[..., 0].movedim(-1, 0)


@dataclass(frozen=True)
class ObjectScatter:
    """Scatter by forced detection to a requested accuracy, smoothed over the panel.

    Args:
        accuracy: largest mean ratio of standard error to scatter in any bin, over pixels with more
            than 0.3 of the maximum scatter.
        smoothing_cm: σ on the panel of a local quadratic regression. At 3.6 cm its bias for a head
            is 0.7 % on average and 2 % along the edge of the projection; the standard error does
            not include it.
        pixel_cm: approximate pixel size of the tallied panel.
        voxel_cm: the object is rebinned to voxels up to this size.
        n_points: points of the panel at which each interaction is scored.
        group_stride: scatter is tallied at every n-th energy of the spectrum.
        chunk_histories: photons in a chunk; errors come from the variance between chunks.
        max_histories: limit on the photons of a view, at least 8 chunks; if it is reached before
            the accuracy, a warning is logged.
    """

    accuracy: float = 0.02
    smoothing_cm: float = 3.6
    pixel_cm: float = 0.48
    voxel_cm: float = 0.4
    n_points: int = 8
    group_stride: int = 2
    chunk_histories: int = 1000
    max_histories: int = 2_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("smoothing_cm", "voxel_cm"):
                require_positive(**{name: value})
            elif not value >= 0:
                raise ValueError(f"{name} of the scatter simulation must be 0 or more, got {value}")

    def scene(
        self,
        maps: Float[Tensor, "material z y x"],
        grid: VolumeGrid,
        materials: Sequence[Material],
        geometry: ConeBeam,
        energies_keV: Energies,
        fluence: Fluence,
    ) -> Scene:
        """Prepare densities in g/cm³ for transport, rebinned as these settings allow."""
        spectrum = TubeSpectrum(energies_keV, fluence, self.group_stride)
        return scene_of(
            maps,
            grid,
            materials,
            geometry,
            spectrum,
            pixel_cm=self.pixel_cm,
            voxel_cm=self.voxel_cm,
        )

    def estimate(
        self, scene: Scene, view: int, registered: Float[Tensor, "bin group"], seed: int
    ) -> ScatterEstimate:
        """Estimate the scatter of a view; ``registered`` is the counts per photon of each group."""
        n_groups = len(scene.spectrum.groups_keV)
        if registered.shape[-1] != n_groups:
            raise ValueError(
                f"registered must have a column for each of {n_groups} groups, got "
                f"{registered.shape[-1]}: evaluate the response at the spectrum's groups_keV"
            )
        panel = scene.panel(view)
        view_seed = int(np.random.SeedSequence([seed, view]).generate_state(1, np.uint64)[0] >> 1)
        bins_of_groups = registered.detach().cpu().numpy()
        true, tallied = scene.geometry, scene.tallied
        smooth_rows = smoothing_matrix(true.rows_cm, tallied.rows_cm, self.smoothing_cm)
        smooth_columns = smoothing_matrix(true.columns_cm, tallied.columns_cm, self.smoothing_cm)
        photons, bins, chunk = np.zeros(()), Accumulator(), 0
        while True:
            tally = follow(
                scene, panel, view_seed, _CHUNKS_AT_ONCE, self.chunk_histories, chunk, self.n_points
            )
            for values in tally.values[:, 0]:
                counted = np.moveaxis(values @ bins_of_groups.T, -1, 0)
                bins.add(smooth_rows @ counted @ smooth_columns.T)
                photons = photons + values
            chunk += _CHUNKS_AT_ONCE
            noise = relative_noise(bins.mean, bins.standard_error)
            n_histories = chunk * self.chunk_histories
            if noise.max() <= self.accuracy or n_histories >= self.max_histories:
                break
        if noise.max() > self.accuracy:
            log.warning(
                "view %d: the scatter error is %.2g %% after %d photons, above %.2g %%: raise "
                "max_histories",
                view,
                100 * noise.max(),
                n_histories,
                100 * self.accuracy,
            )
        # tallied pixels and true pixels differ in size
        share = true.row_cm * true.column_cm / (tallied.row_cm * tallied.column_cm)
        smooth = smooth_rows @ np.moveaxis(photons, -1, 0) @ smooth_columns.T / chunk
        return ScatterEstimate(
            torch.from_numpy(smooth * share).clamp(min=0),
            scene.spectrum.groups_keV,
            torch.from_numpy(bins.standard_error * share),
            torch.from_numpy(noise),
            n_histories,
        )
