"""Disk space is checked before the work that needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import EnvironmentProblem
from tunesmith.storage import free_bytes
from tunesmith_torch.runtime.disk_space import require_free_space


def test_the_error_names_both_sizes(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet", 1)
    assert free_bytes(tmp_path / "not" / "yet") > 0
    with pytest.raises(
        EnvironmentProblem, match=r"909\.5 TiB needed, [\d.]+ [KMGT]iB free"
    ) as caught:
        require_free_space(tmp_path, 10**15)
    assert caught.value.hint
