"""The garbage collector of a process, during a recording and after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tunesmith_torch.memory_estimate.allocation_recorder import AllocationRecorder


@pytest.fixture
def thawed() -> Iterator[None]:
    """No object is frozen at first; afterwards they are, as in other tests."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_nothing_stays_frozen(thawed: None) -> None:
    with AllocationRecorder({}).recording():
        assert gc.get_freeze_count() > 0
        assert not gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_objects_that_the_process_has_frozen_stay_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with AllocationRecorder({}).recording():
        pass
    assert gc.get_freeze_count() > frozen // 2 > 0  # a few of them may have ended
