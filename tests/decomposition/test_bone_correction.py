"""Water with bone gives its monochromatic projections, in slabs and in images."""

import pytest
import torch
from support.plates import cdte_scanner, flawed

from pcctlearn.decomposition.beam_hardening import beam_hardening, spectra_above
from pcctlearn.decomposition.bone_correction import BONE_G_CM3, bone, bone_correction
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.spectral_model import expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.tomography.projector import projector

WATER_CM, BONE_CM = (3.0, 11.3, 19.0), (0.0, 0.45, 1.3, 2.6)  # none of them in the fit


def attenuations(energies_keV):
    """Of water, and of cortical bone in its place, 1/cm."""
    water = mass_attenuation("water", energies_keV)
    return torch.stack([water, 1.85 * mass_attenuation("cortical_bone", energies_keV) - water])


def corrections(model):
    hardening = beam_hardening(spectra_above(model), cdte_scanner())
    return hardening, bone_correction(spectra_above(model), cdte_scanner(), hardening)


@pytest.mark.parametrize("edges_keV", [(40.0, 60.0, 149.0), (31.0, 54.0, 149.0)])
def test_slabs_of_water_and_bone_are_monochromatic_in_every_pixel(edges_keV):
    model = flawed(n_pixels=12, edges_keV=edges_keV).spectral_model(cdte_scanner(edges_keV))
    hardening, correct = corrections(model)
    lengths = torch.cartesian_prod(torch.tensor(WATER_CM), torch.tensor(BONE_CM))
    transmission = torch.exp(-lengths @ attenuations(model.energies_keV))
    spectra = spectra_above(model)
    p = hardening(-(torch.einsum("ite,le->lit", spectra, transmission) / spectra.sum(-1)).log())
    at_keV = attenuations(hardening.effective_keV)
    wanted = (lengths @ at_keV)[:, None].expand_as(p)
    corrected = correct(p, (lengths[:, 1:] * at_keV[1])[:, None].expand_as(p))
    before, after = (p - wanted).abs().amax((0, 1)), (corrected - wanted).abs().amax((0, 1))
    assert (before > 0.02).all()
    assert (after < 1e-3).all()
    assert (after < before / 100).all()


def test_without_bone_nothing_changes():
    model = flawed(n_pixels=3).spectral_model(cdte_scanner())
    _, correct = corrections(model)
    p = torch.rand(5, 3, 2)
    torch.testing.assert_close(correct(p, torch.zeros_like(p)), p, rtol=0, atol=0)


def test_bone_is_weighted_by_its_density():
    over_water = torch.tensor([0.0, 1.0, 1.29, 1.31, 2.0])
    torch.testing.assert_close(bone(over_water), torch.tensor([0.0, 0.0, 0.0, 0.31, 1.0]))


def test_an_image_without_bone_is_refused():
    with pytest.raises(ValueError, match=r"largest 1\.2 times.*correct_bone=false"):
        bone(torch.tensor([0.0, 1.0, 1.2]))


@pytest.fixture(name="scanned", scope="module")
def _scanned():
    """A ring of bone around water and two bones within: projections, those of one energy, beam."""
    torch.set_default_dtype(torch.float64)

    def solid(x, a, b, water, calcium):
        return Ellipse((x, 0.0), (a, b), (water, calcium))

    phantom = EllipsePhantom(
        [
            solid(0.0, 8.0, 9.0, 1.31, 0.5),
            solid(0.0, 7.4, 8.4, -0.31, -0.5),
            solid(-4.0, 1.0, 1.5, 0.31, 0.5),
            solid(4.0, 1.0, 1.5, 0.31, 0.5),
        ]
    )
    beam = FanBeam(240, 256, 0.12, 75.0, 108.5)
    rays = phantom.line_integrals(*beam.rays()).movedim(0, -1)
    model = cdte_scanner()
    counts = expected_counts(rays, model.spectra(), model.attenuation)
    hardening = beam_hardening(spectra_above(model), model)
    p = hardening(-(above_from_bins(counts) / above_from_bins(model.air())).log())
    table = torch.stack(
        [mass_attenuation(name, hardening.effective_keV) for name in phantom.materials]
    )
    return hardening, p, rays @ table, beam


@pytest.mark.parametrize(("n_passes", "less"), [(1, 5), (2, 6)])
def test_images_of_bone_in_water_are_monochromatic(scanned, n_passes, less):
    hardening, p, wanted, beam = scanned
    model, grid = cdte_scanner(), ImageGrid(128, 128, 0.16)
    correct = bone_correction(spectra_above(model), model, hardening, BONE_G_CM3["calcium"])
    reconstruct = fbp(beam, grid, "hamming", truncation="cosine").double()
    corrected = correct.of_images(p, reconstruct, projector(beam, grid).double(), n_passes=n_passes)
    true, before, after = (
        reconstruct @ q.movedim(-1, 0).contiguous() / hardening.water_per_cm[:, None, None]
        for q in (wanted, p, corrected)
    )
    water = (true[0] - 1).abs() < 0.02
    errors = [(1000 * (found - true)[0, water]).square().mean().sqrt() for found in (before, after)]
    assert errors[0] > 8
    assert errors[1] < errors[0] / less
    skull = true[0] > 1.6
    shares = [
        ((found - true)[:, skull].mean(1) / true[:, skull].mean(1)).abs().max()
        for found in (before, after)
    ]
    assert shares[1] < 0.007
    assert shares[1] < shares[0] / 2
