"""Open models by name: a folder, a run, an artifact of a run, and unknown names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith.errors import UsageError
from tunesmith.records import Message
from tunesmith_torch.compare.open_by_name import find_tokenizer, open_by_name
from tunesmith_torch.testing.tiny_model import save_tiny_model

RUN = """
[model]
base = "model"
[data]
use = "jsonl"
train = "rows.jsonl"
[technique]
use = "lora"
max_steps = 2
learning_rate = 1e-2
[baselines]
use = []
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byname")
    save_tiny_model(folder / "model")
    rows = [{"prompt": f"{n}?", "completion": f"yes {n}"} for n in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(RUN)
    tunesmith.run(folder / "run.toml", out=folder / "out" / "run")
    return folder


def test_open_a_run_its_artifact_and_its_base_model(project: Path) -> None:
    exchange = [(Message("user", "1?"),)], ["yes 1"]
    names = ("model", "out/run", "out/run/adapter")
    base, run, artifact = (open_by_name(str(project / name)).score(*exchange) for name in names)
    assert run == artifact
    assert run != base


def test_an_unknown_model_name_is_an_error(project: Path) -> None:
    with pytest.raises(UsageError, match=r"evaluators\.run: no run or model"):
        open_by_name("nowhere://nothing", option="evaluators.run")


def test_the_tokenizer_is_found_without_opening_the_model(project: Path) -> None:
    """That of a run is its base model's."""
    for name in ("model", "out/run", "out/run/adapter"):
        assert find_tokenizer(str(project / name), "option") == project / "model"
    with pytest.raises(UsageError, match="option: no run or model"):
        find_tokenizer("nowhere://nothing", "option")
