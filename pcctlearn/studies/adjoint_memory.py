"""Peak memory of implicit and unrolled derivatives of the decomposition."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra
from pcctlearn.solvers.implicit import Adjoint, implicit_minimum
from pcctlearn.solvers.quadratic import Bounds
from pcctlearn.solvers.unrolled import UnrolledNewton


def memory_mb(
    kind: Adjoint | Literal["exact"],
    n_steps: int,
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
    start: RayLineIntegrals,
    bounds: Sequence[Sequence[float]],
) -> float:
    """Peak memory (MB) of a forward and a backward pass, in addition to the arguments.

    "unrolled" and "implicit" take the same undamped Newton steps (``UnrolledNewton``); autograd
    differentiates the steps of the first and the minimum of the second. "exact" is ``decompose``
    with its defaults, whatever ``n_steps``. The gradient is that of Σ x in the counts.
    """
    theta = counts.detach().clone().requires_grad_(), spectra.detach(), attenuation

    def both() -> None:
        if kind == "exact":
            x = decompose(*theta, bounds=bounds).x
        else:
            box = Bounds(*(start.new_tensor(side) for side in bounds))
            solver = UnrolledNewton(n_steps)
            x = implicit_minimum(poisson_likelihood, solver, start, theta, box, kind).x
        torch.autograd.grad(x.sum(), theta[0])

    return peak_mb(both, counts.device)


def peak_mb(job: Callable[[], object], device: torch.device) -> float:
    """Largest memory of the tensors that exist at one time during a job, which it has made (MB).

    On a CUDA device the allocator measures it. On a CPU the tensors of every operation of torch are
    counted from the call that makes them until they are freed; the resident memory of the process
    would also contain gaps between them. Arrays within compiled functions are not counted.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with _Allocations() as allocations:
        job()
    return allocations.peak / 1e6


class _Allocations(TorchDispatchMode):
    """Bytes of the living tensors made in this context, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _address(tensor) not in given | self._known:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        self._known.add(address)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.bytes -= size


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
