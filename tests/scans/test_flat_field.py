"""Flat-field corrected scans have the air of the model in every pixel and no dead pixels."""

from dataclasses import replace

import pytest
import torch
from support.scan_files import recorded

from pcctlearn.scan import Scan
from pcctlearn.scans.flat_field import flat_fielded, pixels_to_fill


def open_beam():
    """A scan without object: every pixel counts its air, times the exposure of the view."""
    scan = recorded()
    counts = scan.air[:, None] * scan.exposure[:, None, None].float()
    return replace(scan, counts=counts, primary=counts.clone(), scatter=torch.zeros_like(counts))


def model_air(scan):
    return scan.spectral_model(["water"]).air().detach()


def test_without_object_every_pixel_counts_the_air_of_the_model():
    scan = open_beam()
    prepared = flat_fielded(scan, model_air(scan))
    wanted = model_air(scan).float()[:, None, None, None].expand_as(prepared.counts)
    torch.testing.assert_close(prepared.counts, wanted)
    assert not prepared.has_noise


def test_a_dead_pixel_is_filled_in_counts_and_truth():
    scan = open_beam()
    scan.counts[:, :, 1, 2] = torch.nan
    scan.air[:, 1, 2] = 0.0
    kinds = pixels_to_fill(scan, max_dead_share=0.1)
    dead = torch.stack([*kinds.values()]).any(0)
    assert dead.nonzero().tolist() == [[1, 2]]
    prepared = flat_fielded(scan, model_air(scan), dead)
    for counts in (prepared.counts, prepared.scan(noise=False).at("corrected_counts")):
        wanted = model_air(scan).float()[:, None, None, None].expand_as(counts)
        torch.testing.assert_close(counts, wanted)


def test_more_dead_pixels_than_allowed_are_refused():
    scan = open_beam()
    scan.counts[:, :, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="max_dead_share=0"):
        pixels_to_fill(scan, max_dead_share=0.0)


def test_the_correction_can_be_undone():
    scan = recorded()
    prepared = flat_fielded(scan, model_air(scan))
    back = prepared.in_pixels(Scan(counts=prepared.counts[None]))
    torch.testing.assert_close(back.at("counts")[0], scan.at("counts"))


def test_noise_depends_only_on_the_seed_and_the_name_of_the_scan():
    scan = recorded()
    first = flat_fielded(scan, model_air(scan))
    torch.manual_seed(7)
    assert torch.equal(first.noisy_primary(0), first.noisy_primary(0))
    assert not torch.equal(first.noisy_primary(0), first.noisy_primary(1))
    other = flat_fielded(replace(scan, name="another"), model_air(scan))
    assert not torch.equal(first.noisy_primary(0), other.noisy_primary(0))
    z = (first.noisy_primary(0) / first.gain - scan.at("primary")) / scan.at("primary").sqrt()
    assert 0.8 < z.std() < 1.2


def test_counts_of_equal_exposure_do_not_move_the_minimum():
    """Either way, the flat field gives the same counts."""
    scan = recorded()
    equal = scan.of_equal_exposure()
    assert equal.exposure is None
    assert equal.of_equal_exposure() is equal
    torch.testing.assert_close(
        flat_fielded(equal, model_air(scan)).counts, flat_fielded(scan, model_air(scan)).counts
    )


def test_another_number_of_bins_is_refused():
    scan = recorded()
    with pytest.raises(ValueError, match=r"2 bins.* 3"):
        flat_fielded(scan, torch.ones(3))
