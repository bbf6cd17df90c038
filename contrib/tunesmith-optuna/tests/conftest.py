"""Fixtures of every test: a run file of a technique without tensors, whose trials take seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tunesmith.testing import ngram

for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

RUN_FILE = """
[model]
base = "{base}"

[data]
use = "jsonl"
train = "rows.jsonl"

[technique]
use = "ngram"
epochs = 1

[[evaluators]]
use = "exact-match"
id = "lenient"
ignore_case = true

[gate]
at_least = {{ lenient.exact-match = 1.0 }}

[plugins]
files = ["{plugin}"]

[tune.search]
technique.epochs = [1, 2, 3]
technique.batch_size = {{ low = 2, high = 4 }}
"""


@pytest.fixture
def run_file(ngram_model: Path, tmp_path: Path) -> Path:
    """A run file of the ``ngram`` technique with nine combinations to search."""
    rows = [{"prompt": f"question {n}", "completion": f"answer {n % 7}"} for n in range(130)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    path = tmp_path / "run.toml"
    path.write_text(RUN_FILE.format(base=ngram_model, plugin=ngram.__file__), encoding="utf-8")
    return path
