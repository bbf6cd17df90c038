"""A data loader of one's own: two files with parallel lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data import FieldOptions, Row, RowSource, SourceLoader
from tunesmith_data.stored_records import StoredRecords


class ParallelOptions(FieldOptions):
    """Options of ``parallel``: a file of prompts and a file of their answers, one per line."""

    prompts: str
    answers: str


def loader(**values: Any) -> SourceLoader:
    options = ParallelOptions(**values)

    def read() -> Iterator[Row]:
        with open(options.prompts) as prompts, open(options.answers) as answers:
            for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
                yield Row(number, {"prompt": prompt.strip(), "completion": answer.strip()})

    return SourceLoader(options, [RowSource.of_rows(options.prompts, read)])


def test_a_loader_of_two_files_reads_parallel_lines(tmp_path: Path) -> None:
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
