"""Decomposition in the image domain: basis materials from images above each threshold."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.beam_hardening import (
    BeamHardening,
    beam_hardening,
    over_pixels,
    spectra_above,
)
from pcctlearn.decomposition.bone_correction import (
    BONE_G_CM3,
    LEAST_OVER_WATER,
    BoneCorrection,
    bone_correction,
)
from pcctlearn.decomposition.inputs import check
from pcctlearn.decomposition.polynomial import LEAST_PHOTONS
from pcctlearn.physics.attenuation import attenuation_table, mass_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.shapes import (
    Counts,
    Energies,
    LineIntegrals,
    RayCounts,
    channels_first,
    channels_last,
)
from pcctlearn.solvers.quadratic import Solution
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.projector import projector
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

_LONGER, _SHARE_LONGER = 1.02, 1e-3  # noise, and rays through metal, are no reason to warn
_TYPICAL_G_CM2 = 20.0  # of water, behind which more thresholds than materials are weighted


@dataclass(frozen=True)
class ImageInverse:
    """f = M⁻¹ image at every voxel, with M_jm = (μ/ρ)_m(E_j) [2, eq. 25].

    With more thresholds than materials it is the least-squares solution (Mᵀ W M)⁻¹ Mᵀ W, where W
    is the inverse covariance of the images.

    Args:
        attenuation: M in cm²/g.
        inverse: M⁻¹ in g/cm².
    """

    attenuation: Float[Tensor, "threshold material"]
    inverse: Float[Tensor, "material threshold"]

    @classmethod
    def at(
        cls,
        materials: Sequence[str],
        effective_keV: Energies,
        covariance: Float[Tensor, "threshold threshold"] | None = None,
    ) -> "ImageInverse":
        """The inverse at these effective energies.

        Args:
            materials: the basis.
            effective_keV: of the images.
            covariance: of the images, up to a factor; by default they are independent.

        Raises:
            ValueError: more materials than images.
        """
        return cls.of(attenuation_table(materials, effective_keV).mT, covariance)

    @classmethod
    def of(
        cls,
        attenuation: Float[Tensor, "threshold material"],
        covariance: Float[Tensor, "threshold threshold"] | None = None,
    ) -> "ImageInverse":
        """The inverse of this M; arguments and errors as in ``at``."""
        M = attenuation.double()
        n, n_materials = M.shape
        if n_materials > n:
            raise ValueError(
                f"{n} thresholds do not determine {n_materials} basis materials: choose at most as "
                "many materials=[…] as there are thresholds"
            )
        C = torch.eye(n, dtype=M.dtype) if covariance is None else covariance.double()
        weighted = torch.linalg.solve(C, M).mT
        return cls(M, torch.linalg.solve(weighted @ M, weighted))

    @property
    def condition(self) -> float:
        """Ratio of the singular values of M."""
        return torch.linalg.cond(self.attenuation).item()

    def __call__(
        self, images: Sequence[Float[Tensor, "*voxel"]], grids: Sequence[SliceGrid] = ()
    ) -> Float[Tensor, "material *voxel"]:
        """Density maps in g/cm³ from images in 1/cm.

        Args:
            images: one for each threshold.
            grids: of the images, where they are known.

        Raises:
            ValueError: images of different grids, or another number of them.
        """
        n_thresholds = self.inverse.shape[1]
        if len(images) != n_thresholds:
            raise ValueError(
                f"got {len(images)} images for {n_thresholds} thresholds: give one for each"
            )
        shapes = [tuple(image.shape) for image in images]
        if len(set(shapes)) > 1 or any(grid != grids[0] for grid in grids):
            named = [str(grid) for grid in grids] or shapes
            raise ValueError(
                "the images have different grids, "
                + " and ".join(map(str, dict.fromkeys(named)))
                + ": reconstruct all thresholds on one grid"
            )
        stacked = torch.stack(list(images), -1)
        return (stacked @ self.inverse.mT.to(stacked)).movedim(-1, 0)

    def covariance(
        self, of_images: Float[Tensor, "*voxel threshold threshold"]
    ) -> Float[Tensor, "*voxel material material"]:
        """M⁻¹ C M⁻ᵀ for the covariance C of the images."""
        inverse = self.inverse.to(of_images)
        return inverse @ of_images @ inverse.mT


def attenuation_behind(
    water_cm: float, model: SpectralModel, hardening: BeamHardening
) -> Float[Tensor, "threshold material"]:
    """M_jm = ∂p_c,j/∂A_m of a thin layer behind water: its attenuation in images above thresholds.

    The correction for water leaves this, not (μ/ρ)_m(E_j), of a material in water, since water has
    hardened the beam; for water both are the same.

    Args:
        water_cm: length of the water.
        model: the scanner, whose pixels are averaged.
        hardening: correction of a pixel of these spectra.
    """
    spectra = over_pixels(spectra_above(model)).double()
    behind = spectra * torch.exp(-water_cm * mass_attenuation("water", model.energies_keV.double()))
    p = -(behind.sum(-1) / spectra.sum(-1)).log()
    mean = behind @ model.attenuation.double().mT / behind.sum(-1, keepdim=True)
    return hardening.slope(p)[:, None] * mean


class ImageDomain(Decomposition):
    """Projections above each threshold, corrected for beam hardening, then ``ImageInverse``.

    Counts above each threshold are corrected for the hardening of water with the spectra of every
    pixel, and for that of bone in a second pass where a basis material is bone. M⁻¹ is the same in
    every voxel and therefore commutes with a linear reconstruction: it is applied to the corrected
    projections, so that the maps are those of the images, and a chain needs no other stage. The
    line integrals are those that the images have; unlike those of other decompositions, they are
    exact for water alone.

    Bone needs the reconstruction of a scan (``of_scan``); without it, the hardening of bone is not
    corrected. ``converged`` is True where half a photon or more was counted above every threshold.
    Gradients reach the counts; the corrections are fitted to the spectra once, when this is built.

    Args:
        model: the scanner.
        correct_bone: correct the hardening of bone if calcium or cortical_bone is in the basis.
        least_over_water: attenuation of bone over that of water.
        n_passes: of the correction for bone.
        longest_cm: of the water that the correction is fitted to.
        effective_keV: of each threshold; by default the mean energy of the photons that a nominal
            pixel counts in air.
        water_cm: typical length of water around the materials, behind which M holds
            (``attenuation_behind``), such as for iodine; by default M holds at the effective
            energies, as it does where bone is corrected.
    """

    def __init__(
        self,
        model: SpectralModel,
        correct_bone: bool = True,
        least_over_water: float = LEAST_OVER_WATER,
        n_passes: int = 2,
        longest_cm: float = 26.0,
        effective_keV: Sequence[float] | None = None,
        water_cm: float | None = None,
    ) -> None:
        super().__init__(model)
        require_positive(longest_cm=longest_cm, n_passes=n_passes)
        if water_cm is not None and water_cm < 0:
            raise ValueError(
                f"water_cm must not be negative, got {water_cm:g}: use decomposition.water_cm=null "
                "for the effective energies"
            )
        if least_over_water <= 1:
            raise ValueError(
                f"least_over_water must exceed 1, that of water, got {least_over_water:g}: use "
                "decomposition.least_over_water=1.3"
            )
        self.least_over_water, self.n_passes, self.longest_cm = (
            least_over_water,
            n_passes,
            longest_cm,
        )
        self.bone = [name for name in BONE_G_CM3 if correct_bone and name in model.materials]
        self.hardening = beam_hardening(
            spectra_above(model), model, effective_keV=effective_keV, longest_cm=longest_cm
        )
        keV = self.hardening.effective_keV
        if not (keV.diff() > 0).all():
            raise ValueError(
                f"effective_keV must increase with the threshold, got {keV.tolist()}: use "
                "decomposition.effective_keV=null for the mean energies"
            )
        M = attenuation_table(model.materials, keV).mT
        if water_cm is not None:
            M = attenuation_behind(water_cm, model, self._of_mean_pixel())
        self.inverse = ImageInverse.of(M, self._typical_covariance())
        self._bone: BoneCorrection | None = None
        self._imaging: tuple[Callable[[Tensor], Tensor], LinearOperator] | None = None

    def of_scan(
        self, geometry: Geometry, grid: SliceGrid, reconstruct: Callable[[Tensor], Tensor]
    ) -> "ImageDomain":
        """Correct bone with this reconstruction and the projector of the same geometry."""
        if self.bone:
            self._imaging = reconstruct, projector(geometry, grid)
        return self

    def forward(self, counts: Counts) -> Solution:
        """Line integrals (batch, material, view, *pixel) in g/cm², and the mask ``converged``."""
        p, counted = self._projections(counts)
        p = self.hardening(p)
        self._warn_of_longer(p)
        if self._imaging is not None:
            correct = self._bone_correction()
            p = correct.of_images(p, *self._imaging, self.least_over_water, self.n_passes)
        return Solution(channels_first(p @ self.inverse.inverse.mT.to(p)), counted)

    def count_jacobian(
        self, counts: Counts, line_integrals: LineIntegrals | None = None
    ) -> Float[Tensor, "batch view *pixel material bin"]:
        """∂x/∂n_b = −Σ_{j ≤ b} M⁻¹_j ∂p_c,j/∂p_j / N_j, in g/cm² per photon.

        Logarithm, correction for water, and M⁻¹. The correction for bone changes it by a few per
        cent, which is left out.
        """
        p, _ = self._projections(counts)
        above = above_from_bins(channels_last(counts)).clamp(min=LEAST_PHOTONS)
        slope = self.hardening.slope(p) / above
        return -(self.inverse.inverse.to(slope) * slope[..., None, :]).cumsum(-1)

    def _projections(self, counts: Counts) -> tuple[RayCounts, Tensor]:
        """−ln(N/N_air) above each threshold, and where photons were counted above all."""
        rays = channels_last(counts)
        spectra = self.model.spectra().detach().to(rays)
        check(rays, spectra, self.model.attenuation.to(rays))
        above, air = above_from_bins(rays), above_from_bins(spectra.sum(-1))
        counted = (above >= LEAST_PHOTONS).all(-1)
        return -(above.clamp(min=LEAST_PHOTONS) / air).log(), counted

    @torch.no_grad()
    def _warn_of_longer(self, p: RayCounts) -> None:
        """Name the water that rays would need, beyond which the polynomial is extrapolated."""
        cm = (p[..., -1] / self.hardening.water_per_cm[-1].to(p)).flatten()
        share = float((cm > _LONGER * self.longest_cm).double().mean())
        if share > _SHARE_LONGER:
            longest = float(cm.sort().values[-1 - int(_SHARE_LONGER * len(cm))])
            log.warning(
                "%.3g %% of the rays are attenuated like more than the %g cm of water that the "
                "correction of beam hardening is fitted to: use decomposition.longest_cm=%.0f",
                100 * share,
                self.longest_cm,
                math.ceil(1.1 * longest),
            )

    def _bone_correction(self) -> BoneCorrection:
        if self._bone is None:
            spectra = spectra_above(self.model)
            self._bone = bone_correction(
                spectra, self.model, self.hardening, BONE_G_CM3[self.bone[0]]
            )
        return self._bone

    def _of_mean_pixel(self) -> BeamHardening:
        spectra = over_pixels(spectra_above(self.model))
        keV = self.hardening.effective_keV.tolist()
        return beam_hardening(spectra, self.model, effective_keV=keV, longest_cm=self.longest_cm)

    def _typical_covariance(self) -> Float[Tensor, "threshold threshold"]:
        """Covariance of the projections of a typical pixel behind much water."""
        energies = self.model.energies_keV.double()
        behind = torch.exp(-_TYPICAL_G_CM2 * mass_attenuation("water", energies))
        above = over_pixels(spectra_above(self.model).double()) @ behind
        return _shared(above) / (above[:, None] * above)


def _shared(above: Float[Tensor, "*ray threshold"]) -> Float[Tensor, "*ray threshold threshold"]:
    """Counts above both of two thresholds: those above the higher one."""
    higher = torch.arange(above.shape[-1], device=above.device)
    return above[..., torch.maximum(higher[:, None], higher)]
