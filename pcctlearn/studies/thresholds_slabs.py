"""Threshold calibration on slabs of known thickness [1, Fig. 6]."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.thresholds import Calibration
from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.sensitivity import count_information, fisher_information
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.metrics.errors import rms
from pcctlearn.physics.attenuation import area_density_g_cm2, thickness_cm
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scan import Scan
from pcctlearn.shapes import Edges, channels_first, channels_last
from pcctlearn.studies.calibration import BiasedScan, biased, calibration_arrays
from pcctlearn.validation import require_positive

Numbers = dict[str, float]
Arrays = dict[str, Tensor]


class SlabCalibration:
    """Calibrate the thresholds of one pixel behind slabs; all are off by ``bias_keV`` at first.

    With ``noisy`` counts, ``n_detectors`` independent draws are calibrated at once, as pixels.
    Thickness errors are those of the first draw; ratios of threshold errors to the Cramér–Rao bound
    are over all draws.

    Args:
        model: spectral model with the nominal thresholds.
        decomposition: constructor of the decomposition layer for a model.
        loss: compares decomposed and true slabs.
        training: calibrates a chain, as ``fit_thresholds`` does.
        water_cm, calcium_cm: first, last and step of the thicknesses at reference density.
        bias_keV: offset of the true thresholds from the nominal ones.
        noisy: draw Poisson counts, independent between bins. This assumes that a photon is counted
            in one bin only, and is optimistic for CdTe with its charge sharing.
        n_detectors: number of draws.
        seed: seed of the photon noise.
        max_steps: upper limit of calibration steps.
    """

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[[SpectralModel], Decomposition],
        loss: TotalLoss,
        training: Callable[..., Calibration],
        water_cm: Sequence[float] = (0.0, 30.0, 2.0),
        calcium_cm: Sequence[float] = (0.0, 2.0, 0.2),
        bias_keV: float = 0.5,
        noisy: bool = False,
        n_detectors: int = 1,
        seed: int = 0,
        max_steps: int = 12,
    ) -> None:
        require_positive(max_steps=max_steps, n_detectors=n_detectors)
        model.require_materials(["water", "calcium"])
        self.model, self.decomposition, self.loss = model, decomposition, loss
        self.training, self.bias_keV = training, bias_keV
        self.noisy, self.n_detectors, self.seed = noisy, n_detectors, seed
        self.max_steps = max_steps
        thickness = torch.cartesian_prod(_steps(*water_cm), _steps(*calcium_cm))
        slabs = zip(thickness.T, model.materials, strict=True)
        self.slabs = torch.stack([area_density_g_cm2(d, name) for d, name in slabs], -1)

    @property
    def result_names(self) -> list[str]:
        """Names of the numbers that ``run`` returns."""
        over_bound = (
            "threshold_crlb_max_keV",
            "threshold_error_over_crlb_max",
            "threshold_error_over_crlb_rms_over_detectors",
            "share_of_detectors_within_3_crlb",
        )
        return [
            "threshold_error_before_max_keV",
            "threshold_error_after_max_keV",
            *(f"{m}_rmse_{w}_cm" for w in ("before", "after") for m in self.model.materials),
            "steps",
            "fit_converged",
            *(over_bound if self.noisy else ()),
        ]

    def run(self, context: Context) -> StudyResults:
        """Simulate the counts, calibrate the thresholds, and compute the errors."""
        scan = self.scan()
        return self.report(*self.measure(scan, self.fit(scan, context)))

    def scan(self) -> BiasedScan:
        """Counts of the slabs from detectors with biased thresholds."""
        nominal = self.model.thresholds.edges_keV.detach().expand(self.n_detectors, -1)
        true = biased(nominal, self.model.thresholds.learn, self.bias_keV)
        A = self.slabs[None, :, None].expand(-1, -1, self.n_detectors, -1)
        counts = self.model.with_edges(true)(A).detach()
        if self.noisy:
            counts = draw_counts(counts, torch.Generator().manual_seed(self.seed))
        spectra = self.model.with_edges(nominal).spectra().detach()
        precision = fisher_information(A, spectra, self.model.attenuation)
        known = {"line_integrals": channels_first(A), "precision": precision}
        return BiasedScan(nominal, true, Scan(counts=channels_first(counts), **known))

    def fit(self, scan: BiasedScan, context: Context) -> Calibration:
        """Fit thresholds so that the slabs decompose to their known thicknesses."""
        return self.training(
            self._chain(scan.nominal_keV), scan.target, self.loss,
            trainer=context.trainer, max_steps=self.max_steps,
        )  # fmt: skip

    @torch.no_grad()
    def measure(self, scan: BiasedScan, found: Calibration) -> tuple[Numbers, Arrays]:
        """Errors of thresholds and thicknesses before and after calibration."""
        learn = self.model.thresholds.learn
        error_before, error = (
            (edges - scan.true_keV)[:, learn] for edges in (scan.nominal_keV, found.edges_keV)
        )
        true = self._thickness_cm(scan.target)
        numbers = {
            "threshold_error_before_max_keV": float(error_before[0].abs().max()),
            "threshold_error_after_max_keV": float(error[0].abs().max()),
        }
        arrays: Arrays = {
            "slabs/true_cm": true,
            **calibration_arrays(scan, found, learn),
        }
        for when, edges in (("before", scan.nominal_keV), ("after", found.edges_keV)):
            thickness = self._thickness_cm(self._chain(edges)(scan.target.counts))
            arrays[f"slabs/{when}_cm"] = thickness
            for i, name in enumerate(self.model.materials):
                numbers[f"{name}_rmse_{when}_cm"] = rms(thickness[:, i] - true[:, i])
        numbers |= {"steps": float(len(found.history)), "fit_converged": float(found.converged)}
        if self.noisy:
            ratio, more = self._over_bound(scan, error)
            numbers |= more
            arrays["edges/error_over_crlb"] = ratio
        return numbers, arrays

    def report(self, numbers: Numbers, arrays: Arrays) -> StudyResults:
        """Numbers, arrays and figures of the study."""
        noise = f", Poisson noise on, {self.n_detectors} detectors" if self.noisy else ""
        return StudyResults(
            numbers,
            arrays,  # type: ignore[arg-type]
            [f"calibration.{name}" for name in ("calibration_curves", "slab_decomposition")],
            f"{len(self.slabs)} slab combinations, thresholds off by {self.bias_keV:g} keV{noise}.",
        )

    def _chain(self, edges_keV: Edges) -> Chain:
        return Chain(self.decomposition(self.model.with_edges(edges_keV)))

    def _thickness_cm(self, scan: Scan) -> Float[Tensor, "slab material"]:
        """Decomposed thickness of each slab, first detector."""
        line_integrals = zip(
            scan.at("line_integrals")[0, :, :, 0], self.model.materials, strict=True
        )
        return torch.stack([thickness_cm(A, name) for A, name in line_integrals], -1)

    def _over_bound(
        self, scan: BiasedScan, error: Float[Tensor, "pixel edge"]
    ) -> tuple[Float[Tensor, "pixel edge"], Numbers]:
        """Threshold errors divided by their Cramér–Rao bound (standard deviation)."""
        learn, detector = self.model.thresholds.learn, self.model.with_edges(scan.true_keV)
        information = count_information(
            detector, channels_last(scan.target.at("line_integrals"))[0]
        )
        bound = torch.linalg.inv(information[:, learn][:, :, learn])
        sd = bound.diagonal(dim1=1, dim2=2).sqrt()
        ratio = error / sd
        return ratio, {
            "threshold_crlb_max_keV": float(sd[0].max()),
            "threshold_error_over_crlb_max": float(ratio[0].abs().max()),
            "threshold_error_over_crlb_rms_over_detectors": rms(ratio),
            "share_of_detectors_within_3_crlb": float((ratio.abs() <= 3).all(1).double().mean()),
        }


def _steps(first: float, last: float, step: float) -> Tensor:
    if step <= 0 or last < first:
        raise ValueError(f"slabs need first ≤ last and a positive step, got {first}:{step}:{last}")
    n = round((last - first) / step) + 1
    return first + step * torch.arange(n, dtype=torch.float64)
