"""The ramp filter."""

from math import pi

import pytest
import torch

from pcctlearn.tomography.filters import FILTERS, RampFilter


def test_impulse_gives_kak_and_slaney_kernel():
    impulse = torch.zeros(1, 9)
    impulse[0, 4] = 1
    d = 0.5
    k = torch.arange(-4, 5)
    kernel = torch.where(k % 2 == 1, -1 / (pi * k * d) ** 2, 0) * d  # d: the integral's step
    kernel[4] = 1 / (4 * d**2) * d
    torch.testing.assert_close(RampFilter((1, 9), d) @ impulse, kernel[None])


def test_columns_beyond_the_row_are_those_of_a_row_padded_with_zeros():
    x = torch.rand(3, 9)
    longer = RampFilter((3, 26), 0.5) @ torch.nn.functional.pad(x, (2, 15))
    torch.testing.assert_close(RampFilter((3, 9), 0.5, n_before=2, n_after=15) @ x, longer)


@pytest.mark.parametrize("name", FILTERS)
def test_a_low_frequency_is_scaled_by_itself(name):
    n, cycles, d = 4096, 16, 0.1
    wave = torch.cos(2 * pi * cycles * torch.arange(n) / n)[None]
    filtered = RampFilter((1, n), d, name) @ wave
    middle = slice(n // 4, 3 * n // 4)
    expected = cycles / (n * d) * wave
    torch.testing.assert_close(filtered[:, middle], expected[:, middle], rtol=0, atol=6e-4)


def test_apodisation_only_reduces_the_response():
    ramp, *others = (RampFilter((1, 64), 1.0, name).response for name in FILTERS)
    for response in others:
        assert (response <= ramp + 1e-15).all()
        assert response[-1] < 0.7 * ramp[-1]


def test_an_unknown_filter_raises_an_error():
    with pytest.raises(ValueError, match=r"ramp, .* 'ram-lak'"):
        RampFilter((1, 8), 1.0, "ram-lak")
    with pytest.raises(ValueError, match="pixel_cm"):
        RampFilter((1, 8), 0.0)
