"""Closed-form semiconductor response: photopeak, Compton, fluorescence, charge sharing."""

import torch
import xraylib
from torch import Tensor, nn

from pcctlearn.physics.attenuation import density_g_cm3, mass_attenuation
from pcctlearn.physics.constants import K_LINES, ELECTRON_REST_keV, LOWEST_K_EDGE_keV
from pcctlearn.physics.response.base import Above, Response, peak_above, plateau_above
from pcctlearn.shapes import Edges, Energies


class Analytic(Response):
    """h(E; E') of a slab of ``sensor`` read out by pixels, differentiable in its parameters.

    A photon interacts with probability 1 − exp(−μ(E') ρ t). Its first interaction is one of three
    processes, in proportion to their cross sections:

    * Coherent: nothing is registered; the photon is lost.
    * Compton: a recoil electron, uniform from 0 to the Compton edge 2E'²/(511 + 2E'); the scattered
      photon is lost.
    * Photoelectric: a peak at E'. With probability p_K ω_K the K line E_K is emitted, and leaves
      the pixel with probability ``fluorescence_escape``: then a peak at E' − E_K remains, and a
      neighbour registers E_K with probability ``fluorescence_capture``.

    Every peak c is shared between two pixels with probability 1 − exp(−(c/``sharing_keV``)^p), and
    then registered twice, with energies that are uniform from 0 to c and sum to c. All energies are
    blurred by the electronic noise ``noise_keV``.

    The few parameters, which can be learned, approximate a simulated response. Defaults are in
    conf/physics/response; tests/physics/test_response.py lists the values that they reproduce.
    """

    thickness_cm: Tensor
    noise_keV: Tensor
    sharing_keV: Tensor
    sharing_exponent: Tensor
    fluorescence_escape: Tensor
    fluorescence_capture: Tensor

    def __init__(
        self,
        sensor: str,
        thickness_cm: float,
        noise_keV: float = 1.6,
        sharing_keV: float = 150.0,
        sharing_exponent: float = 1.5,
        fluorescence_escape: float = 0.0,
        fluorescence_capture: float = 0.0,
        learn: bool = False,
    ) -> None:
        super().__init__()
        density_g_cm3(sensor)  # raises if it is unknown
        parameters = {
            "thickness_cm": thickness_cm,
            "noise_keV": noise_keV,
            "sharing_keV": sharing_keV,
            "sharing_exponent": sharing_exponent,
            "fluorescence_escape": fluorescence_escape,
            "fluorescence_capture": fluorescence_capture,
        }
        for name, value in parameters.items():
            if value < 0 or (value == 0 and not name.startswith("fluorescence")):
                raise ValueError(f"{name} of the response must be positive, got {value:g}")
            if name.startswith("fluorescence") and value > 1:
                raise ValueError(f"{name} of the response must be at most 1, got {value:g}")
            value_tensor = torch.tensor(value, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(value_tensor, requires_grad=learn))
        self.sensor = sensor

    def above(self, edges_keV: Edges, energies_keV: Energies) -> Above:
        """Events above each edge: the sum of all peaks and plateaus in closed form."""
        edge, energies = edges_keV[..., None], energies_keV
        sigma = self.noise_keV.to(energies)
        density = density_g_cm3(self.sensor)
        mu = mass_attenuation(self.sensor, energies.detach()).to(energies)
        interacting = -torch.expm1(-mu * density * self.thickness_cm.to(energies))
        shares = interaction_shares(self.sensor, energies)
        photo, compton = (interacting * share for share in shares)

        edge_energy = 2 * energies**2 / (ELECTRON_REST_keV + 2 * energies)
        total = compton * plateau_above(edge, edge_energy, sigma)
        full = torch.ones_like(photo)
        for line_keV, emitted in k_fluorescence(self.sensor, energies):
            lost = emitted * self.fluorescence_escape.to(energies)
            full = full - lost
            line = torch.full_like(energies, line_keV)
            rest = torch.where(lost > 0, energies - line_keV, energies)
            captured = self.fluorescence_capture.to(energies) * lost
            total = total + photo * lost * self._shared_peak(edge, rest, sigma)
            total = total + photo * captured * self._shared_peak(edge, line, sigma)
        return total + photo * full * self._shared_peak(edge, energies, sigma)

    def _shared_peak(self, edge: Tensor, center: Tensor, sigma: Tensor) -> Tensor:
        relative = center / self.sharing_keV.to(center)
        shared = -torch.expm1(-(relative ** self.sharing_exponent.to(center)))
        whole = (1 - shared) * peak_above(edge, center, sigma)
        return whole + 2 * shared * plateau_above(edge, center, sigma)


def interaction_shares(sensor: str, energies_keV: Energies) -> tuple[Energies, Energies]:
    """Photoelectric and incoherent shares of the total cross section."""
    formula = _formula(sensor)
    shares = [
        [section(formula, e) / xraylib.CS_Total_CP(formula, e) for e in energies_keV.tolist()]
        for section in (xraylib.CS_Photo_CP, xraylib.CS_Compt_CP)
    ]
    photo, compton = torch.tensor(shares, dtype=torch.float64).to(energies_keV)
    return photo, compton


def k_fluorescence(sensor: str, energies_keV: Energies) -> list[tuple[float, Energies]]:
    """Mean K line in keV of each element, and its photons per photoelectric event, p_K ω_K."""
    parsed = xraylib.CompoundParser(_formula(sensor))
    weights = dict(zip(parsed["Elements"], parsed["massFractions"], strict=True))
    energies = energies_keV.tolist()
    lines = []
    for Z, weight in weights.items():
        k_edge = xraylib.EdgeEnergy(Z, xraylib.K_SHELL)
        if k_edge < LOWEST_K_EDGE_keV:
            continue
        rates = [xraylib.RadRate(Z, line) for line in K_LINES]
        line_keV = sum(
            rate * xraylib.LineEnergy(Z, line) for rate, line in zip(rates, K_LINES, strict=True)
        ) / sum(rates)
        emitted = [
            weight
            * xraylib.CS_Photo_Partial(Z, xraylib.K_SHELL, e)
            / xraylib.CS_Photo_CP(_formula(sensor), e)
            * xraylib.FluorYield(Z, xraylib.K_SHELL)
            if e > k_edge
            else 0.0
            for e in energies
        ]
        lines.append((line_keV, torch.tensor(emitted, dtype=torch.float64).to(energies_keV)))
    return lines


def _formula(sensor: str) -> str:
    return {"silicon": "Si"}.get(sensor, sensor)
