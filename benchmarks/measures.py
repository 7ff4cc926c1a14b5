"""Time of a call, speed of arithmetic, and adjointness of a pair of operators."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor


def timed(
    job: Callable[[], object],
    device: str | torch.device,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """Seconds of a call, including the work that it leaves on a GPU."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    job()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def arithmetic_flops(
    device: str | torch.device, clock: Callable[[], float] = perf_counter
) -> float:
    """Operations a second of a large float32 matrix product; a multiply-add counts as two."""
    n = 2048 if torch.device(device).type == "cpu" else 8192
    a = torch.randn(n, n, device=device)
    return 2 * n**3 / median(timed(lambda: a @ a, device, clock) for _ in range(7))


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
