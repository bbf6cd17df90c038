"""The cache folder is the one that the user names, else that of the platform."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunesmith_torch.runtime.cache_folder import cache_folder


def test_the_folder_is_named_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("TUNESMITH_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own"
    monkeypatch.delenv("TUNESMITH_CACHE")
    assert cache_folder() == Path("/caches/tunesmith")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/tunesmith"
