"""File of a trained proxy, with the scanner that it was trained for."""

import io
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcctlearn.decomposition.proxy_network import ProxyNetwork
from pcctlearn.files.atomic import written_whole
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.reading.damaged import damaged, library_errors, readable
from pcctlearn.reading.sizes import require_zip
from pcctlearn.shapes import Attenuation, Spectra

_WHAT = "a trained proxy"
_MOST_BYTES = 2**26
_MOST_UNITS, _MOST_LAYERS, _MOST_BINS = 4096, 16, 64
_SAME = 1e-4  # largest difference of log counts: some 1e-3 g/cm² of water
_SAME_AIR = 1e-3  # largest difference of a bin's share of the counts in air, relative


def save_proxy(path: Path, network: ProxyNetwork, model: SpectralModel) -> None:
    """Write a network with its scanner for ``SavedProxy``."""
    spectra = model.spectra().detach().double()
    scanner = {
        "materials": list(model.materials),
        "edges_keV": model.thresholds.edges_keV.detach().tolist(),
        "air_shares": _air_shares(spectra),
        "log_counts": _log_counts(network, spectra, model.attenuation),
    }
    buffer = io.BytesIO()  # torch.save would raise other errors for a full disk
    content = {"widths": network.widths, "scanner": scanner, "weights": network.state_dict()}
    torch.save(content, buffer)
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class SavedProxy:
    """A trained network and its scanner, read without loading Python objects.

    Args:
        path: the file.
        setting: the command-line key that names the file, for error messages.

    Raises:
        FileNotFoundError: no such file. ValueError: the file is damaged, or not a trained proxy.
    """

    def __init__(self, path: str | Path, setting: str) -> None:
        self.path = Path(path)
        self.remedy = f"train a proxy with experiment=proxy, and give {setting}=RUN/proxy.pt"
        if not self.path.is_file():
            raise FileNotFoundError(f"no trained proxy at {path}: {self.remedy}")
        require_zip(self.path, _WHAT, self.remedy, _MOST_BYTES)
        with readable(self.path, _WHAT, self.remedy):
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        try:
            self.network, self.scanner = _checked(content)
        except library_errors() as error:
            raise damaged(self.path, _WHAT, error, self.remedy) from None

    def require(self, materials: Sequence[str], spectra: Spectra, attenuation: Attenuation) -> None:
        """Raise ValueError unless this is the scanner of the training, in every pixel."""
        trained = self.scanner
        if trained["materials"] != list(materials):
            raise self._other(
                f"the materials {', '.join(trained['materials'])}, not {', '.join(materials)}",
                f"use physics.materials=[{','.join(trained['materials'])}]",
            )
        n_bins, n_trained = spectra.shape[-2], len(trained["air_shares"])
        edges = ",".join(f"{edge:g}" for edge in trained["edges_keV"])
        same_edges = f"use physics.thresholds.edges_keV=[{edges}]"
        if n_bins != n_trained:
            raise self._other(f"{n_trained} energy bins, not {n_bins}", same_edges)
        S, mu = spectra.double().cpu(), attenuation.double().cpu()
        apart = (_log_counts(self.network, S, mu) - trained["log_counts"]).abs().amax((-2, -1))
        air = (_air_shares(S) / trained["air_shares"] - 1).abs().amax(-1)
        if not bool(((apart <= _SAME) & (air <= _SAME_AIR)).all()):
            raise self._other(
                f"another spectrum, detector response or thresholds, {edges} keV (log counts "
                f"differ by up to {float(apart.max()):.2g})",
                "choose the scanner of its training",
            )

    def _other(self, difference: str, remedy: str) -> ValueError:
        return ValueError(f"{self.path} was trained for {difference}: {remedy}, or {self.remedy}")


def _checked(content: Any) -> tuple[ProxyNetwork, dict[str, Any]]:
    """The network and its scanner; other errors than ValueError come from missing entries."""
    widths, scanner, weights = (content[name] for name in ("widths", "scanner", "weights"))
    materials, edges = scanner["materials"], scanner["edges_keV"]
    shares, log_counts = scanner["air_shares"], scanner["log_counts"]
    if not 0 < len(widths) <= _MOST_LAYERS or max(widths) > _MOST_UNITS:
        raise ValueError(f"widths are {str(widths)[:60]}")
    if not all(isinstance(name, str) for name in materials) or not 0 < len(shares) <= _MOST_BINS:
        raise ValueError("its materials or bins have impossible values")
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in edges):
        raise ValueError("its thresholds are no energies")
    network = ProxyNetwork(len(shares), len(materials), widths)
    network.load_state_dict(weights)
    tensors = [*network.state_dict().values(), shares, log_counts]
    if not all(bool(values.isfinite().all()) for values in tensors):
        raise ValueError("it contains NaN or infinity")
    return network.eval(), scanner


def _log_counts(network: ProxyNetwork, spectra: Spectra, attenuation: Attenuation) -> Tensor:
    """log(air/ȳ) (*pixel, point, bin) at zero, half and all of the range of the materials."""
    high = network.limits[1].double().cpu().clamp(min=0)
    points = [torch.tensor(share) for share in product((0.0, 0.5, 1.0), repeat=len(high))]
    log_S, mu = spectra.double().cpu().log(), attenuation.double().cpu()
    air = log_S.logsumexp(-1)
    # of the logarithms: opaque objects leave less than the smallest number
    behind = [(log_S - (point.double() * high) @ mu).logsumexp(-1) for point in points]
    return torch.stack([air - log_counts for log_counts in behind], -2)


def _air_shares(spectra: Spectra) -> Tensor:
    """Share of each bin in the counts of all bins in air."""
    air = spectra.double().cpu().sum(-1)
    return air / air.sum(-1, keepdim=True)
