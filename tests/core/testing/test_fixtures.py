"""The fixtures for plugin authors: a run with a plugin that is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tunesmith_echo

from tunesmith.records import Completion
from tunesmith.testing.fixtures import ngram_model, records, run_tunesmith

__all__ = ["ngram_model", "records", "run_tunesmith"]

RUN = """
[model]
base = "ngram"

[data]
train = "rows.jsonl"

[technique]
use = "ngram"

[[evaluators]]
use = "exact-match"

[[evaluators]]
use = "brevity"

[baselines]
use = []
"""


def test_a_run_without_tensors(
    tmp_path: Path,
    records: list[Completion],
    ngram_model: Path,
    run_tunesmith: Any,
) -> None:
    assert ngram_model.is_dir()
    rows = [{"prompt": r.prompt, "completion": r.completion} for r in records * 2]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    arguments = ["run", "run.toml", "--out", "out", "--json"]
    done = run_tunesmith(*arguments, plugins=[tunesmith_echo])
    assert done.returncode == 0, done.stderr
    metrics = {line["metric"] for line in json.loads(done.stdout)["evaluations"]}
    assert metrics == {"exact-match", "words-off"}
    assert (tmp_path / "out" / "model" / "ngram.json").is_file()
    assert run_tunesmith("check", "nowhere.toml").returncode == 2
