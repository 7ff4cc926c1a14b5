"""Evaluation of one scan file with the scanner that it records."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.chain import Chain
from pcctlearn.evaluation.count_noise import (
    CountCovariance,
    count_covariance,
    counted_together,
    scaled_covariance,
)
from pcctlearn.evaluation.cut_off import cut_off_percent, cut_off_warning
from pcctlearn.evaluation.judge import judge
from pcctlearn.evaluation.noise import Covariance, RayNoise, noise_numbers
from pcctlearn.evaluation.scan_chain import SCANNER, ScanChains
from pcctlearn.evaluation.truth import errors_from_truth
from pcctlearn.evaluation.unpiled import unpiled
from pcctlearn.metrics.errors import ErrorTable
from pcctlearn.physics.attenuation import DENSITY_G_CM3
from pcctlearn.physics.noise import generator_of
from pcctlearn.physics.response.pairs import Pairs
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.scans.dead_pixels import any_of, filled, listed
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.flat_field import FlatFielded, Pixels, flat_fielded, pixels_to_fill
from pcctlearn.scans.record import ScanRecord
from pcctlearn.tomography.grids import VolumeGrid, changed_grid
from pcctlearn.units import MG_ML

log = logging.getLogger(__name__)

_READ = (*SCANNER, "counts", "primary", "scatter", "line_integrals", "maps", "scanner_to_patient")


@dataclass(frozen=True)
class EvaluatedScan:
    """A scan with all stages of the chain, with a batch axis of one.

    Counts are on the scale of the file's pixels and its ``air``. ``recorded`` has the grid of the
    maps. ``dead`` (pixel, 2) are the rows and columns of pixels that were filled. ``unknown``
    (z, y, x) marks voxels whose rays miss the panel above or below in at least one view.
    ``cut_off`` is a sentence if the object extends beyond the detector, else empty.
    ``noise`` is the covariance of the maps, NaN where it is not known, if it was asked for.
    ``numbers`` need no truth. ``errors`` are those due to scatter, ``from_truth`` the differences
    from the true object. ``differences`` lists the differences between the scan's geometry and the
    checkpoint's.
    """

    path: Path
    recorded: ScanRecord
    correction: str
    materials: tuple[str, ...]
    image: MonoenergeticImages
    outcome: Scan
    dead: Tensor
    unknown: Tensor
    cut_off: str
    noise: Covariance | None
    numbers: dict[str, float]
    errors: ErrorTable
    from_truth: ErrorTable
    differences: list[str]

    @property
    def edges_keV(self) -> Tensor:
        """Thresholds (edge), averaged over the pixels."""
        return self.recorded.thresholds_keV.reshape(-1, len(self.recorded.air) + 1).mean(0)

    def volumes(self) -> Iterator[tuple[str, Tensor, str]]:
        """Name, values and unit of each map (mg/mL), then of each monoenergetic image (HU).

        Unknown voxels are NaN.
        """
        maps = self.outcome.at("maps").masked_fill(self.unknown, torch.nan)
        for name, density in zip(self.materials, maps[0], strict=True):
            yield name.replace("/", "_"), density * MG_ML, "mg/mL"
        for energy, volume in zip(
            self.image.energies_keV, self.image.hounsfield(maps)[0], strict=True
        ):
            yield f"vmi_{energy:g}keV", volume, "HU"

    @property
    def noise_unknown(self) -> Tensor:
        """Voxels (z, y, x) whose noise is not known."""
        return self.unknown if self.noise is None else self.unknown | self.noise[0, 0].isnan()

    def noise_volumes(self) -> Iterator[tuple[str, Tensor, str]]:
        """Name, values and unit of the standard deviation of each map and each image.

        Unknown voxels are NaN.
        """
        if self.noise is None:
            return
        covariance = self.noise.masked_fill(self.unknown, torch.nan)
        variance = covariance.diagonal(dim1=0, dim2=1).movedim(-1, 0)
        for name, values in zip(self.materials, variance.clamp(min=0).sqrt(), strict=True):
            yield f"noise_{name.replace('/', '_')}", values * MG_ML, "mg/mL"
        of_images = self.image.sd_hounsfield(covariance)
        for energy, values in zip(self.image.energies_keV, of_images, strict=True):
            yield f"noise_vmi_{energy:g}keV", values, "HU"


class ScanEvaluator:
    """Correct, decompose and reconstruct scan files, each with the scanner that it records.

    Args:
        chains: chains of the recorded scanners; image errors are those of their first energy.
        max_dead_share: share of dead pixels above which a scan is rejected.
        grid: function from the grid of a file to that of the reconstruction; by default the same.
        seed: seed of the noise added to primary counts for comparison.
        dead_times: of the counters of all scans; by default counts are not corrected for pile-up.
        view_s: counting time of a view; by default that of each file.
        noise_maps: compute the standard deviation of maps and images in every voxel.
        pairs: of the events of a photon, which correlate the noise of the bins; by default counts
            are Poisson.
    """

    def __init__(
        self,
        chains: ScanChains,
        max_dead_share: float = 0.05,
        grid: Callable[[VolumeGrid], VolumeGrid] = changed_grid,
        seed: int = 0,
        dead_times: DeadTimes | None = None,
        view_s: float | None = None,
        noise_maps: bool = True,
        pairs: Pairs | None = None,
    ) -> None:
        if not 0 <= max_dead_share < 1:
            raise ValueError(f"max_dead_share must be at least 0 and below 1, got {max_dead_share}")
        grid(VolumeGrid(1, 1, 1, 1.0))  # rejects wrong settings before a scan is read
        self.chains, self.max_dead_share = chains, max_dead_share
        self.grid, self.seed = grid, seed
        self.dead_times, self.view_s = dead_times, view_s
        self.noise_maps, self.pairs = noise_maps, pairs

    @torch.no_grad()
    def evaluate(self, path: Path) -> EvaluatedScan:
        """Read and prepare one scan, pass it through the chain, and compute its errors.

        Raises:
            ValueError: views or too many pixels are missing, or the checkpoint was trained for a
                different detector.
        """
        measured = self._read(path)
        others = self._uncalibrated(measured)
        recorded, unresolved = self._without_pile_up(path, measured)
        others = {**others, **unresolved}
        try:
            kinds = pixels_to_fill(recorded, self.max_dead_share, others)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        dead = any_of(kinds)
        if dead.any():
            found = listed(kinds)
            log.warning("%s: %d dead pixels are filled (%s)", path, dead.sum(), found)
        scanner = self.chains.of(path, recorded)
        chain, image = scanner.chain, scanner.image
        prepared = flat_fielded(recorded, chain.decompose.model.air().detach(), dead)
        try:
            outcome = chain(prepared.counts[None], until="line_integrals")
        except ValueError as error:  # such as an image without bone
            raise ValueError(f"{path}: {error}") from None
        if dead.any():
            # the counts of neighbours do not fit the spectra of a pixel, their line integrals do
            between = filled(outcome.at("line_integrals"), dead)
            outcome = replace(outcome, line_integrals=between)
        outcome = chain.resume(outcome, until="maps")
        cut_off_share = cut_off_percent(outcome, recorded.geometry)
        cut_off = cut_off_warning(cut_off_share, recorded.geometry, recorded.grid)
        if cut_off:
            log.warning("%s: %s", path, cut_off)
        unknown = torch.from_numpy(~recorded.geometry.visible_in_z(recorded.grid))
        if unknown.any():
            log.warning(
                "%s: the rays of %.3g %% of the voxels miss the panel above or below in at least "
                "one view; these voxels are NaN, and fewer slices avoid them (grid.n_z=…)",
                path,
                100 * unknown.double().mean().item(),
            )
        materials = tuple(chain.decompose.model.materials)
        numbers = _numbers(outcome, dead, unknown) | {"object_cut_off_percent": cut_off_share}
        noise = None
        if self.noise_maps:
            of_counts = self._of_counts(path, measured, prepared, chain, outcome)
            of_rays = RayNoise.of(chain.decompose, outcome, of_counts, dead)
            noise = of_rays.of_maps(scanner.variance, recorded.geometry, recorded.grid)
            maps = outcome.at("maps")[0].masked_fill(unknown, torch.nan)
            numbers |= noise_numbers(noise, maps, materials, image)
        return EvaluatedScan(
            path=path,
            recorded=recorded,
            correction="none" if chain.correct is None else chain.correct.title,
            materials=materials,
            image=image,
            outcome=prepared.in_pixels(outcome),
            dead=dead.nonzero(),
            unknown=unknown,
            cut_off=cut_off,
            noise=noise,
            numbers=numbers,
            errors=self._errors(path, prepared, chain),
            from_truth=errors_from_truth(outcome, recorded, image, materials),
            differences=scanner.differences,
        )

    def _uncalibrated(self, recorded: ScanRecord) -> dict[str, Pixels]:
        """Pixels that the calibration flags, where there is one of this panel."""
        pixels, shape = self.chains.pixels, recorded.air.shape[1:]
        if pixels is None or pixels.gain.numel() != shape.numel():
            return {}
        return {"uncalibrated": ~pixels.calibrated.reshape(shape)}

    def _without_pile_up(
        self, path: Path, measured: ScanRecord
    ) -> tuple[ScanRecord, dict[str, Pixels]]:
        """The scan as counters without dead time would have made it, and unresolved pixels."""
        if self.dead_times is None:
            return measured, {}
        return unpiled(path, measured, self.dead_times, self.view_s)

    def _of_counts(
        self, path: Path, measured: ScanRecord, scan: FlatFielded, chain: Chain, outcome: Scan
    ) -> CountCovariance:
        """Covariance of the counts that are decomposed, from the photons in the file."""
        counts, together = measured.at("counts")[None], None
        if self.pairs is not None:
            per_expected = 1 / scan.gain.expand(counts.shape)
            if outcome.scatter_fraction is not None:
                per_expected = per_expected / (1 - outcome.scatter_fraction)
            x, model = outcome.at("line_integrals"), chain.decompose.model
            together = counted_together(self.pairs, model, x, per_expected)
        if chain.correct is None and self.dead_times is None:
            return scaled_covariance(scan.gain, counts, together)

        def prepared(counts: Tensor) -> Tensor:
            recorded, _ = self._without_pile_up(path, replace(measured, counts=counts[0]))
            ready = replace(scan, recorded=recorded).counts[None]
            return ready if chain.correct is None else ready * (1 - chain.correct(ready))

        generator = generator_of(self.seed, f"noise of the counts, {measured.name}")
        return count_covariance(prepared, counts, generator, together)

    def _read(self, path: Path) -> ScanRecord:
        recorded = read_scan(path, _READ)
        for doubt in recorded.doubts:
            log.warning("%s: %s", path, doubt)
        return replace(recorded, grid=self.grid(recorded.grid))

    def _errors(self, path: Path, scan: FlatFielded, chain: Chain) -> ErrorTable:
        """Errors due to scatter: relative to the scatter-free counts of the file, if it holds them.

        The same chain makes the reference, so that without scatter all errors would be zero.
        """
        if not scan.has_truth or not bool(scan.recorded.at("scatter").any()):
            return ErrorTable()
        if undefined := set(chain.decompose.model.materials) - DENSITY_G_CM3.keys():
            log.warning(
                "%s: errors are not computed, since the density is unknown for %s",
                path,
                ", ".join(sorted(undefined)),
            )
            return ErrorTable()
        return judge(chain, [scan], self.seed).errors


def _numbers(outcome: Scan, dead: Tensor, unknown: Tensor) -> dict[str, float]:
    """Numbers of one scan that need no truth."""
    numbers = {
        "rays_not_converged_percent": 100 * (~outcome.at("converged")).double().mean().item(),
        "dead_pixels": float(dead.sum()),
        "voxels_unknown_percent": 100 * unknown.double().mean().item(),
        "slices_with_unknown_voxels": float(unknown.any(-1).any(-1).sum()),
    }
    shadow = outcome.at("line_integrals").sum(1) > SHADOW_G_CM2
    if outcome.scatter_fraction is not None and shadow.any():
        mean = outcome.scatter_fraction.mean(1)[shadow].mean()
        numbers["scatter_fraction_in_shadow_percent"] = 100 * mean.item()
    return numbers
