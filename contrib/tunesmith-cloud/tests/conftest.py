"""Fixtures of every test: a tiny model, runs on it, and programs named like Slurm's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.fixtures"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a hub would serve it. Read it, copy it, do not change it."""
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "llama")


RUN_FILE = """
[model]
base = "{model}"

[data]
use = "jsonl"
train = "rows.jsonl"

[technique]
use = "lora"
epochs = 12
batch_size = 4
precision = "fp32"
checkpoints = {{ every = 10 }}

[baselines]
use = ["majority"]

[[evaluators]]
use = "exact-match"

[cloud]
memory = 2
cpus = 1
"""


@pytest.fixture(scope="session")
def project(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file of 192 steps and its rows."""
    folder = tmp_path_factory.mktemp("project")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n % 7}"} for n in range(80)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    (folder / "run.toml").write_text(RUN_FILE.format(model=tiny_folder), encoding="utf-8")
    return folder
