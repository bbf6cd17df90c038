"""A note where JSON answers cannot be constrained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from baseline_rows import class_rows, object_rows

from tunesmith.install import install_extra
from tunesmith_evidence.prompting import json_model
from tunesmith_plugins.baselines.zero_shot import review


@pytest.mark.parametrize(
    ("installed", "use", "rows", "count"),
    [
        (False, None, object_rows(30, 1), 1),
        (False, ["zero-shot"], object_rows(30, 1), 1),
        (False, ["linear"], object_rows(30, 1), 0),
        (False, None, class_rows(30, 1), 0),
        (True, None, object_rows(30, 1), 0),
    ],
)
def test_a_missing_library_is_noted(
    monkeypatch: pytest.MonkeyPatch, installed: bool, use: Any, rows: Any, count: int
) -> None:
    monkeypatch.setattr(json_model, "find_spec", lambda name: object() if installed else None)
    plan: Any = SimpleNamespace(baseline_options=SimpleNamespace(use=use))
    found = list(review(plan, rows))
    assert [finding.hint for finding in found] == [install_extra("json")] * count
