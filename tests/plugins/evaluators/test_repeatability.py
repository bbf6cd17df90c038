"""The noise floor: a second pass in another order of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.contracts import Generation
from tunesmith.execution.wrapped_model import CachedModel, WrappedModel
from tunesmith.records import Completion, Prompt
from tunesmith.testing.fakes import FakeTextModel, prompt_key
from tunesmith_plugins.evaluators.repeatability import REPEATABILITY, disable_cache

ROWS = [Completion(source=f"r:{n}", prompt=f"q{n}", completion="x") for n in range(7)]


@dataclass
class Neighbors(FakeTextModel):
    """Some answers depend on the prompt before them in the batch; it keeps its batches."""

    moody: frozenset[str] = frozenset()
    batches: list[list[str]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], *rest: Any, **options: Any) -> list[Generation]:
        keys = [prompt_key(prompt) for prompt in prompts]
        self.batches.append(keys)
        before = ["", *keys]
        return [
            Generation(f"{key} {before[n] if key in self.moody else ''}", 2, "stop")
            for n, key in enumerate(keys)
        ]


def test_answers_that_depend_on_their_batch_are_found() -> None:
    model = Neighbors(moody=frozenset({"q2", "q5"}))
    [measured] = REPEATABILITY.build(REPEATABILITY.config()).measure(CachedModel(model), ROWS)
    assert measured.values == (1, 1, 0, 1, 1, 0, 1)
    assert measured.weights == (1.0,) * 7
    first, *second = model.batches
    assert sorted(prompt for batch in second for prompt in batch) == sorted(first)
    assert second == [["q6", "q4", "q2", "q0"], ["q5", "q3", "q1"]]


def test_of_many_rows_some_are_answered() -> None:
    model = Neighbors(moody=frozenset({"q1", "q4"}))
    evaluator = REPEATABILITY.build(REPEATABILITY.config(rows=3))
    [measured] = evaluator.measure(model, ROWS)
    assert measured.weights == (1, 0, 0, 1, 0, 0, 1) and measured.values == (1,) * 7
    for count in (0, 1, 2):
        [measured] = evaluator.measure(Neighbors(), ROWS[:count])
        assert measured.values == (1.0,) * count


def test_the_cache_is_skipped_wherever_it_is() -> None:
    model = FakeTextModel()
    assert disable_cache(WrappedModel(CachedModel(WrappedModel(model)))) == WrappedModel(
        WrappedModel(model)
    )
