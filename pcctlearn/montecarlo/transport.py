"""Scatter of an object, view by view, by following photons."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pcctlearn.montecarlo.analog_kernel import analog
from pcctlearn.montecarlo.forced_kernel import forced
from pcctlearn.montecarlo.scene import Beam, Scene, scene_of
from pcctlearn.montecarlo.tally import Accumulator, relative_noise, smoothing_matrix
from pcctlearn.montecarlo.tracking import N_LEDGER, Panel
from pcctlearn.physics.attenuation import Material
from pcctlearn.shapes import Energies as EnergyGrid
from pcctlearn.shapes import Fluence
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.grids import require_positive

log = logging.getLogger(__name__)

N_KINDS = 4  # primary, Compton once, Rayleigh once, multiple: kinds of a tally, in this order
_CHUNKS_AT_ONCE = 8


@dataclass(frozen=True)
class Tally:
    """values (chunk, kind, row, column, group) photons of one view, as each chunk estimates them.

    A tally that does not tell kinds apart has one. ledger (chunk, column): energies in keV of all
    histories' photons, and numbers of interactions, as tracking names its columns.
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

    The same numbers whatever the number of threads, and however the chunks are shared out.

    Args:
        n_points: points of the panel that each interaction is scored at; None: follow the photons
            as nature does (analog), which also tallies the primary ones.
        by_kind: tell primary, single Compton, single Rayleigh and multiple scatter apart.
    """
    n_kinds = N_KINDS if by_kind or n_points is None else 1
    n_groups = len(scene.beam.groups_keV)
    values = np.zeros((n_chunks, n_kinds, *scene.shape, n_groups))
    ledger = np.zeros((n_chunks, N_LEDGER))
    first = first_chunk * n_histories
    scenery = (panel, scene.voxels, scene.tables, scene.energies)
    if n_points is None:
        analog(*scenery, seed, first, n_histories, values, ledger)
    else:
        nowhere = (0.0,) * scene.voxels.density.shape[-1]
        forced(*scenery, n_points, seed, first, n_histories, nowhere, values, ledger)
    values *= scene.photons(panel) / n_histories
    return Tally(values, ledger)


@dataclass(frozen=True)
class ScatterEstimate:
    """Scattered photons (group, row, column) of one view, and how well they are known.

    In photons that arrive, of each energy in groups_keV: what is counted depends on the detector,
    ``counts``. standard_error (bin, row, column) is that of the counts, for the response that
    the simulation went by; relative_noise (bin) is its mean over where scatter is strong.
    """

    photons: Float[Tensor, "group row column"]
    groups_keV: EnergyGrid
    standard_error: Float[Tensor, "bin row column"]
    relative_noise: Float[Tensor, "bin"]
    n_histories: int

    def counts(
        self, registered: Float[Tensor, "*pixel bin group"]
    ) -> Float[Tensor, "bin row column"]:
        """Σ_g R_b(g) N_g: counts in each bin, for one response or one for each pixel."""
        photons = self.photons.movedim(0, -1)[..., None]
        return (registered.to(photons) @ photons)[..., 0].movedim(-1, 0)


class ObjectScatter:
    """Forced detection until every bin is as accurate as asked, then smoothing.

    Args:
        accuracy: standard error over scatter, averaged over where scatter is strong (above 0.3 of
            its largest), in the noisiest bin.
        smoothing_cm: σ on the panel of a local quadratic regression. At 3.6 cm its bias, on a head,
            is 0.7 % on average and 2 % along the shadow's edge, below what is asked for; it is in
            no error given.
        pixel_cm: of the panel that photons are tallied on, about.
        voxel_cm: the object's voxels are joined up to this size.
        n_points: points of the panel that each interaction is scored at.
        group_stride: scatter is tallied at each so-many-th energy of the spectrum.
        chunk_histories: photons in a chunk; errors come from the differences between chunks.
        max_histories: photons after which it goes on no longer, and says so in the log; 8 chunks
            are the least.
    """

    def __init__(
        self,
        accuracy: float = 0.02,
        smoothing_cm: float = 3.6,
        pixel_cm: float = 0.48,
        voxel_cm: float = 0.4,
        n_points: int = 8,
        group_stride: int = 2,
        chunk_histories: int = 1000,
        max_histories: int = 2_000_000,
    ) -> None:
        require_positive(
            accuracy=accuracy,
            pixel_cm=pixel_cm,
            n_points=n_points,
            group_stride=group_stride,
            chunk_histories=chunk_histories,
            max_histories=max_histories,
        )
        for name, value in {"smoothing_cm": smoothing_cm, "voxel_cm": voxel_cm}.items():
            if not value >= 0:
                raise ValueError(f"{name} of the scatter simulation must be 0 or more, got {value}")
        self.accuracy, self.smoothing_cm, self.pixel_cm = accuracy, smoothing_cm, pixel_cm
        self.voxel_cm, self.n_points, self.group_stride = voxel_cm, n_points, group_stride
        self.chunk_histories, self.max_histories = chunk_histories, max_histories

    def scene(
        self,
        maps: Float[Tensor, "material z y x"],
        materials: Sequence[Material],
        geometry: ConeBeam,
        energies_keV: EnergyGrid,
        fluence: Fluence,
    ) -> Scene:
        """Densities in g/cm³ in this beam, as coarse as these settings allow."""
        beam = Beam(energies_keV, fluence, self.group_stride)
        return scene_of(
            maps, materials, geometry, beam, pixel_cm=self.pixel_cm, voxel_cm=self.voxel_cm
        )

    def estimate(
        self, scene: Scene, view: int, registered: Float[Tensor, "bin group"], seed: int
    ) -> ScatterEstimate:
        """Scatter in one view, whose bins count ``registered`` photons of each group."""
        n_groups = len(scene.beam.groups_keV)
        if registered.shape[-1] != n_groups:
            raise ValueError(
                f"registered must have a column for each of {n_groups} groups, got "
                f"{registered.shape[-1]}: take the response at the beam's groups_keV"
            )
        panel = scene.panel(view)
        view_seed = int(np.random.SeedSequence([seed, view]).generate_state(1, np.uint64)[0] >> 1)
        bins_of_groups = registered.detach().cpu().numpy()
        rows_cm, columns_cm = scene.positions_cm()
        smooth_rows = smoothing_matrix(scene.geometry.rows_cm, rows_cm, self.smoothing_cm)
        smooth_columns = smoothing_matrix(scene.geometry.columns_cm, columns_cm, self.smoothing_cm)
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
                "view %d: scatter is known to %.2g %% after %d photons, not to %.2g %%: raise "
                "max_histories",
                view,
                100 * noise.max(),
                n_histories,
                100 * self.accuracy,
            )
        # a pixel of the tallied panel is not as large as one of the true panel
        share = scene.geometry.row_cm * scene.geometry.column_cm / np.prod(scene.pixel_cm)
        smooth = smooth_rows @ np.moveaxis(photons, -1, 0) @ smooth_columns.T / chunk
        return ScatterEstimate(
            torch.from_numpy(smooth * share).clamp(min=0),
            scene.beam.groups_keV,
            torch.from_numpy(bins.standard_error * share),
            torch.from_numpy(noise),
            n_histories,
        )
