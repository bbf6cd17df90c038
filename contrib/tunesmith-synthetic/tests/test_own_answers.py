"""The ``self`` generator: the base model's answers, without prompts that measure side effects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import make_rows

from tunesmith.contracts import BaselineTask, Generation, SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.records import Completion
from tunesmith_evidence.side_effects.general_prompts import read_general_prompts
from tunesmith_synthetic.generators.own_answers import OwnAnswers, SelfOptions


class Echo:
    """A model that answers with the number of words; long prompts get a cut answer."""

    def generate(self, prompts: Sequence[Any], max_new_tokens: int) -> list[Generation]:
        sizes = [len(prompt[-1].text.split()) for prompt in prompts]
        return [
            Generation(f"{size} words", 3, "length" if size > max_new_tokens else "stop")
            for size in sizes
        ]


def test_the_base_model_answers_general_prompts(tmp_path: Path) -> None:
    measured = read_general_prompts()[0].prompt.replace("\n", " ")
    prompts = ["Name a river.", measured, "word " * 30, "What is a prime number?"]
    (tmp_path / "general.txt").write_text("".join(f"{text}\n" for text in prompts))
    rows = [Completion(source="x", **row) for row in make_rows(0, 3)]
    learned: Any = BaselineTask(train=rows, base=Echo, seed=0)  # type: ignore[arg-type]
    task = GeneratorTask(task=learned, count=9, folder=tmp_path, solve=lambda name, rows: [])
    options = SelfOptions(prompts=str(tmp_path / "general.txt"), max_new_tokens=20)
    found = [*OwnAnswers(options).generate(task)]
    causes = {Path(r.where).name: r.cause for r in found if isinstance(r, SkippedRow)}
    assert causes == {
        "general.txt:2": "side effects are measured with it",
        "general.txt:3": "the answer was cut off",
    }
    rows = {row.details["pool"]: row for row in found if isinstance(row, GeneratedRow)}
    assert rows.keys() == {"general.txt:1", "general.txt:4"}
    for place, answer in (("general.txt:1", "3 words"), ("general.txt:4", "5 words")):
        assert rows[place].model == "base" and rows[place].parent is None
        record = rows[place].record
        assert isinstance(record, Completion) and record.completion == answer
