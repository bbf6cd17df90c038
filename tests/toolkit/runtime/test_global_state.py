"""torch's and NumPy's global state is restored after a plugin's call."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy
import pytest
import torch

from tunesmith.global_state import preserve_global_state
from tunesmith_torch.runtime.global_state import list_numpy_states, list_torch_states

CHANGES: dict[str, Callable[[], object]] = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's gradient mode": lambda: torch.set_grad_enabled(False),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's settings of cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "NumPy's handling of errors": lambda: numpy.seterr(all="raise"),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(
        not torch.are_deterministic_algorithms_enabled()
    ),
}


@pytest.fixture(autouse=True)
def undo() -> Iterator[None]:
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_undone_and_named(name: str) -> None:
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())
    with preserve_global_state() as changes:
        CHANGES[name]()
    assert changes == [name]
    assert before == (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())


def test_every_state_can_be_read_compared_and_restored() -> None:
    for state in (*list_torch_states(torch), *list_numpy_states(numpy)):
        value = state.read()
        assert state.read() == value
        state.restore(value)
        assert state.read() == value, state.name


def test_random_numbers_continue_as_if_nothing_was_drawn() -> None:
    torch.manual_seed(3)
    numpy.random.seed(3)
    expected = (torch.rand(3).tolist(), numpy.random.rand(3).tolist())
    torch.manual_seed(3)
    numpy.random.seed(3)
    with preserve_global_state() as changes:
        torch.rand(5)
        numpy.random.rand(5)
    assert changes == []
    assert (torch.rand(3).tolist(), numpy.random.rand(3).tolist()) == expected
