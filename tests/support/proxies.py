"""A small proxy of a scanner, trained in seconds."""

from functools import cache, partial

import torch
from support.scanners import scanner
from support.studies import quiet_trainer

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.losses.sobolev import SobolevLoss
from pcctlearn.studies.proxy import ProxyStudy
from pcctlearn.training.proxy_module import fit_proxy
from pcctlearn.training.proxy_rays import ProxyRays

BOX = {"water": (-0.5, 12.0), "calcium": (-0.05, 1.0)}
TOLERANCE = {"water": 0.01, "calcium": 0.00155}


def fixed_scanner(**options):
    """A scanner whose thresholds have no gradient."""
    return scanner(**{"every": 4} | options).requires_grad_(False)


def small_training(rays, loss, trainer, seed=0, **options):
    """Two layers of 16 units."""
    sizes = {"widths": [16, 16], "n_rays": 4000, "n_batch": 64}
    adam = partial(torch.optim.Adam, lr=0.02)
    decay = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=trainer.max_epochs)
    return fit_proxy(rays, loss, trainer, adam, decay, seed=seed, **sizes | options)


@cache
def small_proxy(jacobian_tolerance=0.01):
    """The network and the numbers of its training."""
    rays, loss = ProxyRays(fixed_scanner(), BOX), SobolevLoss(TOLERANCE, jacobian_tolerance)
    return small_training(rays, loss, quiet_trainer(max_epochs=12))


def proxy_study(**options):
    parts = {
        "model": fixed_scanner(),
        "decomposition": MaximumLikelihood,
        "rays": partial(ProxyRays, range_g_cm2=BOX),
        "loss": SobolevLoss(TOLERANCE),
        "training": partial(small_training, n_rays=1000),
    }
    return ProxyStudy(**parts | {"n_judged": 500, "n_map": 7, "n_timed": 500} | options)
