"""Thresholds, tube voltage and filter with the least Cramér–Rao bound at equal dose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.protocol import BEYOND_keV, Protocol, ThresholdLimits
from pcctlearn.decomposition.sensitivity import cramer_rao_bound, poisson_estimate_covariance
from pcctlearn.physics.attenuation import (
    attenuation_table,
    density_g_cm3,
    k_edge_keV,
    mass_attenuation,
)
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.response.pairs import Pairs, bin_covariance
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.shapes import Edges, Energies, Fluence, RayLineIntegrals
from pcctlearn.validation import require_positive

Dose = Callable[[Energies, Fluence], Tensor]

_MOST_STEPS = 150
_THIN = 3.0  # filters start at 5 % of their largest thickness
_THICKEST_CM, _THINNEST_CM = 5.0, 0.001  # thinner filters are none
_SAME_keV = 0.5  # minima with thresholds that round to the same are one


class ProtocolDesigner:
    """Minimise the mean variance bound of one material over rays, at equal dose.

    The variance of a filtered back-projection at a point is, up to a factor that does not depend on
    the protocol, the mean variance of the line integrals of the rays through it. With one photon
    per pixel, dose d of its spectrum and Fisher matrix I, the figure of merit is

        σ² = d · mean over rays of [I(A)⁻¹]_mm,     in (g/cm²)² mGy,

    so that √(σ²/dose) is the standard deviation at a given dose. It is differentiated in the
    thresholds and in the thickness of a filter, and minimised by L-BFGS from several starts, for
    each tube voltage and filter material of a list. With ``pairs`` the inverse Fisher matrix is
    replaced by the covariance of the estimate from correlated counts
    (``poisson_estimate_covariance``).

    Pile-up, scatter, drifts of the thresholds, the bias of the estimate at few counts, and other
    line integrals that fit the same counts are left out: verify a design with draws of noise.

    E. Roessl and C. Herrmann, "Cramér–Rao lower bound of basis image noise in multiple-energy x-ray
    imaging", Phys. Med. Biol. 54 (2009) 1307. doi:10.1088/0031-9155/54/5/014

    Args:
        response: detector.
        materials: basis materials.
        line_integrals: of the rays, in g/cm².
        material: whose noise is minimised.
        dose: (energies_keV, fluence) to mGy, linear in the fluence.
        limits: of the thresholds.
        tube_filtration_cm: of every protocol, in front of which filters are added.
        anode_degrees: as in ``Spectrum.tungsten``.
        largest_load: of the tube with a filter, mAs per dose over that of the ``reference``.
        reference: protocol that the others are compared with.
        pairs: events of one photon that are registered together; by default counts are independent.
    """

    def __init__(
        self,
        response: Response,
        materials: Sequence[str],
        line_integrals: RayLineIntegrals,
        material: str,
        dose: Dose,
        limits: ThresholdLimits,
        reference: Protocol,
        tube_filtration_cm: Mapping[str, float],
        anode_degrees: float = 12.0,
        largest_load: float = 4.0,
        pairs: Pairs | None = None,
    ) -> None:
        require_positive(largest_load=largest_load)
        if len(reference.thresholds_keV) < len(materials):
            raise ValueError(
                f"{len(materials)} materials need as many thresholds or more, got "
                f"{list(reference.thresholds_keV)}"
            )
        self.response, self.materials, self.A = response, list(materials), line_integrals
        self.index, self.dose, self.limits = self.materials.index(material), dose, limits
        self.tube_filtration_cm, self.anode_degrees = dict(tube_filtration_cm), anode_degrees
        self.reference, self.largest_load, self.pairs = reference, largest_load, pairs

    def spectrum(self, protocol: Protocol, photons: float | None = 1.0) -> Spectrum:
        """The spectrum at the detector; ``None`` photons: those of 1 mAs on a fixed area."""
        return Spectrum.tungsten(
            protocol.tube_voltage_kV,
            self._filtration_cm(protocol),
            photons,
            self.anode_degrees,
        )

    def model(self, protocol: Protocol, dose_mGy: float) -> SpectralModel:
        """The scanner with this protocol, whose photons give this dose."""
        unit = self.spectrum(protocol)
        photons = dose_mGy / float(self.dose(unit.energies_keV, unit.fluence))
        thresholds = Thresholds(protocol.edges_keV)
        spectrum = self.spectrum(protocol, photons)
        return SpectralModel.from_parts(spectrum, self.response, thresholds, self.materials)

    def variance(self, protocol: Protocol) -> float:
        """σ² of a protocol, (g/cm²)² mGy."""
        s = self.spectrum(protocol)
        edges = torch.tensor(protocol.edges_keV, dtype=torch.float64)
        mu = attenuation_table(self.materials, s.energies_keV)
        with torch.no_grad():
            return float(self._variance(edges, s.energies_keV, s.fluence, mu))

    def counts_covariance(
        self, model: SpectralModel, line_integrals: RayLineIntegrals
    ) -> Float[Tensor, "*ray bin bin"] | None:
        """Covariance of the counts of these rays; None if they are independent."""
        if self.pairs is None:
            return None
        behind = model.fluence * torch.exp(-line_integrals @ model.attenuation)
        edges = model.thresholds.edges_keV.detach()
        return bin_covariance(self.response, self.pairs, edges, model.energies_keV, behind)

    def load(self, protocol: Protocol) -> float:
        """Tube load, mAs per dose over that of the reference."""
        mAs = []
        for one in (protocol, self.reference):
            s = self.spectrum(one, photons=None)
            mAs.append(1 / float(self.dose(s.energies_keV, s.fluence)))
        return mAs[0] / mAs[1]

    def equal_widths(self, protocol: Protocol) -> Protocol:
        """Bins of equal width from the lowest threshold to the tube voltage."""
        n, low = len(protocol.thresholds_keV), self.limits.lowest_keV
        edges = torch.linspace(low, protocol.tube_voltage_kV, n + 1)[:-1]
        return replace(protocol, thresholds_keV=tuple(edges.tolist()))

    def equal_counts(self, protocol: Protocol) -> Protocol:
        """Bins of equal counts, behind the object, of the mean ray."""
        n, s = len(protocol.thresholds_keV), self.spectrum(protocol)
        levels = torch.linspace(self.limits.lowest_keV, protocol.tube_voltage_kV, 1001).double()
        mu = attenuation_table(self.materials, s.energies_keV)
        behind = s.fluence * torch.exp(-self.A.mean(0) @ mu)
        with torch.no_grad():
            above = self.response.above(levels, s.energies_keV) @ behind
        wanted = above[0] * (1 - torch.arange(n).double() / n)
        index = torch.searchsorted(-above, -wanted).clamp(max=len(levels) - 1)
        return replace(protocol, thresholds_keV=tuple(levels[index].tolist()))

    def best(self, tube_voltages_kV: Sequence[float], filters: Sequence[str] = ()) -> Protocol:
        """The candidate of the least σ²."""
        return min(self.candidates(tube_voltages_kV, filters), key=self.variance)

    def candidates(
        self, tube_voltages_kV: Sequence[float], filters: Sequence[str] = ()
    ) -> list[Protocol]:
        """Starts and all minima without a filter; with each filter, from the best without.

        With few counts the estimate does not reach the bound, and the best of these by draws of
        noise is not that of the least σ².
        """
        found = []
        for voltage in tube_voltages_kV:
            plain = self.minima(voltage)
            found += [*self._starts(voltage), *plain]
            for name in filters:
                found += self.minima(voltage, name, plain[:1])
        return found

    def minima(
        self,
        tube_voltage_kV: float,
        filter: str | None = None,
        starts: Sequence[Protocol] | None = None,
    ) -> list[Protocol]:
        """Thresholds, and the thickness of a filter, of all minima that are found, best first."""
        plain = replace(self.reference, tube_voltage_kV=tube_voltage_kV)
        s = self.spectrum(replace(plain, filtration_cm={}))
        mu = attenuation_table(self.materials, s.energies_keV)
        top = torch.tensor([tube_voltage_kV + BEYOND_keV], dtype=torch.float64)
        n = len(plain.thresholds_keV)
        thickest, per_cm = 0.0, torch.zeros_like(s.energies_keV)
        if filter:
            thickest = self._thickest_cm(tube_voltage_kV, filter)
            per_cm = density_g_cm3(filter) * mass_attenuation(filter, s.energies_keV)

        def value(x: Tensor) -> Tensor:
            thresholds = self.limits.thresholds(x[: n + 1], tube_voltage_kV)
            fluence = s.fluence * torch.exp(-thickest * x[-1].sigmoid() * per_cm)
            edges = torch.cat([thresholds, top])
            return self._variance(edges, s.energies_keV, fluence, mu).log()

        if starts is None:
            starts = [*self._starts(tube_voltage_kV), *self._at_k(plain)]
        share = torch.tensor([-_THIN], dtype=torch.float64)
        found: dict[tuple[int, ...], tuple[float, Protocol]] = {}
        for start in starts:
            u = self.limits.inverse(start.thresholds_keV, tube_voltage_kV)
            x, least = _minimised(value, torch.cat([u, share]))
            thresholds = self.limits.thresholds(x[: n + 1], tube_voltage_kV).tolist()
            cm = thickest * float(x[-1].sigmoid())
            filtration = {filter: cm} if filter and cm > _THINNEST_CM else {}
            one = least, Protocol(tube_voltage_kV, tuple(thresholds), filtration)
            same = tuple(round(edge / _SAME_keV) for edge in thresholds)
            found[same] = min(found.get(same, one), one, key=lambda of: of[0])
        return [protocol for _, protocol in sorted(found.values(), key=lambda of: of[0])]

    def _starts(self, tube_voltage_kV: float) -> list[Protocol]:
        """The reference at another voltage, and bins of equal widths and counts."""
        plain = replace(self.reference, tube_voltage_kV=tube_voltage_kV)
        return [plain, self.equal_widths(plain), self.equal_counts(plain)]

    def _at_k(self, plain: Protocol) -> list[Protocol]:
        """Protocols with one of the thresholds at the K edge of the material."""
        edge, voltage = k_edge_keV(self.materials[self.index]), plain.tube_voltage_kV
        low, n = self.limits.lowest_keV, len(plain.thresholds_keV)
        if edge is None or not low < edge < voltage:
            return []
        found = []
        for below in range(1, n):
            lower = torch.linspace(low, edge, below + 1)[:-1].tolist()
            upper = torch.linspace(edge, voltage, n - below + 1)[:-1].tolist()
            found.append(replace(plain, thresholds_keV=(*lower, *upper)))
        return found

    def _variance(
        self, edges: Edges, energies_keV: Energies, fluence: Fluence, attenuation: Tensor
    ) -> Tensor:
        above = self.response.above(edges, energies_keV)
        spectra = (above[:-1] - above[1:]) * fluence
        if self.pairs is None:
            bound = cramer_rao_bound(self.A, spectra, attenuation)
        else:
            behind = fluence * torch.exp(-self.A @ attenuation)
            counted = bin_covariance(self.response, self.pairs, edges, energies_keV, behind)
            bound = poisson_estimate_covariance(self.A, spectra, attenuation, counted)
        return self.dose(energies_keV, fluence) * bound[:, self.index, self.index].mean()

    def _filtration_cm(self, protocol: Protocol) -> dict[str, float]:
        total = dict(self.tube_filtration_cm)
        for material, cm in protocol.filtration_cm.items():
            total[material] = total.get(material, 0.0) + cm
        return total

    def _thickest_cm(self, tube_voltage_kV: float, filter: str) -> float:
        """Thickness of a filter at which the tube load reaches its limit; 0 if it is beyond."""

        def heavy(cm: float) -> bool:
            filtered = Protocol(tube_voltage_kV, (), {filter: cm} if cm else {})
            return self.load(filtered) > self.largest_load

        low, high = 0.0, _THICKEST_CM
        if heavy(low):
            return 0.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if heavy(middle) else (middle, high)
        return low


def _minimised(value: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, float]:
    """Minimum of a smooth function by L-BFGS, and its value."""
    x = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = value(x)
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    with torch.no_grad():
        return x.detach(), float(value(x))
