"""The ramp filter along detector rows, optionally apodised."""

from collections.abc import Callable
from math import pi

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.validation import FloatArray, require_positive

_ROWS_AT_ONCE = 512
# apodisation of the ramp at a frequency in cycles per column, from −1/2 to 1/2
FILTERS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "ramp": np.ones_like,
    "shepp_logan": np.sinc,
    "cosine": lambda f: np.cos(pi * f),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(2 * pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(2 * pi * f),
}


class RampFilter(LinearOperator):
    """Convolution of every detector row with the band-limited ramp.

    h(0) = 1 / 4d², h(k d) = −1 / (π k d)² for odd k and 0 for even k, for columns d apart.

    Rows are zero beyond the detector, but the filtered rows are not: n_before and n_after columns
    of them are computed as well. Without these the filter is symmetric, its own adjoint.

    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging" (1988),
    eq. 3.61. doi:10.1137/1.9780898719277
    """

    response: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        pixel_cm: float,
        filter: str = "ramp",
        n_before: int = 0,
        n_after: int = 0,
    ) -> None:
        if filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}, got {filter!r}")
        require_positive(pixel_cm=pixel_cm)
        super().__init__(shape, (*shape[:-1], n_before + shape[-1] + n_after))
        longest = shape[-1] + max(n_before, n_after)
        n_padded = next_fast_len(2 * longest, real=True)  # twice: the ramp is not periodic
        k = np.arange(n_padded)
        k = np.minimum(k, n_padded - k)
        ramp = np.where(k % 2 == 1, -1 / (pi * np.maximum(k, 1)) ** 2, 0.0)
        ramp[0] = 1 / 4
        response = np.fft.rfft(ramp).real * FILTERS[filter](np.fft.rfftfreq(n_padded)) / pixel_cm
        dtype = torch.get_default_dtype()
        self.register_buffer("response", torch.from_numpy(response).to(dtype), persistent=False)
        self.n_before, self.n_padded = n_before, n_padded

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._filtered(x, -self.n_before, self.out_shape[-1])

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._filtered(y, self.n_before, self.in_shape[-1])

    def _filtered(self, x: Tensor, first: int, n_columns: int) -> Tensor:
        """Columns first, first + 1, … of the filtered rows; column 0 is the first of ``x``."""
        rows, response = x.reshape(-1, x.shape[-1]), self.response.to(x.dtype)
        filtered = rows.new_empty(len(rows), n_columns)
        # in pieces whose padded spectra stay in the processor's cache
        n = _ROWS_AT_ONCE if x.device.type == "cpu" else max(len(rows), 1)
        for i in range(0, len(rows), n):
            spectrum = torch.fft.rfft(rows[i : i + n], n=self.n_padded) * response
            periodic = torch.fft.irfft(spectrum, n=self.n_padded)
            if first:
                periodic = periodic.roll(-first, -1)
            filtered[i : i + n] = periodic[:, :n_columns]
        return filtered.reshape(*x.shape[:-1], n_columns)
