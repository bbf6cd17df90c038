"""Labels that look alike are told apart in a whole run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner

from tunesmith_cli.app import app
from tunesmith_torch.testing.tiny_model import save_tiny_model


@pytest.mark.processes
def test_the_majority_of_three_signs_is_right_on_its_own_rows_only(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    labels = ["-1"] * 50 + ["0"] * 30 + ["1"] * 40
    rows = [{"prompt": f"ticket {n}?", "completion": label} for n, label in enumerate(labels)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    tables = {
        "run": {"device": "cpu"},
        "model": {"base": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "technique": {"use": "lora", "max_steps": 1},
        "baselines": {"use": ["majority"]},
    }
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(tmp_path / "run.toml"), "--out", str(out)])
    assert done.exit_code == 0, done.output

    path = out / "evaluations" / "majority.classification.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = Counter(line["expected"] for line in lines)
    assert expected.keys() == {"-1", "0", "1"}
    assert {line["output"] for line in lines} == {"-1"}
    right = [line["expected"] for line in lines if line["accuracy"]["value"]]
    assert Counter(right) == {"-1": expected["-1"]}
    share = expected["-1"] / expected.total()
    assert share < 0.5
    assert f"majority: accuracy {share:.3f} [" in done.output
