"""The data loader on the page about data: short, and complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data import SourceLoader
from tunesmith_data.stored_records import StoredRecords

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "data.md"


def loader(**options: Any) -> SourceLoader:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 20
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    (offer,) = namespace["tunesmith_data_loaders"]()
    built = offer.build(offer.config(**options))
    assert isinstance(built, SourceLoader)
    return built


def test_the_loader_on_the_page_reads_parallel_lines(tmp_path: Path) -> None:
    prompts, answers = tmp_path / "all.nl", tmp_path / "all.cm"
    prompts.write_text("List files.\nShow the date.\nBroken.\n")
    answers.write_text("ls\ndate\n\n")
    built = loader(prompts=str(prompts), answers=str(answers), max_skipped=0.5)
    dataset = built.load()
    pairs = [(r.prompt, r.completion) for r in dataset.train if isinstance(r, Completion)]
    assert pairs == [("List files.", "ls"), ("Show the date.", "date")]
    assert dataset.train[1].source == f"{prompts}:2"
    assert [(x.where, x.cause) for x in dataset.skipped] == [(f"{prompts}:3", "answer is empty")]
    stored = SourceLoader(built.options, built.train, memory=0).load()
    assert isinstance(stored.train, StoredRecords) and list(stored.train) == dataset.train
    with pytest.raises(DataError, match="1 of 3 rows cannot be used"):
        loader(prompts=str(prompts), answers=str(answers)).load()
