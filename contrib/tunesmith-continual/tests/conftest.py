"""Fixtures of every test: a tiny model, and the runs of two earlier tasks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]

from training import invoke, write_earlier_run, write_task  # noqa: E402

pytest_plugins = ["tunesmith.testing.fixtures", "tunesmith_torch.testing.fixtures"]


@pytest.fixture(scope="session")
def earlier(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The folders of two earlier runs, with their rows and without a trained model."""
    folder = tmp_path_factory.mktemp("earlier")
    return [str(write_earlier_run(folder, tiny_model, name)) for name in ("red", "blue")]


@pytest.fixture(scope="session")
def chain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``red``, then ``blue`` with replay, then ``green``; and ``lone``."""
    folder = tmp_path_factory.mktemp("chain")
    done = invoke("run", write_task(folder, tiny_model, "red"), "--out", folder / "red", "-q")
    assert done.exit_code == 0, done.output
    before = folder / "red"
    for name, retention in (("blue", {"replay": 0.5, "kl_every": 2}), ("green", {})):
        file = write_task(folder, tiny_model, name, **retention)
        done = invoke("continue", before, file, "--out", folder / name, "-q")
        assert done.exit_code == 0, done.output
        before = folder / name
    lone = write_task(folder, tiny_model, "lone")
    assert invoke("run", lone, "--out", folder / "lone", "-q").exit_code == 0
    (folder / "shown.txt").write_text(done.output, encoding="utf-8")
    return folder
