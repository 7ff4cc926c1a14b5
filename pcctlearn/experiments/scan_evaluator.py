"""One scan file through the chain of its own scanner, and what its truth says of the outcome."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from pcctlearn.chain import Chain
from pcctlearn.datasets.dead_pixels import any_of, dead_pixels, filled, listed, missing_views
from pcctlearn.datasets.recorded_scan import RecordedScan
from pcctlearn.datasets.scan_file import read_scan
from pcctlearn.datasets.scan_set import truth_of
from pcctlearn.datasets.scan_values import count_findings
from pcctlearn.datasets.scanner_lengths import length_doubts
from pcctlearn.experiments.scan_chain import SCANNER, ScanChains, air_of_pixels
from pcctlearn.experiments.scatter_judge import judged
from pcctlearn.physics.attenuation import DENSITY_G_CM3
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.units import MG_ML

log = logging.getLogger(__name__)

_COUNTS = ("counts", "corrected_counts")
_READ = (*SCANNER, "counts", "primary", "scatter", "scanner_to_patient")


@dataclass(frozen=True)
class EvaluatedScan:
    """A scan at the end of the chain, its batch axis of one.

    Counts are those of the file's pixels, with its ``air``. ``dead`` (pixel, 2) are the rows and
    columns that were filled; ``numbers`` need no truth; ``errors`` {method: {metric: value}} do;
    ``differences`` say where the scanner of the checkpoint was another; ``scanner_to_patient`` is
    that of the file.
    """

    path: Path
    correction: str
    geometry: ConeBeam
    grid: VolumeGrid
    materials: tuple[str, ...]
    edges_keV: Tensor
    image: MonoenergeticImages
    outcome: Scan
    dead: Tensor
    numbers: dict[str, float]
    errors: dict[str, dict[str, float]]
    differences: list[str]
    scanner_to_patient: Tensor | None

    @property
    def unknown(self) -> Tensor:
        """(z, y, x): voxels whose rays miss the rows of the panel in some view."""
        return torch.from_numpy(~self.geometry.seen_in_z(self.grid))

    def volumes(self) -> Iterator[tuple[str, Tensor, str]]:
        """Name, values and unit of each material in mg/mL, then of each energy in HU.

        Unknown voxels are NaN.
        """
        maps = self.outcome.at("maps").masked_fill(self.unknown, torch.nan)
        for name, density in zip(self.materials, maps[0], strict=True):
            yield name.replace("/", "_"), density * MG_ML, "mg/mL"
        for energy, volume in zip(
            self.image.energies_keV, self.image.hounsfield(maps)[0], strict=True
        ):
            yield f"vmi_{energy:g}keV", volume, "HU"


class ScanEvaluator:
    """Correct, decompose and reconstruct scan files, each with the scanner that it records.

    Args:
        chains: of their scanners; errors are those of the first energy of their images.
        max_dead_share: of the pixels, above which a scan is refused.
        seed: of the noise that is drawn for comparison.
    """

    def __init__(self, chains: ScanChains, max_dead_share: float = 0.05, seed: int = 0) -> None:
        if not 0 <= max_dead_share < 1:
            raise ValueError(f"max_dead_share must be 0 or more and below 1, got {max_dead_share}")
        self.chains, self.max_dead_share, self.seed = chains, max_dead_share, seed

    @torch.no_grad()
    def evaluate(self, path: Path) -> EvaluatedScan:
        """One scan through the chain.

        Raises:
            ValueError: views or too many pixels are missing; a checkpoint of another detector.
        """
        recorded = read_scan(path, _READ)
        dead = self._dead(path, recorded)
        scanner = self.chains.of(path, recorded)
        findings = count_findings(recorded.at("counts"), recorded.air, recorded.typical_model())
        for doubt in [*findings.doubts, *length_doubts(recorded.geometry)]:
            log.warning("%s: %s", path, doubt)
        chain, image = scanner.chain, scanner.chain.image
        assert image is not None
        model = chain.decompose.model
        gain = filled((air_of_pixels(model) / recorded.air)[:, None].float(), dead)
        counts = filled(recorded.at("counts") * gain, dead)[None]
        outcome = chain(counts, until="maps")
        unknown = torch.from_numpy(~recorded.geometry.seen_in_z(recorded.grid)).double()
        if unknown.any():
            log.warning(
                "%s: %.3g %% of the voxels lie beyond the rows of the panel in some view and are "
                "NaN; choose a volume of fewer slices (n_z)",
                path,
                100 * unknown.mean().item(),
            )
        numbers = {
            "rays_not_converged_percent": 100 * (~outcome.at("converged")).double().mean().item(),
            "dead_pixels": float(dead.sum()),
            "voxels_unknown_percent": 100 * unknown.mean().item(),
            "slices_with_unknown_voxels": float(unknown.any(-1).any(-1).sum()),
        }
        shadow = outcome.at("line_integrals").sum(1) > SHADOW_G_CM2
        if outcome.scatter_fraction is not None and shadow.any():
            mean = outcome.scatter_fraction.mean(1)[shadow].mean()
            numbers["scatter_fraction_in_shadow_percent"] = 100 * mean.item()
        errors = {}
        if recorded.primary is not None and recorded.scatter is not None:
            if recorded.materials and tuple(model.materials) != recorded.materials:
                log.warning(
                    "%s: no errors are computed, since its truth is of %s and the basis is %s",
                    path,
                    ", ".join(recorded.materials),
                    ", ".join(model.materials),
                )
            elif undefined := set(model.materials) - DENSITY_G_CM3.keys():
                log.warning("%s: no errors are known for %s", path, ", ".join(sorted(undefined)))
            else:
                errors = self._errors(recorded, gain, dead, scanner.chain)
        return EvaluatedScan(
            path=path,
            correction="none" if chain.correct is None else chain.correct.title,
            geometry=recorded.geometry,
            grid=recorded.grid,
            materials=tuple(model.materials),
            edges_keV=recorded.thresholds_keV.reshape(-1, len(recorded.air) + 1).mean(0),
            image=image,
            outcome=_in_pixels(outcome, gain),
            dead=dead.nonzero(),
            numbers=numbers,
            errors=errors,
            differences=scanner.differences,
            scanner_to_patient=recorded.scanner_to_patient,
        )

    def _dead(self, path: Path, recorded: RecordedScan) -> Tensor:
        """(row, column): what must be filled, if it is not too much."""
        counts = recorded.at("counts")
        if missing := missing_views(counts):
            raise ValueError(
                f"{path}: {len(missing)} of {counts.shape[1]} views hold no counts, or none in a "
                f"bin ({', '.join(map(str, missing[:12]))}{' …' if len(missing) > 12 else ''}): "
                "leave them out of counts and n_views, and write the angles of the remaining views "
                "in rad as geometry/view_angles_rad"
            )
        kinds = dead_pixels(counts, recorded.air)
        dead = any_of(kinds)
        if (share := dead.double().mean().item()) > self.max_dead_share:
            raise ValueError(
                f"{path}: {int(dead.sum())} of {dead.numel()} pixels are dead "
                f"({100 * share:.3g} %; {listed(kinds)}), more than "
                f"max_dead_share={self.max_dead_share:g}: correct counts and air, or raise "
                "max_dead_share"
            )
        if dead.any():
            log.warning(
                "%s: %d dead pixels are filled from their neighbours (%s)",
                path,
                dead.sum(),
                listed(kinds),
            )
        return dead

    def _errors(
        self, recorded: RecordedScan, gain: Tensor, dead: Tensor, chain: Chain
    ) -> dict[str, dict[str, float]]:
        """Of the expected counts, and of the measured ones where they have noise."""
        expected = truth_of(recorded, gain, noise=False)
        free = {stage: filled(expected.at(stage), dead)[None] for stage in _COUNTS}
        measured = filled(recorded.at("counts") * gain, dead)[None]
        noisy = alone = None
        if not torch.allclose(measured, free["counts"], rtol=1e-5, atol=0):
            drawn = draw_counts(recorded.at("primary"), Generator().manual_seed(self.seed))
            noisy, alone = measured, filled(drawn * gain, dead)[None]
        errors: dict[str, dict[str, float]] = {}
        for case in judged(chain, recorded.geometry, recorded.grid, Scan(**free), noisy, alone):
            named = {case.before + metric: value for metric, value in case.errors.items()}
            errors.setdefault(case.method, {}).update(named)
        del errors["reference"]
        return errors


def _in_pixels(outcome: Scan, gain: Tensor) -> Scan:
    """Counts as each pixel counts them, not as if all were lit alike."""
    held = [stage for stage in _COUNTS if getattr(outcome, stage) is not None]
    return replace(outcome, **{stage: outcome.at(stage) / gain for stage in held})
