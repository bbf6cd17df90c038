"""A run that was trained too little gives no verdict against tuning."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

QUEUES = {"card": "one", "refund": "two", "delivery": "three", "invoice": "four", "ticket": "five"}


@pytest.mark.parametrize(
    ("validation", "changes"),
    [
        (30, {"max_steps": 5, "learning_rate": 2e-3}),
        (0, {"max_steps": 5, "learning_rate": 2e-3}),
        (0, {"epochs": 4, "learning_rate": 2e-4}),
    ],
    ids=["five steps", "five steps without validation rows", "tiny rate"],
)
def test_a_run_that_was_trained_too_little(
    tmp_path: Path, tunesmith: Any, tiny_folder: Path, validation: int, changes: dict[str, Any]
) -> None:
    """A classifier gets all rows right, and the tuned model none: that is no verdict yet."""
    rng = random.Random(1)
    rows = [
        {"prompt": f"What is the {topic} {rng.randrange(9_999)} about?", "completion": answer}
        for topic, answer in QUEUES.items()
        for _ in range(30)
    ]
    rng.shuffle(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    technique = "\n".join(f"{key} = {value}" for key, value in changes.items())
    (tmp_path / "run.toml").write_text(
        f"""
        reporters = []
        evaluators = [{{ use = "classification" }}, {{ use = "loss" }}]
        baselines = {{ use = ["majority", "linear"] }}
        split = {{ near_duplicates = false, validation_size = {validation} }}
        [run]
        device = "cpu"
        [model]
        base = "{tiny_folder}"
        [data]
        use = "jsonl"
        train = "rows.jsonl"
        test_size = 60
        [technique]
        use = "full"
        precision = "fp32"
        {technique}
        """
    )
    done = tunesmith("run", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run"))
    assert done.code == 0, done.err
    output = " ".join((done.out + done.err).split())
    assert output.startswith("NOT ENOUGH EVIDENCE ")
    assert " not enough evidence: the tuned model is underfitted: " in output
    assert "a training answer costs the tuned model" in output
    assert " steps instead of " in output
    assert "fit: underfitted; " in tunesmith("report", str(tmp_path / "run")).out
    assert not (tmp_path / "run" / "winner").exists()
    shown = tunesmith("report", str(tmp_path / "run"), "--json").data
    assert shown["verdict"]["word"] == "NOT ENOUGH EVIDENCE"
    assert shown["fit"]["state"] == "underfitted"
