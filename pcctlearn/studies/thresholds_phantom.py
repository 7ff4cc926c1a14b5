"""Threshold calibration on a known phantom, applied to the scan of a patient [1, Figs 7, 8]."""

import logging
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.thresholds import Calibration
from pcctlearn.chain import Chain
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.sensitivity import fisher_information
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.metrics.errors import rms
from pcctlearn.patients.cases import Cases
from pcctlearn.phantoms.body import body_mask
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scan import Scan
from pcctlearn.shapes import Edges, channels_first, channels_last
from pcctlearn.simulation.wider_field import advice_of_settings
from pcctlearn.studies.calibration import BiasedScan, biased, calibration_arrays
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FlatGeometry
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.projector import projector
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

Numbers = dict[str, float]
Arrays = dict[str, Tensor]


class PhantomCalibration:
    """Calibrate pixels with wrong thresholds on a known phantom, then image a patient with them.

    The loss compares images, or line integrals, with those of the known phantom. The calibrated
    thresholds are then used to decompose the scan of a patient.

    Args:
        model: spectral model with nominal thresholds, shared by all pixels.
        decomposition, loss, training: as in ``SlabCalibration``.
        geometry: parallel or fan beam.
        grid: grid of the images.
        phantom: the known object.
        patient: data set of slices, of which the first is scanned.
        filter: filter of the reconstruction, as in ``fbp``.
        bias_keV: offset of the edges of ``biased_columns``; if that is ``None``, standard deviation
            of a normal distribution of offsets in all columns.
        biased_columns: detector columns with a bias.
        least_views: columns that the phantom shadows in fewer views are left out of the errors.
        vmi_keV: energy of the monoenergetic images.
        seed: seed of the offsets.
        max_steps: upper limit of calibration steps.
    """

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[[SpectralModel], Decomposition],
        loss: TotalLoss,
        training: Callable[..., Calibration],
        geometry: FlatGeometry,
        grid: ImageGrid,
        phantom: EllipsePhantom,
        patient: Cases,
        filter: str = "ramp",
        bias_keV: float = 0.5,
        biased_columns: Sequence[int] | None = None,
        least_views: int = 20,
        vmi_keV: float = 60.0,
        seed: int = 0,
        max_steps: int = 15,
    ) -> None:
        if not isinstance(geometry, FlatGeometry):
            raise TypeError(
                f"thresholds_phantom takes a parallel or fan beam, got {type(geometry).__name__}: "
                "use tomography=parallel or tomography=fan"
            )
        if isinstance(phantom, EllipsoidPhantom):
            raise TypeError(
                "thresholds_phantom takes a phantom of ellipses, got EllipsoidPhantom: use "
                "phantoms=water_calcium"
            )
        require_positive(max_steps=max_steps)
        model.require_materials(phantom.materials)
        n_columns = geometry.n_columns
        if biased_columns is not None and not all(0 <= c < n_columns for c in biased_columns):
            raise ValueError(
                f"biased_columns must lie in 0 … {n_columns - 1}, got {list(biased_columns)}"
            )
        if model.thresholds.edges_keV.ndim != 1:
            raise ValueError(
                "the model's thresholds must be shared by all pixels, since the study adds the "
                "offsets itself: use one number for each edge in physics.thresholds.edges_keV"
            )
        self.model, self.decomposition, self.loss = model, decomposition, loss
        self.training, self.geometry, self.grid = training, geometry, grid
        self.phantom = phantom
        self.patient, self.filter, self.bias_keV = patient, filter, bias_keV
        self.biased_columns, self.least_views = biased_columns, least_views
        self.vmi_keV, self.seed, self.max_steps = vmi_keV, seed, max_steps

    @property
    def result_names(self) -> list[str]:
        """Names of the numbers that ``run`` returns."""
        vmi = f"scan_vmi{self.vmi_keV:g}_rmse"
        return [
            "threshold_error_before_max_keV",
            "threshold_error_before_rms_keV",
            "threshold_error_after_max_keV",
            "threshold_error_after_rms_keV",
            f"{vmi}_before_HU",
            f"{vmi}_after_HU",
            f"{vmi}_after_over_before",
            "judged_columns",
            "unobservable_columns",
            "judged_but_unobservable_columns",
            "steps",
            "fit_converged",
        ]

    def run(self, context: Context) -> StudyResults:
        """Scan phantom and patient, calibrate on the phantom, and compute the errors."""
        reconstruct = self._reconstruction()
        scan, patient = self.scan(reconstruct)
        found = self.fit(scan, reconstruct, context)
        return self.report(*self.measure(scan, patient, found, reconstruct))

    def scan(self, reconstruct: LinearOperator) -> tuple[BiasedScan, Scan]:
        """Counts of the phantom and of the patient, with the truth of both."""
        log.info("scanning the phantom and the patient")
        nominal = self.model.thresholds.edges_keV.detach().expand(self.geometry.n_columns, -1)
        true = biased(nominal, self.model.thresholds.learn, self._bias(nominal.shape))
        A = self.phantom.line_integrals(*self.geometry.rays()).double()[None]
        self._check_biased(self._judged(A))
        precision = fisher_information(
            channels_last(A),
            self.model.with_edges(nominal).spectra().detach(),
            self.model.attenuation,
        )
        grid = self.grid
        with advice_of_settings(self.geometry, grid):
            maps = self.patient.maps(0, grid)[None].double()
        A_patient = projector(self.geometry, grid).double() @ maps
        counts, counts_patient = (
            channels_first(self.model.with_edges(true)(channels_last(x)).detach())
            for x in (A, A_patient)
        )
        target = Scan(counts=counts, line_integrals=A, maps=reconstruct @ A, precision=precision)
        patient = Scan(counts=counts_patient, line_integrals=A_patient, maps=maps)
        return BiasedScan(nominal, true, target), patient

    def fit(self, scan: BiasedScan, reconstruct: LinearOperator, context: Context) -> Calibration:
        """Fit thresholds so that the phantom agrees with its known images or line integrals."""
        return self.training(
            chain=self._chain(scan.nominal_keV, reconstruct),
            target=scan.target,
            loss=self.loss,
            trainer=context.trainer,
            max_steps=self.max_steps,
        )

    @torch.no_grad()
    def measure(
        self, scan: BiasedScan, patient: Scan, found: Calibration, reconstruct: LinearOperator
    ) -> tuple[Numbers, Arrays]:
        """Errors of the thresholds and of the patient's image before and after calibration."""
        learn = self.model.thresholds.learn
        judged = self._judged(scan.target.at("line_integrals"))
        image = MonoenergeticImages(self.model.materials, [self.vmi_keV])
        reference = reconstruct @ patient.at("line_integrals")
        hounsfield = {"reference": image.hounsfield(reference)[0, 0]}
        voxel_cm = self.grid.voxel_cm
        body = body_mask(image.hounsfield(patient.at("maps"))[0, 0], (voxel_cm, voxel_cm))
        numbers: Numbers = {}
        images: Numbers = {}
        arrays: Arrays = {
            "phantom/reference": scan.target.at("maps")[0],
            "patient/maps": patient.at("maps")[0],
            "patient/reference": reference[0],
            "patient/body": body,
            "columns/observable": found.observable,
            "columns/judged": judged,
            **calibration_arrays(scan, found, learn),
        }
        vmi = f"scan_vmi{self.vmi_keV:g}_rmse"
        for when, edges in (("before", scan.nominal_keV), ("after", found.edges_keV)):
            error = (edges - scan.true_keV)[judged][:, learn]
            numbers[f"threshold_error_{when}_max_keV"] = float(error.abs().max())
            numbers[f"threshold_error_{when}_rms_keV"] = rms(error)
            chain = self._chain(edges, reconstruct)
            for name, counts in (("phantom", scan.target.counts), ("patient", patient.counts)):
                arrays[f"{name}/{when}"] = chain(counts, until="maps").at("maps")[0]
            hounsfield[when] = image.hounsfield(arrays[f"patient/{when}"][None])[0, 0]
            images[f"{vmi}_{when}_HU"] = rms((hounsfield[when] - hounsfield["reference"])[body])
        numbers |= images | {
            f"{vmi}_after_over_before": images[f"{vmi}_after_HU"] / images[f"{vmi}_before_HU"],
            "judged_columns": float(judged.sum()),
            "unobservable_columns": float((~found.observable).sum()),
            "judged_but_unobservable_columns": float((judged & ~found.observable).sum()),
            "steps": float(len(found.history)),
            "fit_converged": float(found.converged),
        }
        return numbers, arrays | {f"patient/{name}_HU": hu for name, hu in hounsfield.items()}

    def report(self, numbers: Numbers, arrays: Arrays) -> StudyResults:
        """Numbers, arrays and figures of the study."""
        unobservable = (~arrays["columns/observable"]).nonzero()[:, 0].tolist()
        columns = (
            "Columns with too few rays through the phantom keep their nominal thresholds: "
            f"{_ranges(unobservable)}."
            if unobservable
            else "Every column is observable."
        )
        return StudyResults(
            numbers,
            arrays,  # type: ignore[arg-type]
            [
                f"calibration.{name}"
                for name in (
                    "scan_images",
                    "phantom_images",
                    "calibration_curves",
                    "threshold_errors",
                )
            ],
            f"Patient: {self.patient.names[0]}. {columns}",
        )

    def _reconstruction(self) -> LinearOperator:
        log.info("building the reconstruction of %s", self.geometry)
        # cosine: linear, since Gauss–Newton needs the transpose
        return fbp(self.geometry, self.grid, self.filter, truncation="cosine").double()

    def _chain(self, edges_keV: Edges, reconstruct: LinearOperator) -> Chain:
        image = MonoenergeticImages(self.model.materials, [self.vmi_keV])
        return Chain(self.decomposition(self.model.with_edges(edges_keV)), reconstruct, image)

    def _judged(self, line_integrals: Tensor) -> Bool[Tensor, "column"]:
        """Columns that the phantom shadows in ``least_views`` views or more."""
        return (line_integrals[0].sum(0) > 0).sum(0) >= self.least_views

    def _bias(self, shape: torch.Size) -> Tensor:
        if self.biased_columns is None:
            generator = torch.Generator().manual_seed(self.seed)
            return self.bias_keV * torch.randn(shape, generator=generator, dtype=torch.float64)
        bias = torch.zeros(shape, dtype=torch.float64)
        bias[list(self.biased_columns)] = self.bias_keV
        return bias

    def _check_biased(self, judged: Tensor) -> None:
        wrong = [c for c in self.biased_columns or () if not judged[c]]
        if wrong:
            accepted = _ranges(judged.nonzero()[:, 0].tolist())
            raise ValueError(
                f"the phantom shadows biased column {wrong[0]} in fewer than {self.least_views} "
                f"views, so that it cannot be calibrated: choose study.biased_columns from "
                f"{accepted}, or use a larger phantom"
            )


def _ranges(numbers: list[int]) -> str:
    """Text for increasing numbers: 0, 1, 2, 7, 8 gives "0–2, 7–8"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
