"""Unknowns that may move at the limits of a box."""

import torch

from pcctlearn.solvers.quadratic import Bounds, free_unknowns, n_of_rays, of_rays, take

BOX = Bounds(torch.zeros(1), torch.ones(1))


def test_an_unknown_is_fixed_if_the_descent_leads_out_of_the_box():
    x = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])[:, None]
    gradient = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[:, None]
    free = free_unknowns(x, gradient, BOX)
    assert free[:, 0].tolist() == [False, True, True, True, True, False]


def test_infinite_bounds_fix_no_unknown():
    x, gradient = torch.tensor([[-1e9], [1e9]]), torch.tensor([[1.0], [-1.0]])
    open_box = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
    assert free_unknowns(x, gradient, open_box).all()


def test_a_marked_objective_says_which_arguments_have_rows_for_the_rays():
    @of_rays(2)
    def marked(x, first, second, shared):
        return first

    assert n_of_rays(marked) == 2
    assert n_of_rays(lambda x: x) == 0


def test_rows_are_taken_and_stay_last_in_memory():
    values = torch.rand(3, 2, 7).movedim(-1, 0)  # (7, 3, 2), the first axis contiguous
    some = take(values, torch.tensor([1, 4, 5]))
    assert torch.equal(some, values[[1, 4, 5]])
    assert some.stride(0) == 1
