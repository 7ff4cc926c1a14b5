"""Thresholds, tube voltage and filter for a contrast agent, designed and verified by simulation."""

import logging
from collections.abc import Callable, Mapping, Sequence
from math import pi
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.console import without_warnings
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.protocol import Protocol, ThresholdLimits
from pcctlearn.decomposition.protocol_designer import ProtocolDesigner
from pcctlearn.figures.arrays import as_array
from pcctlearn.metrics.inserts import insert_errors
from pcctlearn.montecarlo.object.dose import ScanDose, scan_dose
from pcctlearn.phantoms.inserts import InsertPhantom
from pcctlearn.physics.attenuation import k_edge_keV
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.response.presets import pairs_of
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import RayLineIntegrals, channels_first, channels_last
from pcctlearn.studies.insert_scans import decomposed_maps, noisy_counts, regions
from pcctlearn.studies.protocol_tables import (
    DEFAULT,
    DESIGNS,
    ROWS,
    Numbers,
    noise_table,
    settings_table,
)
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.units import MG_ML
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

_N_DIRECTIONS = 60  # of rays through the insert


class ProtocolDesign:
    """Design protocols for one contrast agent in a head, and repeat noisy scans with each.

    The basis materials are those of the phantom, so that it can be decomposed without bias. All
    protocols give the same mean absorbed dose in the slice (``scan_dose``). The variance bound of
    the rays through the first insert is minimised (``ProtocolDesigner``). Of its minima, the one of
    the least root mean square error over draws of the noise of these rays is taken, since few
    counts do not reach the bound. Other draws verify it: rays through the insert for every
    protocol, whole slices, decomposed and reconstructed, for the default and the designed ones.

    Args:
        response, thresholds, tube_voltage_kV, filtration_cm, anode_degrees: detector and default
            protocol; its last edge is replaced by none.
        phantom: head with inserts; noise is minimised in the material of the first one.
        geometry, grid: fan beam and images.
        decomposition: constructor of the decomposition layer for a model.
        dose_mGy: mean absorbed dose in the slice.
        tube_voltages_kV, filters: choices of the designer.
        lowest_keV, separation_keV: limits of the thresholds.
        largest_load: of the tube with an added filter, over that of the default, at equal dose.
        pairs: of events of the detector, as in ``pairs_of``, which correlate the counts; None:
            independent counts.
        n_draws: draws of the noise, of the verification.
        n_design_draws: draws of the rays by which a minimum is chosen.
        n_histories: photons of each energy, of the dose.
        filter: of the reconstruction.
        seed: of noise and dose.
    """

    def __init__(
        self,
        response: Response,
        thresholds: Thresholds,
        tube_voltage_kV: float,
        phantom: InsertPhantom,
        geometry: FanBeam,
        grid: ImageGrid,
        decomposition: Callable[[SpectralModel], Decomposition],
        filtration_cm: Mapping[str, float],
        anode_degrees: float = 12.0,
        dose_mGy: float = 40.0,
        tube_voltages_kV: Sequence[float] = (80.0, 100.0, 120.0, 140.0),
        filters: Sequence[str] = ("aluminium", "copper", "tin"),
        lowest_keV: float = 15.0,
        separation_keV: float = 4.0,
        largest_load: float = 4.0,
        pairs: str | None = None,
        n_draws: int = 200,
        n_design_draws: int = 200,
        n_histories: int = 20_000,
        filter: str = "hann",
        seed: int = 0,
    ) -> None:
        require_positive(dose_mGy=dose_mGy, n_draws=n_draws, n_histories=n_histories)
        require_positive(n_design_draws=n_design_draws)
        if n_draws < 2:
            raise ValueError(f"n_draws must be 2 or more, got {n_draws}")
        if not isinstance(phantom, InsertPhantom):
            raise TypeError(
                f"the protocol needs a phantom with inserts, got {type(phantom).__name__}: use "
                "phantoms=head_iodine"
            )
        if not isinstance(geometry, FanBeam):
            raise TypeError(
                f"the protocol needs a fan beam, got {type(geometry).__name__}: use tomography=fan"
            )
        self.response = response.requires_grad_(False)
        edges = thresholds.edges_keV.detach()[:-1].tolist()
        self.default = Protocol(tube_voltage_kV, tuple(edges))
        self.limits = ThresholdLimits(lowest_keV, separation_keV)
        for voltage in (*tube_voltages_kV, tube_voltage_kV):
            self.limits.free_keV(len(edges), voltage)  # rejects limits that do not fit
        self.phantom, self.geometry, self.grid = phantom, geometry, grid
        self.decomposition, self.filter = decomposition, filter
        self.filtration_cm, self.anode_degrees = dict(filtration_cm), anode_degrees
        self.tube_voltages_kV, self.filters = list(tube_voltages_kV), list(filters)
        self.dose_mGy, self.largest_load = dose_mGy, largest_load
        self.pairs = None if pairs is None else pairs_of(pairs, response)
        self.n_draws, self.n_design_draws = n_draws, n_design_draws
        self.n_histories, self.seed = n_histories, seed
        self.insert = phantom.inserts[0]
        self._regions = regions([self.insert, phantom.background], grid)
        self._index = phantom.materials.index(self.insert.material)
        self._reconstruct = fbp(geometry, grid, filter, truncation="cosine").double()
        self._designer(self._rays(), None)  # rejects a protocol with too few thresholds

    def run(self, context: Context) -> StudyResults:
        """Dose, design, and verification."""
        began = perf_counter()
        log.info("dose of photons of each energy")
        maps = self.phantom.maps(self.grid)
        dose = scan_dose(
            maps,
            self.grid,
            self.phantom.materials,
            self.geometry,
            highest_keV=max(*self.tube_voltages_kV, self.default.tube_voltage_kV),
            n_histories=self.n_histories,
            seed=self.seed,
        )
        rays = self._rays()
        designer = self._designer(rays, dose)
        protocols = self.designed(designer, rays)
        numbers: Numbers = {
            "design_seconds": perf_counter() - began,
            "dose_error_percent": 100 * dose.relative_error,
        }
        arrays: dict[str, Tensor | np.ndarray] = {"rows": as_array(list(protocols))}
        for row, protocol in protocols.items():
            log.info("verifying %s: %s", row.replace("_", " "), protocol)
            numbers |= self.of_rays(row, protocol, designer, rays)
            arrays |= self._spectrum(row, protocol, designer, rays)
        simulated: dict[str, tuple[Numbers, dict[str, Tensor], Tensor]] = {}
        for row in (DEFAULT, *DESIGNS):
            same = [one for one in simulated if protocols[one] == protocols[row]]
            log.info("slices of %s%s", row.replace("_", " "), ", simulated above" if same else "")
            found = simulated[same[0]] if same else self.of_slices(protocols[row], designer)
            simulated[row] = measured, images, squares = found
            numbers |= {f"{key}.{row}": value for key, value in measured.items()}
            arrays |= {f"{key}/{row}": image for key, image in images.items()}
            ratio, error = _ratio(squares, simulated[DEFAULT][2])
            numbers[f"relative_voxel_sd.{row}"] = ratio
            if row != DEFAULT:
                numbers[f"relative_voxel_sd_error.{row}"] = error
        for row in protocols:
            for key in ("bound_mg_cm2", "ray_sd_mg_cm2"):
                relative = numbers[f"{key}.{row}"] / numbers[f"{key}.{DEFAULT}"]
                numbers[f"relative_{key.removesuffix('_mg_cm2')}.{row}"] = relative
        edge = k_edge_keV(self.insert.material)
        arrays["k_edge_keV"] = np.array([np.nan if edge is None else edge])
        arrays["voxel_cm"] = np.array([self.grid.voxel_cm])
        arrays["insert"] = as_array([self.insert.name.replace("_", " ") + " mg/mL"])
        return self.report(numbers, arrays, protocols)

    def designed(self, designer: ProtocolDesigner, rays: RayLineIntegrals) -> dict[str, Protocol]:
        """The default, baselines that look at no task or at the tube alone, and three designs."""
        default = self.default
        every = sorted({*self.tube_voltages_kV, default.tube_voltage_kV})
        candidates = designer.candidates(every, self.filters)
        errors = []
        for one in candidates:
            _, x, _ = self._drawn(one, designer, rays, "design", self.n_design_draws)
            errors.append((x - rays[:, self._index]).square().mean().item())

        def least(allowed: Callable[[Protocol], bool]) -> Protocol:
            pairs = zip(errors, candidates, strict=True)
            return min((one for one in pairs if allowed(one[1])), key=lambda one: one[0])[1]

        def fits(p: Protocol) -> bool:
            return self.limits.allows(p.thresholds_keV, p.tube_voltage_kV)

        return {
            DEFAULT: default,
            "equal_widths": designer.equal_widths(default),
            "equal_counts": designer.equal_counts(default),
            "kV_alone": least(lambda p: p.thresholds_keV == default.thresholds_keV),
            "thresholds": least(
                lambda p: (
                    fits(p) and p.tube_voltage_kV == default.tube_voltage_kV and not p.filtration_cm
                )
            ),
            "thresholds_and_kV": least(lambda p: fits(p) and not p.filtration_cm),
            "thresholds_kV_and_filter": least(fits),
        }

    def of_rays(
        self, row: str, protocol: Protocol, designer: ProtocolDesigner, rays: RayLineIntegrals
    ) -> Numbers:
        """Bound and noise of the rays through the insert, at the dose; tube load and dose."""
        model, found, converged = self._drawn(protocol, designer, rays, "rays", self.n_draws)
        bound = (designer.variance(protocol) / self.dose_mGy) ** 0.5
        sd = found.var(0).mean().sqrt().item()
        bias = (found.mean(0) - rays[:, self._index]).mean().item()
        dose = designer.dose(model.energies_keV, model.fluence)
        return {
            f"tube_voltage_kV.{row}": protocol.tube_voltage_kV,
            f"tube_load.{row}": designer.load(protocol),
            f"dose_mGy.{row}": float(dose),
            f"photons.{row}": float(model.fluence.sum()),
            f"bound_mg_cm2.{row}": MG_ML * bound,
            f"ray_sd_mg_cm2.{row}": MG_ML * sd,
            f"ray_bias_mg_cm2.{row}": MG_ML * bias,
            f"rays_not_converged_percent.{row}": 100 * float((~converged).double().mean()),
        }

    @torch.no_grad()
    def _drawn(
        self,
        protocol: Protocol,
        designer: ProtocolDesigner,
        rays: RayLineIntegrals,
        name: str,
        n: int,
    ) -> tuple[SpectralModel, Float[Tensor, "draw ray"], Bool[Tensor, "draw ray"]]:
        """The scanner, its decomposed draws of these rays in g/cm², and the solved ones."""
        model = designer.model(protocol, self.dose_mGy)
        covariance = designer.counts_covariance(model, rays)
        draws = noisy_counts(model(rays), n, self.seed, name, covariance, n)
        (counts,) = draws
        with without_warnings():  # of rays that were not solved, which are counted
            x, converged = self.decomposition(model)(channels_first(counts[:, None]).float())
        return model, channels_last(x)[:, 0, :, self._index].double(), converged[:, 0]

    def of_slices(
        self, protocol: Protocol, designer: ProtocolDesigner
    ) -> tuple[Numbers, dict[str, Tensor], Float[Tensor, "draw"]]:
        """Errors of the insert in repeated slices, images, and squared noise of each draw."""
        model = designer.model(protocol, self.dose_mGy)
        A = channels_last(self.phantom.line_integrals(*self.geometry.rays())[None])[0]
        expected = model(A).detach()
        covariance = designer.counts_covariance(model, A)
        draws = noisy_counts(expected, self.n_draws, self.seed, "slices", covariance)
        maps, failed = decomposed_maps(
            self.decomposition(model), lambda x: self._reconstruct @ x, draws
        )
        images = MG_ML * maps[:, self._index]
        inside, around = (self._regions[one.name] for one in (self.insert, self.phantom.background))
        errors = insert_errors(images, inside, around, self.insert.mg_mL)
        squares = (images - images.mean(0))[:, inside].square().mean(1)
        numbers = {
            "insert_bias_mg_mL": errors.bias,
            "voxel_sd_mg_mL": errors.sd,
            "insert_mean_sd_mg_mL": errors.mean_sd,
            "insert_cnr": errors.cnr,
            "slice_rays_not_converged_percent": failed,
        }
        return numbers, {"one_draw": images[0], "mean": images.mean(0)}, squares

    def report(
        self,
        numbers: Numbers,
        arrays: dict[str, Tensor | np.ndarray],
        protocols: Mapping[str, Protocol],
    ) -> StudyResults:
        """Tables of the protocols and of their noise."""
        name, limits = self.insert.name.replace("_", " "), self.limits
        return StudyResults(
            numbers,
            arrays,
            ["protocol_design.noise_and_spectra", "protocol_design.slices"],
            f"{name} mg/mL decomposed into {', '.join(self.phantom.materials)}. Equal dose: "
            f"{self.dose_mGy:g} mGy, the energy that a scan of {self.geometry.n_views} views "
            "deposits in the head, scatter included, over the mass of the slice. Thresholds from "
            f"{limits.lowest_keV:g} keV, at least {limits.separation_keV:g} keV apart. Noise of "
            f"{self.n_draws} draws. Pile-up, scatter in the counts and drifts are left out"
            + (", counts are independent." if self.pairs is None else ", counts are correlated."),
            tables=[
                settings_table(protocols, numbers),
                noise_table(self.insert.material, protocols, numbers),
            ],
            tabulated=[key for key in numbers if key.rpartition(".")[2] in ROWS],
        )

    def _designer(self, rays: RayLineIntegrals, dose: ScanDose | None) -> ProtocolDesigner:
        return ProtocolDesigner(
            self.response,
            self.phantom.materials,
            rays,
            self.insert.material,
            (lambda energies, fluence: fluence.sum()) if dose is None else dose.mGy,
            self.limits,
            self.default,
            self.filtration_cm,
            self.anode_degrees,
            self.largest_load,
            self.pairs,
        )

    def _rays(self) -> RayLineIntegrals:
        """Line integrals through the center of the insert, from all sides."""
        angles = np.arange(_N_DIRECTIONS) * pi / _N_DIRECTIONS
        directions = np.stack([np.cos(angles), np.sin(angles)], -1)
        points = np.tile(self.insert.center_cm, (_N_DIRECTIONS, 1))
        return self.phantom.line_integrals(points, directions).movedim(0, -1)

    def _spectrum(
        self, row: str, protocol: Protocol, designer: ProtocolDesigner, rays: RayLineIntegrals
    ) -> dict[str, Tensor]:
        """Registered spectrum behind the head, counts per keV, and the thresholds."""
        model = designer.model(protocol, self.dose_mGy)
        behind = (model.fluence * torch.exp(-rays @ model.attenuation)).mean(0)
        edges = torch.arange(self.limits.lowest_keV, 140.5, 0.5, dtype=torch.float64)
        with torch.no_grad():
            above = self.response.above(edges, model.energies_keV) @ behind
        return {
            f"registered_keV/{row}": (edges[1:] + edges[:-1]) / 2,
            f"registered_per_keV/{row}": -above.diff() / 0.5,
            f"thresholds_keV/{row}": torch.tensor(protocol.thresholds_keV),
        }


def _ratio(squares: Tensor, reference: Tensor) -> tuple[float, float]:
    """Ratio of two root mean squares and its standard error, from independent draws."""
    ratio = (squares.mean() / reference.mean()).sqrt().item()
    relative = [(s.std() / s.mean()).item() ** 2 / len(s) for s in (squares, reference)]
    return ratio, ratio / 2 * sum(relative) ** 0.5
