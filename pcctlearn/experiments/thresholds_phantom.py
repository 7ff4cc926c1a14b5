"""Thresholds from the scan of a known phantom, then a patient scanned with the same detector."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcctlearn.chain import Chain
from pcctlearn.datasets.axial_slice import AxialSlice
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
from pcctlearn.experiments.wider_field import advice_of_settings
from pcctlearn.figures.calibration import (
    calibration_curves,
    phantom_images,
    scan_images,
    threshold_errors,
)
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.phantoms.body import body_mask
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry import FlatBeam
from pcctlearn.tomography.sparse_projector import Projector
from pcctlearn.training.threshold_module import ThresholdModule

log = logging.getLogger(__name__)


class PhantomCalibration:
    """Some or all pixels have wrong thresholds; images of a known phantom put them right.

    The loss compares images, or line integrals, with those of the known phantom. What was found
    is then used on the scan of a patient, which the calibration never saw.

    Args:
        model: the scanner with its nominal thresholds, the same for all pixels.
        decomposition, loss, training: as in the slab study.
        geometry: the scan, parallel or fan beam.
        phantom: what is calibrated with.
        patient: what is scanned afterwards.
        window: of the reconstruction.
        bias_keV: offset of the edges of ``biased_columns``; for all columns, where these are
            ``None``, the standard deviation of a normal distribution.
        least_views: columns that the phantom shadows in fewer views are not judged.
        vmi_keV: energy of the monoenergetic images.
        seed: of the biases.
        max_steps: of the optimiser.
    """

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[[SpectralModel], Decomposition],
        loss: TotalLoss,
        training: Callable[..., ThresholdModule],
        geometry: FlatBeam,
        phantom: EllipsePhantom,
        patient: AxialSlice,
        window: str = "ramp",
        bias_keV: float = 0.5,
        biased_columns: Sequence[int] | None = None,
        least_views: int = 20,
        vmi_keV: float = 60.0,
        seed: int = 0,
        max_steps: int = 15,
    ) -> None:
        if not isinstance(geometry, FlatBeam):
            raise TypeError(
                f"thresholds_phantom takes a parallel or fan beam, got {type(geometry).__name__}: "
                "use tomography=parallel or tomography=fan"
            )
        if isinstance(phantom, EllipsoidPhantom):
            raise TypeError(
                "thresholds_phantom takes a phantom of ellipses, got EllipsoidPhantom: use "
                "phantoms=water_calcium"
            )
        check_steps(max_steps)
        check_materials(model, phantom.materials)
        n_columns = geometry.n_columns
        if biased_columns is not None and not all(0 <= c < n_columns for c in biased_columns):
            raise ValueError(
                f"biased_columns must lie in 0 … {n_columns - 1}, got {list(biased_columns)}"
            )
        if model.thresholds.edges_keV.ndim != 1:
            raise ValueError("the study makes the pixels' thresholds itself: give shared ones")
        self.model, self.decomposition, self.loss = model, decomposition, loss
        self.training, self.geometry, self.phantom = training, geometry, phantom
        self.patient, self.window, self.bias_keV = patient, window, bias_keV
        self.biased_columns, self.least_views = biased_columns, least_views
        self.vmi_keV, self.seed, self.max_steps = vmi_keV, seed, max_steps

    def run(self, context: Context) -> StudyResults:
        """Scan the phantom, calibrate on it, scan the patient."""
        learn = self.model.thresholds.learn
        nominal = self.model.thresholds.edges_keV.detach().expand(self.geometry.n_columns, -1)
        true_edges = biased(nominal, learn, self._bias(nominal.shape))
        detector = with_edges(self.model, true_edges)

        log.info("building the reconstruction of %s", self.geometry)
        # Gauss–Newton needs the transpose
        reconstruct = fbp(self.geometry, self.window, truncation="cosine").double()
        image = MonoenergeticImages(self.model.materials, [self.vmi_keV])
        chain = Chain(self.decomposition(with_edges(self.model, nominal)), reconstruct, image)

        log.info("scanning the phantom and the patient")
        A = self.phantom.line_integrals(*self.geometry.rays()).double()[None]
        shadowed = (A[0].sum(0) > 0).sum(0)
        judged = shadowed >= self.least_views
        self._check_biased(judged)
        precision = fisher_information(
            A[0].movedim(0, -1), chain.decompose.model.spectra().detach(), self.model.attenuation
        )
        target = Scan(
            counts=self._counts(detector, A),
            line_integrals=A,
            maps=reconstruct @ A,
            precision=precision[None],
        )
        grid = self.geometry.image
        with advice_of_settings(self.geometry):
            patient_maps = self.patient.maps(grid.n_y, grid.n_x, grid.voxel_cm).double()
        patient_A = Projector(self.geometry).double() @ patient_maps
        patient = Scan(counts=self._counts(detector, patient_A))
        reference = chain.onward(Scan(line_integrals=patient_A))

        before, patient_before = self._image(chain, target), self._image(chain, patient)
        module = self.training(chain=chain, loss=self.loss, true_edges_keV=true_edges)
        fit(context.trainer, module, target, self.max_steps)
        after, patient_after = self._image(chain, target), self._image(chain, patient)

        edges = chain.decompose.model.thresholds.edges_keV.detach()
        error_before = (nominal - true_edges)[judged][:, learn]
        error_after = (edges - true_edges)[judged][:, learn]
        hounsfield = {
            name: image.hounsfield(scan.at("maps"))[0, 0]
            for name, scan in (
                ("reference", reference),
                ("before", patient_before),
                ("after", patient_after),
            )
        }
        spacing = (grid.voxel_cm, grid.voxel_cm)
        body = body_mask(image.hounsfield(patient_maps)[0, 0], spacing)
        rms = {
            when: float((hounsfield[when] - hounsfield["reference"])[body].square().mean().sqrt())
            for when in ("before", "after")
        }
        assert module.observable is not None
        vmi = f"scan_vmi{self.vmi_keV:g}_rmse"
        numbers = {
            "threshold_error_before_max_keV": float(error_before.abs().max()),
            "threshold_error_before_rms_keV": float(error_before.square().mean().sqrt()),
            "threshold_error_after_max_keV": float(error_after.abs().max()),
            "threshold_error_after_rms_keV": float(error_after.square().mean().sqrt()),
            f"{vmi}_before_HU": rms["before"],
            f"{vmi}_after_HU": rms["after"],
            f"{vmi}_after_over_before": rms["after"] / rms["before"],
            "judged_columns": float(judged.sum()),
            "unobservable_columns": float((~module.observable).sum()),
            "judged_but_unobservable_columns": float((judged & ~module.observable).sum()),
            "steps": float(len(module.history)),
            "fit_converged": float(module.converged),
        }
        unseen = (~module.observable).nonzero()[:, 0].tolist()
        return StudyResults(
            numbers,
            {
                "phantom/reference": target.at("maps")[0],
                "phantom/before": before.at("maps")[0],
                "phantom/after": after.at("maps")[0],
                "patient/maps": patient_maps[0],
                "patient/reference": reference.at("maps")[0],
                "patient/before": patient_before.at("maps")[0],
                "patient/after": patient_after.at("maps")[0],
                "patient/body": body,
                **{f"patient/{name}_HU": values for name, values in hounsfield.items()},
                "edges/true_keV": true_edges,
                "edges/nominal_keV": nominal,
                "edges/found_keV": edges,
                "columns/observable": module.observable,
                "columns/judged": judged,
                **history_arrays(module),
            },
            {
                "scan_images": scan_images,
                "phantom_images": phantom_images,
                "calibration_curves": calibration_curves,
                "threshold_errors": threshold_errors,
            },
            {
                "scan_images": f"The patient ({self.patient.name}), scanned by the biased detector "
                "and decomposed with the nominal thresholds (top) and with the calibrated ones "
                "(below). The last column is the error of the monoenergetic image against an "
                "unbiased detector.",
                "phantom_images": "The calibration phantom: known, with nominal thresholds, with "
                "calibrated ones.",
                "calibration_curves": "Loss and threshold error after each step of the optimiser.",
                "threshold_errors": "Threshold error of every detector column, before and after. "
                "Grey: columns that the phantom leaves unobservable; they keep their thresholds.",
            },
            f"Scanned: {self.patient.name}. "
            + (
                f"Columns that see nothing but air, or too little, keep their nominal thresholds: "
                f"{_ranges(unseen)}."
                if unseen
                else "Every column is observable."
            ),
        )

    def _bias(self, shape: torch.Size) -> Tensor:
        if self.biased_columns is None:
            generator = torch.Generator().manual_seed(self.seed)
            return self.bias_keV * torch.randn(shape, generator=generator, dtype=torch.float64)
        bias = torch.zeros(shape, dtype=torch.float64)
        bias[list(self.biased_columns)] = self.bias_keV
        return bias

    def _check_biased(self, judged: Tensor) -> None:
        unseen = [c for c in self.biased_columns or () if not judged[c]]
        if unseen:
            seen = judged.nonzero()[:, 0].tolist()
            raise ValueError(
                f"the phantom shadows biased column {unseen[0]} in fewer than {self.least_views} "
                f"views, so it cannot be calibrated: choose among {_ranges(seen)}, or take a "
                "larger phantom"
            )

    def _counts(self, detector: SpectralModel, line_integrals: Tensor) -> Tensor:
        return channels_first(detector(line_integrals[0].movedim(0, -1)).detach())

    @torch.no_grad()
    def _image(self, chain: Chain, scan: Scan) -> Scan:
        return chain(scan.counts)


def _ranges(numbers: list[int]) -> str:
    """Write 0, 1, 2, 7, 8 as 0–2, 7–8."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
