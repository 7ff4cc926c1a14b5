"""Thresholds from slabs of known thickness: the article's first calibration."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcctlearn.calibration.information import count_information
from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.sensitivity import fisher_information
from pcctlearn.experiments.calibration import (
    biased,
    channels_first,
    check_materials,
    check_steps,
    fit,
    history_arrays,
    with_edges,
)
from pcctlearn.experiments.context import Context
from pcctlearn.experiments.results import StudyResults
from pcctlearn.figures.calibration import calibration_curves, slab_decomposition
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scan import Scan
from pcctlearn.training.threshold_module import ThresholdModule
from pcctlearn.units import area_density_g_cm2, thickness_cm


class SlabCalibration:
    """One pixel behind water and calcium slabs; every threshold starts off by ``bias_keV``.

    With ``noisy`` counts the study is repeated on ``n_detectors`` independent draws at once, as if
    they were so many pixels; the first is the one reported, all of them show how the error
    compares with its Cramér–Rao bound.

    Args:
        model: the scanner with its nominal thresholds.
        decomposition: builds the layer for a model.
        loss: where the calibration looks.
        training: builds the Lightning module from chain, loss and true edges.
        water_cm, calcium_cm: first, last and step of the thicknesses at reference density.
        bias_keV: by how much the detector's edges lie above their nominal values.
        noisy, n_detectors, seed: photon noise, Poisson and independent from bin to bin: true of
            detectors that register a photon once, optimistic for CdTe with its charge sharing.
        max_steps: of the optimiser.
    """

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[[SpectralModel], Decomposition],
        loss: TotalLoss,
        training: Callable[..., ThresholdModule],
        water_cm: Sequence[float] = (0.0, 30.0, 2.0),
        calcium_cm: Sequence[float] = (0.0, 2.0, 0.2),
        bias_keV: float = 0.5,
        noisy: bool = False,
        n_detectors: int = 1,
        seed: int = 0,
        max_steps: int = 12,
    ) -> None:
        check_steps(max_steps)
        check_materials(model, ["water", "calcium"])
        if n_detectors < 1:
            raise ValueError(f"n_detectors must be 1 or more, got {n_detectors}")
        self.model, self.decomposition, self.loss = model, decomposition, loss
        self.training, self.bias_keV = training, bias_keV
        self.noisy, self.n_detectors, self.seed = noisy, n_detectors, seed
        self.max_steps = max_steps
        water, calcium = (_steps(*span) for span in (water_cm, calcium_cm))
        thickness = torch.cartesian_prod(water, calcium)
        self.slabs = torch.stack(
            [
                area_density_g_cm2(thickness[:, i], name)
                for i, name in enumerate(("water", "calcium"))
            ],
            -1,
        )

    def run(self, context: Context) -> StudyResults:
        """Calibrate, then decompose the slabs with what was found."""
        learn = self.model.thresholds.learn
        nominal = self.model.thresholds.edges_keV.detach().expand(self.n_detectors, -1)
        detector = with_edges(self.model, biased(nominal, learn, self.bias_keV))
        true_edges = detector.thresholds.edges_keV.detach()
        A = self.slabs[:, None].expand(-1, self.n_detectors, -1)
        counts = detector(A).detach()
        if self.noisy:
            counts = draw_counts(counts, torch.Generator().manual_seed(self.seed))

        chain = Chain(self.decomposition(with_edges(self.model, nominal)))
        information = fisher_information(A, chain.decompose.model.spectra(), self.model.attenuation)
        precision = information.detach()[None]
        target = Scan(
            counts=channels_first(counts), line_integrals=channels_first(A), precision=precision
        )
        before = self._thickness(chain, target)
        module = self.training(chain=chain, loss=self.loss, true_edges_keV=true_edges)
        fit(context.trainer, module, target, self.max_steps)
        after = self._thickness(chain, target)
        truth = self._to_cm(A[:, 0])

        edges = chain.decompose.model.thresholds.edges_keV.detach()
        error = (edges - true_edges)[:, learn]
        first = (nominal - true_edges)[0, learn]
        numbers = {
            "threshold_error_before_max_keV": float(first.abs().max()),
            "threshold_error_after_max_keV": float(error[0].abs().max()),
            **_rmse("before", before, truth),
            **_rmse("after", after, truth),
            "steps": float(len(module.history)),
            "fit_converged": float(module.converged),
        }
        arrays: dict[str, Tensor] = {
            "slabs/true_cm": truth,
            "slabs/before_cm": before,
            "slabs/after_cm": after,
            "edges/true_keV": true_edges,
            "edges/nominal_keV": nominal,
            "edges/found_keV": edges,
            **history_arrays(module),
        }
        if self.noisy:
            bound = torch.linalg.inv(count_information(detector, A)[:, learn][:, :, learn])
            ratio = error / bound.diagonal(dim1=1, dim2=2).sqrt()
            numbers |= {
                "threshold_crlb_max_keV": float(bound[0].diagonal().sqrt().max()),
                "threshold_error_over_crlb_max": float(ratio[0].abs().max()),
                "threshold_error_over_crlb_rms_over_detectors": float(ratio.square().mean().sqrt()),
                "share_of_detectors_within_3_crlb": float(
                    (ratio.abs() <= 3).all(1).double().mean()
                ),
            }
            arrays["edges/error_over_crlb"] = ratio
        return StudyResults(
            numbers,
            arrays,  # type: ignore[arg-type]
            {"calibration_curves": calibration_curves, "slab_decomposition": slab_decomposition},
            {
                "calibration_curves": "Loss and threshold error after each step of the optimiser.",
                "slab_decomposition": "Slabs decomposed with the nominal thresholds and with the "
                "calibrated ones, beside what they are.",
            },
            f"{len(self.slabs)} slab combinations, thresholds off by {self.bias_keV:g} keV"
            + (f", Poisson noise on, {self.n_detectors} detectors." if self.noisy else "."),
        )

    @torch.no_grad()
    def _thickness(self, chain: Chain, target: Scan) -> Tensor:
        assert target.counts is not None
        x = chain(target.counts, until="line_integrals").line_integrals
        return self._to_cm(x[0, :, :, 0].movedim(0, -1))

    def _to_cm(self, line_integrals: Tensor) -> Tensor:
        names = self.model.materials
        return torch.stack(
            [thickness_cm(line_integrals[..., i], name) for i, name in enumerate(names)], -1
        )


def _steps(first: float, last: float, step: float) -> Tensor:
    if step <= 0 or last < first:
        raise ValueError(f"slabs need first ≤ last and a positive step, got {first}:{step}:{last}")
    n = round((last - first) / step) + 1
    return first + step * torch.arange(n, dtype=torch.float64)


def _rmse(when: str, found_cm: Tensor, true_cm: Tensor) -> dict[str, float]:
    rms = (found_cm - true_cm).square().mean(0).sqrt()
    return {f"water_rmse_{when}_cm": float(rms[0]), f"calcium_rmse_{when}_cm": float(rms[1])}
