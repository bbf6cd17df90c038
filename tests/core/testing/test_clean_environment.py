"""The environment of tests: what libraries read is set, what tunesmith reads is not."""

from __future__ import annotations

import os

import pytest

from tunesmith.testing import clean_environment


def test_variables_are_set_and_those_of_tunesmith_removed(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TUNESMITH_PLUGINS", "lora")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    clean_environment.pytest_configure(pytestconfig)
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["OMP_NUM_THREADS"] == "1"
    assert not [name for name in os.environ if name.startswith("TUNESMITH_")]
