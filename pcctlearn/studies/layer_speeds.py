"""Rays per second of decomposition layers, measured in turns."""

from collections.abc import Mapping
from statistics import median
from time import perf_counter

import torch

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.shapes import Counts

TASKS = ("forward", "forward_backward")


def layer_speeds(
    layers: Mapping[str, Decomposition], counts: Counts, n_repeats: int = 5
) -> dict[str, dict[str, float]]:
    """{task: {layer: median rays per second}}, without and with the gradient in the counts.

    Each repeat times all layers, so that other load on the machine affects all of them. The first
    call of each compiles and is not counted.
    """
    n_rays = counts[:, 0].numel()
    times: dict[str, dict[str, list[float]]] = {
        task: {name: [] for name in layers} for task in TASKS
    }
    for repeat in range(n_repeats + 1):
        for name, layer in layers.items():
            for task in TASKS:
                seconds = _seconds(layer, counts, task == "forward_backward")
                if repeat:
                    times[task][name].append(seconds)
    return {
        task: {name: n_rays / median(seconds) for name, seconds in of_layers.items()}
        for task, of_layers in times.items()
    }


def _seconds(layer: Decomposition, counts: Counts, backward: bool) -> float:
    n = counts.detach().clone().requires_grad_(backward)
    began = perf_counter()
    with torch.set_grad_enabled(backward):
        x = layer(n).x
        if backward:
            torch.autograd.grad(x.sum(), n)
    return perf_counter() - began
