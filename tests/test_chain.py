"""The chain stops at a stage, continues from one, and is differentiable from end to end."""

import pytest
import torch
from support.scanners import scanner
from support.studies import TINY_IMAGE, slab_problem, tiny_beam

from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import STAGES, Scan
from pcctlearn.shapes import channels_first, channels_last
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.planar import ParallelBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid


def chain_and_counts(beam=None, grid=TINY_IMAGE):
    beam = beam or tiny_beam()
    model = scanner(every=4, n_pixels=beam.n_columns)
    image = MonoenergeticImages(model.materials, [60.0, 70.0])
    chain = Chain(MaximumLikelihood(model), fbp(beam, grid).double(), image)
    A = torch.tensor([6.0, 0.4]).expand(beam.n_views, beam.n_columns, 2)
    return chain, model(A).detach().movedim(-1, 0)[None]


@pytest.mark.parametrize(
    ("until", "reached"),
    [
        ("counts", {"counts"}),
        ("line_integrals", {"counts", "line_integrals"}),
        ("expected_counts", {"counts", "line_integrals", "expected_counts"}),
        ("maps", {"counts", "line_integrals", "maps"}),
        ("vmi", {"counts", "line_integrals", "maps", "vmi"}),
    ],
)
def test_the_chain_stops_at_the_requested_stage(until, reached):
    chain, counts = chain_and_counts()
    scan = chain(counts, until=until)
    assert {stage for stage in STAGES if getattr(scan, stage) is not None} == reached


def test_shapes_and_values():
    chain, counts = chain_and_counts()
    scan = chain(counts)
    assert scan.at("line_integrals").shape == (1, 2, 20, 24)
    assert scan.at("maps").shape == (1, 2, 24, 24)
    assert scan.at("vmi").shape == (1, 2, 24, 24)
    A = scan.at("line_integrals")
    torch.testing.assert_close(A[0, :, 3, 5], torch.tensor([6.0, 0.4]), rtol=1e-6, atol=1e-6)
    expected = chain(counts, until="expected_counts").at("expected_counts")
    torch.testing.assert_close(expected, counts, rtol=1e-6, atol=1e-3)


def test_resume_continues_from_the_stages_of_the_scan():
    chain, counts = chain_and_counts()
    A = torch.rand(1, 2, 20, 24)
    scan = chain.resume(Scan(line_integrals=A), until="maps")
    assert scan.line_integrals is A
    assert scan.counts is None
    torch.testing.assert_close(scan.at("maps"), chain.reconstruct @ A)
    partly = chain(counts, until="line_integrals")
    torch.testing.assert_close(chain.resume(partly).at("vmi"), chain(counts).at("vmi"))


def test_a_cone_beam_chain_ends_in_volumes():
    beam = ConeBeam(6, 3, 5, 1.2, 8.0, 12.0)
    model = scanner(every=4)
    image = MonoenergeticImages(model.materials, [60.0])
    chain = Chain(MaximumLikelihood(model), fbp(beam, VolumeGrid(2, 4, 4, 0.6)), image)
    A = torch.tensor([6.0, 0.4]) * (0.9 + 0.2 * torch.rand(2, *beam.shape, 1))
    counts = model(A).detach().movedim(-1, 1).requires_grad_()
    scan = chain(counts)
    assert scan.at("maps").shape == (2, 2, 2, 4, 4)
    assert scan.at("vmi").shape == (2, 1, 2, 4, 4)
    torch.testing.assert_close(scan.at("maps"), chain.reconstruct @ A.movedim(-1, 1))
    scan.at("vmi").square().sum().backward()
    assert counts.grad.isfinite().all()
    assert (counts.grad.abs().sum((0, 1)) > 0).any()
    with pytest.raises(ValueError, match=r"maps .* 2 materials"):
        chain.image(scan.at("maps")[:, :1])


