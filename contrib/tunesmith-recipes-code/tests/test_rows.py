"""The test rows of the triage are other messages than the training rows."""

from __future__ import annotations

import json
import re
from importlib import resources

from tunesmith_recipes_code.triage.generate import LINES, NAMES


def read(part: str) -> list[dict[str, str]]:
    path = resources.files("tunesmith_recipes_code").joinpath(f"triage/{part}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_message_of_the_test_rows_is_in_the_training_rows() -> None:
    train, test = ("\n".join(row["prompt"] for row in read(part)) for part in ("train", "test"))
    for name in NAMES["test"]:
        assert name in test and not re.search(rf"\b{name}\b", train)
    lines = {line for cause in LINES.values() for line in cause["test"]}
    for line in lines:
        assert max(re.split(r"\{\w+\}", line), key=len).strip(" ()") not in train
    assert len(lines) == 32
