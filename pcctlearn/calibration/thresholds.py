"""Calibration of the thresholds of every pixel with the scan of a known object."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.gauss_newton import EdgeVector, GaussNewton
from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.decomposition.sensitivity import fisher_information, threshold_jacobian
from pcctlearn.losses.curvature import Linearisation
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scan import STAGES, Scan
from pcctlearn.shapes import RayLineIntegrals, channels_last

# steps that raise the loss before the search returns to the best edges (R. M. Chamberlain et al.,
# Math. Program. Study 16 (1982) 1, "watchdog")
_UPHILL_STEPS = 2
_LEAST_BIN_keV = 1.0
_HALVINGS = 10


class Iterate(NamedTuple):
    """Edges and their loss."""

    loss: float
    edges_keV: EdgeVector


@dataclass
class Calibration:
    """Result of a calibration.

    Args:
        edges_keV: edges of every pixel.
        observable: pixels whose thresholds the scan determines; the others keep their edges.
        converged: whether the last step was smaller than its tolerance.
        history: one entry for each step.
    """

    edges_keV: EdgeVector
    observable: Bool[Tensor, "pixel"]
    converged: bool
    history: list[Iterate] = field(default_factory=list)


def calibrate_thresholds(
    chain: Chain,
    target: Scan,
    loss: TotalLoss,
    optimizer: GaussNewton,
    max_steps: int,
    on_step: Callable[[Iterate], None] = lambda iterate: None,
    max_sd_keV: float = 100.0,
    step_tolerance_keV: float = 1e-3,
) -> Calibration:
    """Minimise the loss over the thresholds of all pixels, and set the best ones in the chain.

    A step that raises the loss is accepted up to twice in a row, because along a curved valley the
    next step is often the best so far. After that the search returns to the best edges and raises
    its damping.

    Args:
        chain: a chain whose model has thresholds per pixel, float64.
        target: one scan of a known object: its counts, true line integrals, and other stages that
            the loss compares.
        loss: a loss on stages of the chain.
        optimizer: computes the steps.
        max_steps: largest number of steps.
        on_step: called with each iterate.
        max_sd_keV: pixels whose thresholds have a larger standard deviation are not calibrated.
            The default is the width of the spectrum.
        step_tolerance_keV: converged when no threshold moves by more.

    Raises:
        ValueError: the chain and the loss do not match, the decomposition is not maximum
            likelihood, or no pixel is observable.
    """
    require_calibratable(chain, loss)
    if not isinstance(chain.decompose, MaximumLikelihood):
        raise ValueError(
            "Gauss–Newton steps have the Jacobian of maximum likelihood, got "
            f"{type(chain.decompose).__name__}: use decomposition=maximum_likelihood, or "
            "training=lbfgs with a closed form"
        )
    observable = observable_pixels(chain, target, max_sd_keV)
    thresholds = chain.decompose.model.thresholds
    learned = observable[:, None] & thresholds.learn
    history: list[Iterate] = []
    best, uphill, damping, converged = None, 0, optimizer.damping, False
    while len(history) < max_steps and not converged:
        predicted, total = compare(chain, target, loss, observable)
        iterate = Iterate(float(total.detach()), thresholds.edges_keV.detach().clone())
        history.append(iterate)
        on_step(iterate)
        if best is None and not math.isfinite(iterate.loss):
            raise ValueError(
                "the loss is not finite at the initial thresholds: check the counts, and that the "
                "thresholds lie within the spectrum"
            )
        if best is None or iterate.loss < best.loss * (1 + 1e-9):
            damping = damping if best is None else damping / 10
            best, uphill = iterate, 0
        else:
            uphill += 1
            if uphill > _UPHILL_STEPS or not math.isfinite(iterate.loss):
                thresholds.assign(best.edges_keV)
                damping *= 10
                predicted, total = compare(chain, target, loss, observable)
        (gradient,) = torch.autograd.grad(total, thresholds.edges_keV)
        at = Linearisation(chain, predicted, target, _jacobian(chain, predicted, target, learned))
        step = optimizer.step(at.jacobian, gradient * learned, loss.curvature(at), damping)
        edges = thresholds.edges_keV.detach()
        step = _in_order(edges, step * learned)
        thresholds.assign(edges + step)
        # after an uphill step or with raised damping a short step does not imply convergence
        converged = uphill == 0 and bool(step.abs().max() < step_tolerance_keV)
    if best is not None and not converged:
        thresholds.assign(best.edges_keV)  # the loss after the last step is unknown
    return Calibration(thresholds.edges_keV.detach().clone(), observable, converged, history)


def require_calibratable(chain: Chain, loss: TotalLoss) -> None:
    """Raise ValueError for shared thresholds, or a loss on a stage that the chain lacks."""
    if chain.decompose.model.thresholds.edges_keV.ndim != 2:
        raise ValueError("thresholds are fitted per pixel: use Thresholds(edges_keV, n_pixels=…)")
    if STAGES.index(loss.deepest) >= STAGES.index("maps") and chain.reconstruct is None:
        raise ValueError(
            f"the loss compares {loss.deepest}, but the chain ends at the line integrals: use "
            "losses=line_integrals"
        )


def compare(
    chain: Chain, target: Scan, loss: TotalLoss, observable: Bool[Tensor, "pixel"]
) -> tuple[Scan, Tensor]:
    """The predicted scan and its loss; unobservable pixels get the true line integrals."""
    predicted = chain(target.counts, until="line_integrals")
    A = torch.where(observable, predicted.line_integrals, target.at("line_integrals"))
    predicted = chain.resume(replace(predicted, line_integrals=A), loss.deepest, loss.expects)
    return predicted, torch.stack(list(loss(predicted, target).values())).sum()


@torch.no_grad()
def observable_pixels(chain: Chain, target: Scan, max_sd_keV: float) -> Bool[Tensor, "pixel"]:
    """Pixels whose thresholds the line integrals of this scan determine; ValueError if none."""
    if (n_scans := len(target.at("counts"))) != 1:
        raise ValueError(f"thresholds are calibrated on one scan at a time, got {n_scans}")
    model = chain.decompose.model
    rays = channels_last(chain(target.counts, until="line_integrals").at("line_integrals"))[0]
    jacobian = threshold_jacobian(model, rays, channels_last(target.at("counts"))[0])
    information = decomposed_information(model, rays, jacobian)
    observable = is_observable(information, model.thresholds.learn, max_sd_keV)
    if not observable.any():
        raise ValueError(
            "the scan does not determine the thresholds of any pixel: scan thicker or more "
            f"objects, use more photons, or raise training.max_sd_keV={max_sd_keV:g}"
        )
    return observable


def decomposed_information(
    model: SpectralModel,
    line_integrals: RayLineIntegrals,
    jacobian: Float[Tensor, "view pixel material edge"],
) -> Float[Tensor, "pixel edge edge"]:
    """I = Σ_rays (dA/dD)ᵀ C⁻¹ (dA/dD), with the Cramér–Rao bound C of each ray."""
    precision = fisher_information(line_integrals, model.spectra().detach(), model.attenuation)
    return torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, precision, jacobian)


def is_observable(
    information: Float[Tensor, "pixel edge edge"], learn: Bool[Tensor, "edge"], max_sd_keV: float
) -> Bool[Tensor, "pixel"]:
    """Pixels where every combination of learned edges has a standard deviation below max_sd_keV.

    The largest one is 1/√(least eigenvalue). A pixel that measures only air has two line integrals
    for all its edges, so its matrix is singular for any number of photons.
    """
    least = torch.linalg.eigvalsh(information[:, learn][:, :, learn])[:, 0]
    return least > max_sd_keV**-2


def _jacobian(
    chain: Chain, predicted: Scan, target: Scan, learned: Bool[Tensor, "pixel edge"]
) -> Float[Tensor, "view pixel material edge"]:
    """dA/dD; zero for edges that are not learned, and for rays unsolved or on a limit."""
    rays = channels_last(predicted.at("line_integrals"))[0].detach()
    moves = predicted.at("converged")[0]
    if box := chain.decompose.bounds():
        lower, upper = rays.new_tensor(box)
        moves = moves & ((rays > lower) & (rays < upper)).all(-1)
    counts = channels_last(target.at("counts"))[0]
    jacobian = threshold_jacobian(chain.decompose.model, rays, counts)
    return jacobian * learned[:, None, :] * moves[..., None, None]


def _in_order(edges: Tensor, step: Tensor) -> Tensor:
    """The step, halved while bins of a pixel would be narrower than ``_LEAST_BIN_keV``."""
    for _ in range(_HALVINGS):
        tight = ((edges + step).diff(dim=-1) < _LEAST_BIN_keV).any(-1, keepdim=True)
        step = torch.where(tight, step / 2, step)
    return torch.where(((edges + step).diff(dim=-1) > 0).all(-1, keepdim=True), step, 0)
