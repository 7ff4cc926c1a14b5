"""Tables of the cost of decompositions, beside the numbers of [1, Table III]."""

from collections.abc import Mapping, Sequence
from math import floor, nan
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.metrics.errors import Rows
from pcctlearn.solvers.implicit import Adjoint
from pcctlearn.studies.layer_speed import TASKS

EPOCH_RAYS = 1920 * 384 * 256  # of the training of [1]: 188.7 million
ADJOINTS: tuple[Adjoint, ...] = ("unrolled", "implicit")


class Method(NamedTuple):
    """What a method is called in tables, and its seconds per epoch in [1]."""

    label: str
    epoch_s: float | None = None


METHODS = {
    "scipy": Method("SciPy, ray by ray"),
    "rtk": Method("RTK simplex"),
    "nelder_mead": Method("Nelder–Mead", 31_000),
    "newton": Method("Newton, torch", 50_300),
    "optimistix": Method("Newton, Optimistix"),
    "proxy": Method("proxy"),
    "exact": Method("Newton, compiled"),
    "newton_cuda": Method("Newton, torch, GPU", 406),  # two NVIDIA TITAN RTX in [1]
    "proxy_cuda": Method("proxy, GPU", 40),
    "exact_cuda": Method("Newton, compiled, GPU"),
}


class Costs:
    """Numbers of the study by method: those that were measured, and those of [1].

    Args:
        numbers: {method_task_rays_per_second, method_rms_error_g_cm2 … : value}.
        untrained: whether the proxy was not trained.
    """

    def __init__(self, numbers: Mapping[str, float], untrained: bool) -> None:
        self.numbers = numbers
        self.methods = {}
        for name, method in METHODS.items():
            measured = f"{name}_forward_rays_per_second" in numbers
            if measured and untrained:
                label = method.label.replace("proxy", "proxy, untrained")
                self.methods[name] = method._replace(label=label)
            elif measured or method.epoch_s is not None:
                self.methods[name] = method

    def epoch_seconds(self) -> Tensor:
        """(method, task): forward, and with the gradient; NaN where not measured."""
        rows = [
            [self.numbers.get(f"{name}_{task}_epoch_seconds", nan) for task in TASKS]
            for name in self.methods
        ]
        return torch.tensor(rows)

    def of_the_article(self) -> Tensor:
        """(method): seconds per epoch in [1], else NaN."""
        return torch.tensor([method.epoch_s or nan for method in self.methods.values()])

    def table(self, n_threads: float) -> Rows:
        """Speed, seconds for an epoch, and errors of every method."""
        rows = []
        for name, method in self.methods.items():
            speeds = [self._shown(f"{name}_{t}_rays_per_second", 1e-6) for t in TASKS]
            seconds = [self._shown(f"{name}_{t}_epoch_seconds") for t in TASKS]
            article = "" if method.epoch_s is None else f"{method.epoch_s:.0f}"
            error = self._shown(f"{name}_rms_error_g_cm2")
            share = self._share(f"{name}_accurate_percent")
            rows.append((method.label, *speeds, seconds[1] or seconds[0], article, error, share))
        return Rows(
            f"Million rays/s, n_threads={n_threads:.0f}; seconds for an epoch of 188.7 million "
            "rays with their gradient, or forward alone where there is none; RMS error in g/cm²; "
            "share of rays within 0.01 g/cm² of double precision",
            ("method", "forward", "+ gradient", "epoch", "in [1]", "error", "% within 0.01"),
            rows,
        )

    def _share(self, key: str) -> str:
        """Percent, rounded down, so that 100 means every ray."""
        return f"{floor(100 * self.numbers[key]) / 100:g}" if key in self.numbers else ""

    def _shown(self, key: str, factor: float = 1.0) -> str:
        """Two digits; none if the number was not measured."""
        if key not in self.numbers:
            return ""
        value = factor * self.numbers[key]
        return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def with_epochs(speeds: Mapping[str, float]) -> dict[str, float]:
    """Rays per second, and the seconds for an epoch of [1]."""
    end = "_rays_per_second"
    seconds = {f"{k.removesuffix(end)}_epoch_seconds": EPOCH_RAYS / v for k, v in speeds.items()}
    return {**speeds, **seconds}


def memory_table(numbers: Mapping[str, float], n_steps: Sequence[int], n_rays: int) -> Rows:
    """Peak memory of both derivatives for each number of steps, and of the compiled layer.

    The compiled layer takes as many steps as it needs; arrays of compiled functions, whose size
    does not depend on them, are not counted.
    """
    rows = [
        (name, *(f"{numbers[f'{name}_memory_mb_{k}_steps']:.2f}" for k in n_steps))
        for name in ADJOINTS
    ]
    rows.append(("compiled layer", *[f"{numbers['exact_memory_mb']:.2f}"] * len(n_steps)))
    return Rows(
        f"Peak memory of {n_rays} rays, forward and backward (MB)",
        ("derivative", *(f"{k} steps" for k in n_steps)),
        rows,
    )
