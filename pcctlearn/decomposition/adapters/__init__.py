"""Decompositions by other libraries, which are timed and compared with those of this project.

Each module has ``prepare(counts, spectra, attenuation, start) -> Peer`` with ``counts`` (ray, bin),
``spectra`` (bin, energy), ``attenuation`` (material, energy) and the first iterate ``start``
(ray, material). It converts the problem, so that the conversion is not timed, and raises
ImportError with the command that installs the library.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Peer(NamedTuple):
    """A decomposition that is ready to run: x (ray, material) in g/cm².

    ``forward_backward`` returns x and the gradient of Σ x in the counts, if the library has it.
    """

    forward: Callable[[], Tensor]
    forward_backward: Callable[[], tuple[Tensor, Tensor]] | None = None
