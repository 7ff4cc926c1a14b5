"""Errors of scatter-corrected projections and images relative to the scatter-free scan."""

from torch import Tensor

from pcctlearn.metrics.errors import rms
from pcctlearn.physics.attenuation import thickness_cm
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.units import MG_ML

BODY_HU = -500.0  # threshold of the object in the reference


def correction_errors(
    predicted: Scan,
    reference: Scan,
    image: MonoenergeticImages,
    materials: tuple[str, ...],
    visible: Tensor,
) -> dict[str, float]:
    """Root mean square errors of one scan, over the rays and the voxels of the object.

    ``reference`` holds the same stages for the primary counts, ``image`` has a single energy, and
    ``visible`` (*voxel) marks voxels that all views measure. Projections are in cm of the material
    at its reference density, images in mg/mL and HU. ``spr_percent`` is the magnitude of the
    remaining scatter over primary of all bins together, averaged over the rays.
    """
    through = reference.at("line_integrals").sum(1) > SHADOW_G_CM2
    errors = {}
    counts = predicted.corrected_counts
    counts = predicted.at("counts") if counts is None else counts
    scatter = (counts - reference.at("corrected_counts")).sum(1)
    primary = reference.at("corrected_counts").sum(1)
    errors["spr_percent"] = 100 * (scatter.abs() / primary)[through].mean().item()
    difference = predicted.at("line_integrals") - reference.at("line_integrals")
    for number, name in enumerate(materials):
        rays = thickness_cm(difference[:, number][through], name)
        errors[f"projection_{name}_rmse_cm"] = rms(rays)
    truth_HU = image.hounsfield(reference.at("maps"))[:, 0]
    body = (truth_HU > BODY_HU) & visible
    maps = predicted.at("maps") - reference.at("maps")
    for number, name in enumerate(materials):
        errors[f"image_{name}_rmse_mg_mL"] = MG_ML * rms(maps[:, number][body])
    found_HU = image.hounsfield(predicted.at("maps"))[:, 0]
    errors[f"vmi{image.energies_keV[0]:.0f}_rmse_HU"] = rms((found_HU - truth_HU)[body])
    return errors
