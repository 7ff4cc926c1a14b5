"""Memory check before an operation allocates anything."""

from bisect import bisect_right
from collections.abc import Callable

import psutil
import torch
from torch import Tensor

_UNCHECKED_BYTES = 1e8  # querying the free memory takes as long as a small operator


def require_memory(
    name: str, peak_bytes: Callable[[int, int], int], n_images: int, operand: Tensor
) -> None:
    """Raise MemoryError if peak_bytes(n_images, itemsize) exceeds the free memory."""
    needed = peak_bytes(n_images, operand.itemsize)
    if needed < _UNCHECKED_BYTES:
        return
    available = available_bytes(operand.device)
    if needed <= available:
        return
    fitting = bisect_right(
        range(1, n_images), available, key=lambda n: peak_bytes(n, operand.itemsize)
    )
    one = peak_bytes(1, operand.itemsize)
    remedy = (
        f"at most {fitting} fit at once: split the batch"
        if fitting
        else f"a single image needs {one / 1e9:.3g} GB: use larger voxels or pixels, fewer slices "
        "or fewer views"
    )
    raise MemoryError(
        f"{name} needs {needed / 1e9:.3g} GB for {n_images} images in {operand.dtype}, and "
        f"{available / 1e9:.3g} GB are free on {operand.device}; {remedy}"
    )


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return psutil.virtual_memory().available
