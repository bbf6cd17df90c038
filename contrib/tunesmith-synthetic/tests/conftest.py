"""Fixtures of every test: a project with labels, whose technique trains in milliseconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tunesmith.testing import ngram

for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
    del os.environ[name]

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

LABELS = {"card": "visa plastic chip", "app": "login screen crash", "rate": "exchange euro fee"}
OPENINGS = ("please help with my", "what about the", "there is a problem: my", "i ask about a")
RUN_FILE = """
[run]
side_effects = false

[baselines]
use = ["majority"]

[model]
base = "{base}"

[data]
use = "jsonl"
train = "rows.jsonl"
test = "test.jsonl"

[technique]
use = "ngram"
epochs = 1

[[evaluators]]
use = "exact-match"

[plugins]
files = ["{plugin}"]
"""


def make_rows(first: int, count: int) -> list[dict[str, str]]:
    """Return rows whose label follows from one word, with different numbers."""
    rows = []
    for n in range(first, first + count):
        label = [*LABELS][n % 3]
        word = LABELS[label].split()[n // 3 % 3]
        text = f"{OPENINGS[n % 4]} {word} number {n * 37 % 101} of {'abcdefghij'[n % 10] * 6} {n}"
        rows.append({"prompt": text, "completion": label})
    return rows


def write_lines(path: Path, rows: Any) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def project(ngram_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run file, 30 training rows and 30 test rows."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", make_rows(0, 30))
    write_lines(tmp_path / "test.jsonl", make_rows(100, 30))
    text = RUN_FILE.format(base=ngram_model, plugin=ngram.__file__)
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    return tmp_path
