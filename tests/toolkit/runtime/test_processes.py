"""Computations in forked processes: order, errors, and a process that dies."""

from __future__ import annotations

import os

import pytest

from tunesmith_torch.runtime.processes import map_in_processes

pytestmark = pytest.mark.processes
HERE = os.getpid()


def _square(number: int) -> tuple[int, bool]:
    return number**2, os.getpid() == HERE


def _fail(number: int) -> int:
    raise ValueError(f"no square of {number}")


def _die_elsewhere(number: int) -> int:
    if os.getpid() != HERE:
        os._exit(1)
    return number


def test_results_come_in_order_and_from_other_processes() -> None:
    assert list(map_in_processes(_square, [3, 1, 2], processors=2)) == [
        (9, False),
        (1, False),
        (4, False),
    ]


def test_one_item_and_one_processor_need_no_process() -> None:
    assert list(map_in_processes(_square, [3])) == [(9, True)]
    assert list(map_in_processes(_square, [3, 1], processors=1)) == [(9, True), (1, True)]


def test_an_error_is_raised_here() -> None:
    with pytest.raises(ValueError, match="no square of 3"):
        map_in_processes(_fail, [3, 1], processors=2)


def test_items_of_processes_that_died_are_computed_here() -> None:
    assert list(map_in_processes(_die_elsewhere, [3, 1], processors=2)) == [3, 1]
