"""Newton's method and its implicit derivative by a generic library: Optimistix (Apache-2.0) on JAX.

The likelihood is written as its user would write it: its gradient, its Hessian and the derivative
of the minimum come from automatic differentiation, and ``vmap`` runs the rays together.

J. Rader, T. Lyons, P. Kidger, "Optimistix: modular optimisation in JAX and Equinox",
arXiv:2402.09983 (2024).
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcctlearn.decomposition.adapters import Peer
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra

_TOLERANCE = 1e-6  # relative and absolute change of x in the last step, g/cm²
_MOST_STEPS = 30


def prepare(
    counts: RayCounts, spectra: Spectra, attenuation: Attenuation, start: RayLineIntegrals
) -> Peer:
    """``root_find`` of the gradient in double precision, compiled by XLA on all cores.

    Single precision takes more steps, and is slower.
    """
    try:
        import jax
        import optimistix
        from jax import numpy as jnp
    except ImportError as error:
        raise ImportError("Optimistix is not installed: `pip install optimistix`") from error

    # it reports every accelerator that the computer lacks
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

    def likelihood(x: Any, args: Any) -> Any:
        n, S, mu = args
        mean = S @ jnp.exp(-x @ mu)
        return (mean - n * jnp.log(mean)).sum()

    solver: Any = optimistix.Newton(rtol=_TOLERANCE, atol=_TOLERANCE)

    def minimum(n: Any, x: Any, S: Any, mu: Any) -> Any:
        return optimistix.root_find(
            jax.grad(likelihood), solver, x, (n, S, mu), max_steps=_MOST_STEPS, throw=False
        ).value

    with jax.enable_x64(True):
        theta = [
            jnp.asarray(t.detach().double().numpy()) for t in (counts, start, spectra, attenuation)
        ]
        minima = jax.jit(jax.vmap(minimum, (0, 0, None, None)))

        def total(n: Any, *others: Any) -> Any:
            x = minima(n, *others)
            return x.sum(), x

        gradient = jax.jit(jax.value_and_grad(total, has_aux=True))

    def as_tensor(array: Any) -> Tensor:
        return torch.from_numpy(np.array(array))

    def forward() -> Tensor:
        with jax.enable_x64(True):
            return as_tensor(minima(*theta))

    def forward_backward() -> tuple[Tensor, Tensor]:
        with jax.enable_x64(True):
            (_, x), in_counts = gradient(*theta)
            return as_tensor(x), as_tensor(in_counts)

    return Peer(forward, forward_backward)
