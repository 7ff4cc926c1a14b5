"""The Nelder–Mead decomposition of RTK (itk-rtk, Apache-2.0), without derivatives.

S. Rit et al., "The Reconstruction Toolkit (RTK)", J. Phys. Conf. Ser. 489 (2014) 012079.
"""

import numpy as np
import torch
from torch import Tensor

from pcctlearn.decomposition.adapters import Peer
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra

_N_STEPS = 3000  # most rays end earlier, by the tolerance of its optimizer


def prepare(
    counts: RayCounts, spectra: Spectra, attenuation: Attenuation, start: RayLineIntegrals
) -> Peer:
    """``SimplexSpectralProjectionsDecompositionImageFilter`` on as many threads as torch has."""
    try:
        import itk
        from itk import RTK
    except ImportError as error:
        raise ImportError("RTK is not installed: `pip install itk-rtk`") from error

    n_rays, n_bins = counts.shape
    n_energies = spectra.shape[-1]
    vector, cube, plane = itk.VectorImage[itk.F, 3], itk.Image[itk.F, 3], itk.Image[itk.F, 2]

    def image(values: Tensor | np.ndarray, kind: type, *shape: int) -> object:
        array = np.ascontiguousarray(np.asarray(values), np.float32).reshape(shape)
        return itk.image_from_array(array, ttype=kind)

    # one pulse height in the middle of each bin: RTK's rule at bin edges has no effect
    edges = 10 + 30 * np.arange(n_bins + 1)
    response = np.zeros((edges[-1], n_energies), np.float32)
    S = spectra.detach().double().numpy()
    total = S.sum(0)
    response[edges[:-1] + 15] = S / np.where(total > 0, total, 1)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    simplex = RTK.SimplexSpectralProjectionsDecompositionImageFilter[
        vector, vector, cube, plane, plane
    ].New()
    thresholds = itk.VariableLengthVector[itk.D]()
    thresholds.SetSize(n_bins + 1)
    for i, edge in enumerate(edges):
        thresholds[i] = float(edge)
    fluence = np.broadcast_to(total, (n_rays, n_energies))
    simplex.SetInputDecomposedProjections(image(start, vector, 1, 1, n_rays, start.shape[-1]))
    simplex.SetInputMeasuredProjections(image(counts, vector, 1, 1, n_rays, n_bins))
    simplex.SetInputIncidentSpectrum(image(fluence, cube, 1, n_rays, n_energies))
    simplex.SetDetectorResponse(image(response, plane, *response.shape))
    simplex.SetMaterialAttenuations(image(attenuation.T, plane, n_energies, len(attenuation)))
    simplex.SetThresholds(thresholds)
    simplex.SetNumberOfIterations(_N_STEPS)

    def forward() -> Tensor:
        simplex.Modified()  # run again, also if nothing has changed
        simplex.Update()
        return torch.from_numpy(itk.array_from_image(simplex.GetOutput(0))).reshape(start.shape)

    return Peer(forward)
