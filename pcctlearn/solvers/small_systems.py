"""Batched solution of small symmetric systems by elementwise arithmetic.

A ray has two or three unknowns. LAPACK would be called once per matrix; the same factorisation,
written over the batch, runs as vector instructions on the CPU and as a few kernels on a GPU.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def solve_positive_definite(
    matrix: Float[Tensor, "*ray unknown unknown"],
    right: Float[Tensor, "*ray unknown"],
    free: Bool[Tensor, "*ray unknown"] | None = None,
    lift: Float[Tensor, "*ray"] | None = None,
) -> tuple[Float[Tensor, "*ray unknown"], Bool[Tensor, "*ray"]]:
    """Solve M x = r by M = L D Lᵀ, and return for which rays M is positive definite.

    With ``lift`` δ the matrix is M + δ diag|M|.
    Unknowns that are not ``free`` are removed from the system: their x is zero and the others
    solve the reduced system. Where M is not positive definite, x is finite but meaningless.
    """
    n = right.shape[-1]
    r = [right[..., i] for i in range(n)]
    m = {(i, j): matrix[..., i, j] for i in range(n) for j in range(i + 1)}
    if lift is not None:
        m |= {(i, i): m[i, i] + lift * m[i, i].abs() for i in range(n)}
    if free is not None:
        is_free = [free[..., i] for i in range(n)]
        r = [torch.where(f, value, 0) for f, value in zip(is_free, r, strict=True)]
        m = {(i, j): torch.where(is_free[i] & is_free[j], v, i == j) for (i, j), v in m.items()}

    pivots: list[Tensor] = []
    lower: dict[tuple[int, int], Tensor] = {}
    positive = torch.ones_like(r[0], dtype=torch.bool)
    for j in range(n):
        pivot = m[j, j]
        for k in range(j):
            pivot = pivot - lower[j, k] ** 2 * pivots[k]
        # relative to the diagonal: rounding leaves a singular matrix a tiny pivot of either sign
        sound = pivot > 4 * torch.finfo(pivot.dtype).eps * m[j, j].abs()
        positive = positive & sound
        pivots.append(torch.where(sound, pivot, torch.ones_like(pivot)))
        for i in range(j + 1, n):
            entry = m[i, j]
            for k in range(j):
                entry = entry - lower[i, k] * lower[j, k] * pivots[k]
            lower[i, j] = entry / pivots[j]

    for i in range(n):
        for k in range(i):
            r[i] = r[i] - lower[i, k] * r[k]
    x = [r[i] / pivots[i] for i in range(n)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            x[i] = x[i] - lower[k, i] * x[k]
    return torch.stack(x).movedim(0, -1), positive  # each unknown contiguous


def quadratic_form(
    matrix: Float[Tensor, "*ray unknown unknown"], vector: Float[Tensor, "*ray unknown"]
) -> Float[Tensor, "*ray"]:
    """sᵀ M s of each ray, M symmetric."""
    n = vector.shape[-1]
    s = [vector[..., i] for i in range(n)]
    total = torch.zeros_like(s[0])
    for i in range(n):
        total = total + matrix[..., i, i] * s[i] ** 2
        for j in range(i):
            total = total + 2 * matrix[..., i, j] * s[i] * s[j]
    return total
