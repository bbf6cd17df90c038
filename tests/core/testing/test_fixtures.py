"""The fixtures for plugin authors: a run with a plugin that is not installed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import tunesmith_echo

from tunesmith.config.trust import trust_file
from tunesmith.plugins import cache_folder
from tunesmith.records import Completion
from tunesmith.testing.fixtures import NetworkUsed

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


@pytest.mark.usefixtures("no_network")
def test_without_network_other_machines_are_refused_and_this_one_is_not() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    for name in ("connect", "connect_ex"):
        with socket.socket() as plug, pytest.raises(NetworkUsed, match="must not use the network"):
            getattr(plug, name)(("192.0.2.1", 80))
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())


def test_the_own_cache_is_used_by_cache_and_state(own_cache: Path) -> None:
    assert cache_folder() == own_cache
    assert trust_file().is_relative_to(own_cache)
