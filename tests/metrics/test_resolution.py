"""MTF of a blurred disc and noise power of white and of filtered noise, against closed forms."""

import math

import pytest
import torch

from pcctlearn.metrics.resolution import Curve, disc_mtf, noise_power
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom, voxel_centers
from pcctlearn.tomography.grids import ImageGrid

VOXEL_CM, RADIUS_CM = 0.1, 2.0
CENTER_CM = (0.33, -0.21)  # off the lattice of voxels
POINTS = voxel_centers(96, 96, VOXEL_CM, dtype=torch.float64)


def blurred_disc(sigma_cm):
    """A disc convolved with a Gaussian, voxel means of which are taken by oversampling."""
    disc = EllipsePhantom([Ellipse(CENTER_CM, (RADIUS_CM,) * 2, (1.0,))], ["water"])
    image = disc.maps(ImageGrid(96, 96, VOXEL_CM))[0]
    f = torch.fft.fftfreq(96, VOXEL_CM).double()
    gaussian = torch.exp(-2 * (math.pi * sigma_cm) ** 2 * (f[:, None] ** 2 + f**2))
    return torch.fft.ifft2(torch.fft.fft2(image) * gaussian).real


@pytest.mark.parametrize("sigma_cm", [0.1, 0.15])
def test_the_mtf_of_a_gaussian_blur(sigma_cm):
    """exp(−2π²σ²f²) times the sinc of a voxel, to 3 %."""
    found = disc_mtf(blurred_disc(sigma_cm), POINTS, CENTER_CM, RADIUS_CM)
    f = found.frequencies_per_cm
    expected = torch.exp(-2 * (math.pi * sigma_cm * f) ** 2) * torch.sinc(f * VOXEL_CM)
    assert (found.values - expected).abs().max() < 0.03
    half = math.sqrt(math.log(2) / 2) / math.pi / sigma_cm
    assert found.crossing_per_cm(0.5) == pytest.approx(half, rel=0.06)


def test_the_mtf_does_not_depend_on_contrast_and_level():
    image = blurred_disc(0.1)
    first, other = (disc_mtf(i, POINTS, CENTER_CM, RADIUS_CM) for i in (image, 5 - 3 * image))
    torch.testing.assert_close(first.values, other.values)


def test_a_disc_of_few_voxels_is_rejected():
    with pytest.raises(ValueError, match=r"0\.2 cm .* 0\.1 cm"):
        disc_mtf(blurred_disc(0.1), POINTS, CENTER_CM, 0.2)


def test_white_noise_has_a_flat_power_spectrum():
    """NPS = σ² Δ² at every frequency."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(200, 32, 32, generator=generator, dtype=torch.float64)
    pattern = torch.rand(32, 32, generator=generator, dtype=torch.float64)
    found = noise_power(noise + pattern, VOXEL_CM)
    flat = found.values[1:] / (0.3 * VOXEL_CM) ** 2  # the mean has 200 samples, an error of 10 %
    assert (flat - 1).abs().max() < 0.08
    assert found.frequencies_per_cm[-1] == pytest.approx(0.5 / VOXEL_CM)


def test_filtered_noise_has_the_square_of_its_filter():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 32, 32, generator=generator, dtype=torch.float64)
    f = torch.fft.fftfreq(32, VOXEL_CM).double()
    ramp = torch.hypot(f[:, None], f)
    ramped = torch.fft.ifft2(torch.fft.fft2(noise) * ramp).real
    found = noise_power(ramped, VOXEL_CM)
    expected = (found.frequencies_per_cm * VOXEL_CM) ** 2
    # the first rings hold few lattice points, whose mean f² is not that of the ring
    torch.testing.assert_close(found.values[6:], expected[6:], rtol=0.05, atol=0)


def test_the_crossing_lies_between_samples():
    curve = Curve(torch.arange(4.0), torch.tensor([1.0, 0.8, 0.2, 0.1]))
    assert curve.crossing_per_cm(0.5) == pytest.approx(1.5)
    assert curve.crossing_per_cm(0.05) == 3.0
    assert curve.mean_per_cm == pytest.approx((0.8 + 0.4 + 0.3) / 2.1)
