"""Small problems and studies for the tests of the upper floors, each solved once."""

from functools import cache, partial
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from support.scanners import scanner

from pcctlearn.calibration.gauss_newton import GaussNewton
from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.decomposition.sensitivity import fisher_information
from pcctlearn.losses.likelihood import DevianceLoss, MisfitLoss
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.patients.axial_slice import AxialSlice
from pcctlearn.phantoms.ellipses import water_calcium_phantom
from pcctlearn.phantoms.ellipsoids import head_phantom
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scan import Scan
from pcctlearn.shapes import channels_first
from pcctlearn.studies.calibration import biased
from pcctlearn.studies.cone_reconstruction import ConeReconstruction
from pcctlearn.studies.perturbation import Perturbation
from pcctlearn.studies.thresholds_phantom import PhantomCalibration
from pcctlearn.studies.thresholds_slabs import SlabCalibration
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.iterative.cgls import cgls
from pcctlearn.tomography.iterative.fista_tv import fista_tv
from pcctlearn.tomography.iterative.sirt import os_sart, sirt
from pcctlearn.training.threshold_module import fit_thresholds

REPOSITORY = Path(__file__).parents[2]
WATER_G_CM2, CALCIUM_G_CM2 = (0.0, 8.0, 16.0, 24.0), (0.0, 0.8, 1.6)


def quiet_trainer(**options):
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(
        **{"accelerator": "cpu", "max_epochs": 1, "enable_checkpointing": False} | silent | options
    )


def in_context(folder=Path("unused"), **options):
    """The context of a run with a quiet trainer."""
    return Context(folder, build_trainer=lambda: quiet_trainer(**options))


def squares(stage):
    return TotalLoss({stage: StageLoss(stage, torch.nn.MSELoss())})


def likelihood():
    return TotalLoss({"misfit": MisfitLoss(), "deviance": DevianceLoss()})


def slabs(n_pixels=1):
    """Area densities (slab, pixel, material) of twelve slabs in g/cm²."""
    table = torch.cartesian_prod(torch.tensor(WATER_G_CM2), torch.tensor(CALCIUM_G_CM2))
    return table[:, None].expand(-1, n_pixels, -1)


def slab_problem(n_pixels=1, bias_keV=0.5):
    """A chain with nominal thresholds, the scan of a detector with other ones, and these."""
    model = scanner(every=4)
    nominal = model.thresholds.edges_keV.detach().expand(n_pixels, -1)
    true_edges = biased(nominal, model.thresholds.learn, bias_keV)
    A = slabs(n_pixels)
    counts = model.with_edges(true_edges)(A).detach()
    chain = Chain(MaximumLikelihood(model.with_edges(nominal)))
    precision = fisher_information(A, chain.decompose.model.spectra().detach(), model.attenuation)
    return (
        chain,
        Scan(
            counts=channels_first(counts[None]),
            line_integrals=channels_first(A[None]),
            precision=precision[None],
        ),
        true_edges,
    )


TINY_IMAGE, TINY_VOLUME = ImageGrid(24, 24, 1.2), VolumeGrid(24, 20, 16, 1.0)


def tiny_beam():
    return ParallelBeam(n_views=20, n_columns=24, pixel_cm=1.2)


def phantom_problem(columns=(7, 15), bias_keV=0.5):
    """24 columns × 20 views of the calibration phantom; the thresholds of two columns are off."""
    model, beam = scanner(every=4), tiny_beam()
    nominal = model.thresholds.edges_keV.detach().expand(beam.n_columns, -1)
    off = torch.zeros_like(nominal)
    off[list(columns)] = bias_keV
    true_edges = biased(nominal, model.thresholds.learn, off)
    reconstruct = fbp(beam, TINY_IMAGE).double()
    A = water_calcium_phantom().line_integrals(*beam.rays())[None]
    counts = model.with_edges(true_edges)(A[0].movedim(0, -1)).detach()
    chain = Chain(MaximumLikelihood(model.with_edges(nominal)), reconstruct)
    target = Scan(counts=channels_first(counts[None]), line_integrals=A, maps=reconstruct @ A)
    return chain, target, true_edges


by_gauss_newton = partial(fit_thresholds, optimizer=GaussNewton())


def slab_study(**options):
    sizes = {"water_cm": (0.0, 24.0, 8.0), "calcium_cm": (0.0, 1.0, 0.5)}
    loss = likelihood() if options.get("noisy") else squares("line_integrals")
    model = scanner(every=4)
    return SlabCalibration(model, MaximumLikelihood, loss, by_gauss_newton, **sizes | options)


def phantom_study(**options):
    beam = ParallelBeam(n_views=24, n_columns=48, pixel_cm=0.8)
    parts = {"geometry": beam, "grid": ImageGrid(48, 48, 0.8), "patient": AxialSlice()}
    parts |= {
        "phantom": water_calcium_phantom(),
        "loss": squares("maps"),
        "training": by_gauss_newton,
    }
    sizes = {"biased_columns": (18, 29), "max_steps": 6}
    return PhantomCalibration(scanner(every=4), MaximumLikelihood, **parts | sizes | options)


def perturbation_study():
    model = scanner(edges_keV=[15.0, 50.0, 120.0])
    return Perturbation(model, MaximumLikelihood, n_noisy=2)


def tiny_cone():
    """Voxels and pixels of 1 cm around the head, a short scan."""
    return ConeBeam(30, 24, 22, 1.755, 62.5, 109.7, arc_rad=4.2)


def cone_study(**options):
    parts = {
        "geometry": tiny_cone(),
        "grid": TINY_VOLUME,
        "phantom": head_phantom(),
        "fdk": fbp,
        "sirt": partial(sirt, max_iterations=16),
        "os_sart": partial(os_sart, max_iterations=4),
        "cgls": partial(cgls, max_iterations=8),
        "fista_tv": partial(fista_tv, strength=0.1, max_iterations=16, inner_iterations=5),
    }
    return ConeReconstruction(**parts | {"n_subsets": 5} | options)


@cache
def finished_cone() -> StudyResults:
    return cone_study().run(in_context())


STUDIES = {
    "perturbation": perturbation_study,
    "thresholds_slabs": slab_study,
    "thresholds_slabs_noisy": lambda: slab_study(noisy=True, n_detectors=24),
    "thresholds_phantom": phantom_study,
    "thresholds_phantom_all_pixels": lambda: phantom_study(biased_columns=None, max_steps=12),
}


@cache
def finished(name) -> StudyResults:
    return STUDIES[name]().run(in_context())
