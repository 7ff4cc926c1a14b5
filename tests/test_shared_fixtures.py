"""A fixture that the tests of a file share does not depend on what ran before it."""

import pytest
import torch


def _state():
    found = torch.get_default_dtype(), torch.rand(3, dtype=torch.float32).tolist()
    torch.set_default_dtype(torch.float64)
    return found


@pytest.fixture(scope="module")
def earlier():
    return _state()


@pytest.fixture(scope="module")
def later(earlier):
    return _state()


def test_shared_fixtures_start_alike_and_change_nothing(earlier, later):
    assert earlier == later
    assert earlier[0] == torch.float32


def test_nor_do_they_disturb_a_test_that_asks_for_them(request):
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    request.getfixturevalue("of_a_class")
    assert torch.get_default_dtype() == torch.float32
    assert dtype == torch.float64
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture(name="of_a_class", scope="class")
def _of_a_class():
    return _state()
