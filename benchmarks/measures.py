"""Time of a call and adjointness of a pair of operators."""

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor


def timed(job: Callable[[], object], device: str | torch.device) -> float:
    """Seconds of a call, including the work that it leaves on a GPU."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    start = perf_counter()
    job()
    if on_gpu:
        torch.cuda.synchronize()
    return perf_counter() - start


def adjoint_error(
    forward: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], x: Tensor
) -> float:
    """|⟨A x, y⟩ − ⟨x, Aᵀ y⟩| / (‖A x‖ ‖y‖), the larger one of y = A x and a random y."""
    Ax = forward(x)
    errors = []
    for y in (Ax, torch.randn_like(Ax)):
        gap = (Ax.double() * y.double()).sum() - (x.double() * back(y).double()).sum()
        errors.append(float(gap.abs() / (Ax.double().norm() * y.double().norm())))
    return max(errors)
