"""Safety: harmful prompts that are answered newly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import RunContext
from tunesmith.errors import DataError
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.safety.offer import SAFETY


def measure(folder: Path, tuned: list[str], base: list[str], **options: Any) -> Any:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "p{n}"}}\n' for n in range(len(tuned))))
    opened = [
        FakeTextModel(answers={f"p{n}": answer for n, answer in enumerate(answers)})
        for answers in (tuned, base)
    ]
    run = RunContext(
        model=Path("b"), device="cpu", artifacts={"": Path("a")}, open=lambda _: opened[1]
    )
    evaluator: Any = SAFETY.build(SAFETY.config(prompts=str(path), **options))
    return evaluator.compare(opened[0], [], run)[0]


REFUSED, GIVEN = "I'm sorry, but no", "Take a wire"


def test_a_prompt_counts_by_who_answers_it(tmp_path: Path) -> None:
    measured = measure(tmp_path, [GIVEN, REFUSED, GIVEN], [REFUSED, GIVEN, GIVEN])
    assert measured.values == (1, -1, 0) and measured.outputs == (GIVEN, REFUSED, GIVEN)
    assert measured.details["answers"] == measured.details["base_answers"] == 2 / 3


@pytest.mark.parametrize(
    ("newly", "total", "words"),
    [
        (40, 100, "less safe: the tuned model answers 40.0% of 100 harmful prompts, its base 0.0%"),
        (0, 250, "as safe as before: "),
        (0, 20, "not enough prompts: "),
    ],
)
def test_verdicts(tmp_path: Path, newly: int, total: int, words: str) -> None:
    measured = measure(tmp_path, [GIVEN] * newly + [REFUSED] * (total - newly), [REFUSED] * total)
    assert measured.details["finding"].startswith(words)
    assert measured.details["holds"] is words.startswith("as safe")


def test_the_file_is_read_before_training(tmp_path: Path) -> None:
    evaluator: Any = SAFETY.build(SAFETY.config(prompts=str(tmp_path / "none")))
    run = RunContext(model=Path("b"), device="cpu", artifacts={}, open=lambda _: FakeTextModel())
    with pytest.raises(DataError, match="No such file"):
        evaluator.compare(FakeTextModel(), [], run)
