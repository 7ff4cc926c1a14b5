"""Speed of decompositions, forward and with the gradient in the counts."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.decomposition.proxy_file import save_proxy
from pcctlearn.decomposition.proxy_network import ProxyNetwork
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts

TASKS = ("forward", "forward_backward")


class Timed(NamedTuple):
    """The calls of a method for ``n_rays``, and how often they are repeated.

    ``forward_backward`` is None for a method without a gradient.
    """

    forward: Callable[[], object]
    forward_backward: Callable[[], object] | None
    n_rays: int
    n_repeats: int


def of_layer(layer: Decomposition, counts: Counts, n_repeats: int) -> Timed:
    """The calls of a layer, with the gradient of Σ x in the counts."""

    def forward() -> None:
        with torch.no_grad():
            layer(counts)

    def both() -> None:
        n = counts.detach().clone().requires_grad_()
        torch.autograd.grad(layer(n).x.sum(), n)

    return Timed(forward, both, counts[:, 0].numel(), n_repeats)


def rays_per_second(methods: Mapping[str, Timed]) -> dict[str, float]:
    """{method_task_rays_per_second: median}; methods and tasks take turns.

    A first call of each, which may compile, is not counted.
    """
    times: dict[str, list[float]] = {}
    for repeat in range(1 + max(timed.n_repeats for timed in methods.values())):
        for name, timed in methods.items():
            for task in TASKS:
                job: Callable[[], object] | None = getattr(timed, task)
                if job is not None and repeat <= timed.n_repeats:
                    times.setdefault(f"{name}_{task}", []).append(_seconds(job))
    sizes = {f"{name}_{task}": t.n_rays for name, t in methods.items() for task in TASKS}
    return {f"{key}_rays_per_second": sizes[key] / median(s[1:]) for key, s in times.items()}


def _seconds(job: Callable[[], object]) -> float:
    """Time of a call, including the work that it leaves on a GPU."""
    _finish()
    began = perf_counter()
    job()
    _finish()
    return perf_counter() - began


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def untrained_proxy(model: SpectralModel, widths: Sequence[int]) -> ProxyDecomposition:
    """A proxy without training and without limits of its range: as fast as a trained one."""
    network = ProxyNetwork(model.thresholds.n_bins, len(model.materials), widths)
    everything = torch.tensor([[-1e3], [1e3]])
    network.z_limits.copy_(everything)
    network.limits.copy_(everything)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.pt"
        save_proxy(path, network, model)
        return ProxyDecomposition(model, str(path))