def test_a_chain_without_reconstruction_ends_at_the_line_integrals():
    chain, target, _ = slab_problem()
    scan = chain(target.counts)
    assert scan.maps is None
    with pytest.raises(ValueError, match="no maps"):
        scan.at("maps")


def test_wrong_arguments_raise_an_error():
    chain, counts = chain_and_counts()
    with pytest.raises(ValueError, match=r"until .*'images'"):
        chain(counts, until="images")
    with pytest.raises(ValueError, match="reconstruct"):
        Chain(chain.decompose, None, chain.image)


def test_gradients_of_images_reach_counts_and_thresholds():
    beam = ParallelBeam(n_views=3, n_columns=4, pixel_cm=1.0)
    chain, counts = chain_and_counts(beam, ImageGrid(4, 4, 1.0))
    thresholds = chain.decompose.model.thresholds
    edges = thresholds.edges_keV.detach().clone().requires_grad_()

    def images(counts, edges):
        with torch.nn.utils.stateless._reparametrize_module(thresholds, {"edges_keV": edges}):
            return chain(counts).at("vmi")

    counts = (counts * (1 + 0.01 * torch.rand_like(counts))).requires_grad_()
    # relative to their scale, a step in counts is small and a step in keV is large
    assert torch.autograd.gradcheck(
        lambda n: images(n, edges.detach()), counts, eps=1.0, rtol=1e-4, atol=1e-12, fast_mode=True
    )
    learned = torch.autograd.gradcheck(
        lambda D: images(counts.detach(), torch.cat([D, edges.detach()[:, 4:]], 1)),
        edges.detach()[:, :4].clone().requires_grad_(),
        eps=1e-4,
        rtol=1e-4,
        atol=1e-7,
        fast_mode=True,
    )
    assert learned


def piled_up_chain(learned_s):
    """A chain with dead times, and the counts that true dead times of 2e-8 and 1e-8 s leave."""
    chain, counts = chain_and_counts()
    true = PileUp([2e-8, 2e-8, 1e-8, 1e-8], [0.0] * 4, time_s=0.02)
    measured = channels_first(true(channels_last(counts))).detach()
    linearise = PileUp(learned_s, [0.0] * 4, time_s=0.02)
    return (
        Chain(chain.decompose, chain.reconstruct, chain.image, linearise=linearise),
        measured,
        true,
    )


def test_pile_up_is_corrected_before_the_decomposition():
    chain, measured, _ = piled_up_chain([2e-8, 2e-8, 1e-8, 1e-8])
    scan = chain(measured)
    rays = channels_last(scan.at("line_integrals"))
    torch.testing.assert_close(rays, torch.tensor([6.0, 0.4]).expand_as(rays), rtol=1e-5, atol=1e-5)
    plain = Chain(chain.decompose)(measured, until="line_integrals").at("line_integrals")
    assert (channels_last(plain) - rays).abs().max() > 1e-3


def test_dead_times_are_learned_from_images():
    chain, measured, true = piled_up_chain([1e-8] * 4)
    target = Chain(chain.decompose, chain.reconstruct, linearise=true)(measured, until="maps")
    learned = chain.linearise.paralysable_s
    error = (chain(measured, until="maps").at("maps") - target.at("maps").detach()).square().sum()
    error.backward()
    slope = learned.grad.clone()
    step = 1e-12
    with torch.no_grad():
        for j in range(4):
            values = []
            for sign in (1, -1):
                learned[j] += sign * step
                moved = chain(measured, until="maps").at("maps") - target.at("maps")
                values.append(float(moved.square().sum()))
                learned[j] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(slope[j]), rel=1e-3)


def test_rays_beyond_the_greatest_rate_are_not_converged():
    chain, measured, _ = piled_up_chain([2e-8] * 4)
    measured = measured.clone()
    measured[0, :, 3, 5] *= 1e4
    scan = chain(measured, until="line_integrals")
    assert not scan.at("converged")[0, 3, 5]
    assert not scan.at("resolved")[0, 3, 5]
    assert scan.at("converged").sum() == scan.at("converged").numel() - 1
