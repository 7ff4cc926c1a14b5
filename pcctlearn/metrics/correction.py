"""What scatter leaves behind: errors of projections and images against the scatter-free scan."""

from torch import Tensor

from pcctlearn.metrics.errors import rms
from pcctlearn.physics.attenuation import thickness_cm
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.units import MG_ML

BODY_HU = -500.0  # what is denser in the reference belongs to the object


def correction_errors(
    predicted: Scan,
    reference: Scan,
    image: MonoenergeticImages,
    materials: tuple[str, ...],
    seen: Tensor,
) -> dict[str, float]:
    """Root mean square errors of one scan, over the rays and the voxels of the object.

    ``reference`` holds the same stages of the scan's primary counts; ``image`` one energy; ``seen``
    (*voxel) the voxels that every view sees. Projections in cm of the material at its reference
    density, images in mg/mL and HU; ``spr_percent`` is what is left of scatter over primary, its
    magnitude, all bins together, averaged over the rays.
    """
    through = reference.at("line_integrals").sum(1) > SHADOW_G_CM2
    errors = {}
    counts = predicted.corrected_counts
    left = (predicted.at("counts") if counts is None else counts) - reference.at("corrected_counts")
    primary = reference.at("corrected_counts").sum(1)
    errors["spr_percent"] = 100 * (left.sum(1).abs() / primary)[through].mean().item()
    difference = predicted.at("line_integrals") - reference.at("line_integrals")
    for number, name in enumerate(materials):
        rays = thickness_cm(difference[:, number][through], name)
        errors[f"projection_{name}_rmse_cm"] = rms(rays)
    truth_HU = image.hounsfield(reference.at("maps"))[:, 0]
    body = (truth_HU > BODY_HU) & seen
    maps = predicted.at("maps") - reference.at("maps")
    for number, name in enumerate(materials):
        errors[f"image_{name}_rmse_mg_mL"] = MG_ML * rms(maps[:, number][body])
    seen_HU = image.hounsfield(predicted.at("maps"))[:, 0]
    errors[f"vmi{image.energies_keV[0]:.0f}_rmse_HU"] = rms((seen_HU - truth_HU)[body])
    return errors
