"""Scatter of a known shape, relative to air, and of an unknown amplitude."""

import torch
from torch import Tensor, nn

from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.shapes import Counts

_MOST = 0.99  # of the counts


class ScatterOverAir(ScatterCorrection):
    """Scatter fraction s r_b a_b/n_b of counts n, with air a of the same pixels in the first view.

    The amplitude s, such as the transmission of an anti-scatter grid, can be learned. Air is
    a view of the counts, so that it is corrected for pile-up as they are.

    Args:
        ratio: r, scatter over air for an amplitude of one, zero in the first view.
        amplitude: s.
    """

    title = "Scatter of known shape"
    ratio: Tensor

    def __init__(self, ratio: Counts, amplitude: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("ratio", ratio, persistent=False)
        self.amplitude = nn.Parameter(torch.tensor(float(amplitude), dtype=ratio.dtype))

    def forward(self, counts: Counts) -> Counts:
        """Scattered fraction of counts whose first view is air, at most 0.99."""
        scatter = self.amplitude * self.ratio.to(counts) * counts[:, :, :1]
        return (scatter / counts.clamp(min=torch.finfo(counts.dtype).tiny)).clamp(max=_MOST)
