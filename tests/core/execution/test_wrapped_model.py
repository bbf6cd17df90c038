"""A wrapped model passes prompts and progress of every call through its subclass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tunesmith.contracts import Generation, Progress, SamplingModel
from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.records import Prompt
from tunesmith.testing.fakes import FakeTextModel

ANSWER = Generation("an answer", 3, "stop")
CALLS: dict[str, Callable[[Any, Any], Sequence[Any]]] = {
    "score": lambda model, progress: model.score(["q"], ["an answer"], progress=progress),
    "generate": lambda model, progress: model.generate(["q"], 5, progress=progress),
    "sample": lambda model, progress: model.sample(["q"], 5, seed=1, progress=progress),
    "score_generations": lambda model, progress: model.score_generations(
        ["q"], [ANSWER], progress=progress
    ),
}


@dataclass(frozen=True)
class Louder(WrappedModel):
    """Asks in other words, and counts in another unit."""

    def convert_prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        return [f"{prompt}!" for prompt in prompts]

    def _progress(self, progress: Progress | None, count: int) -> Progress | None:
        return progress and (lambda done: progress(10 * done + count))


class Recorder(FakeTextModel):
    """Records the prompts of the calls that :class:`FakeTextModel` answers."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[Prompt] = []

    def score(self, prompts: Sequence[Prompt], *args: Any, **options: Any) -> Any:
        self.prompts += prompts
        return super().score(prompts, *args, **options)

    def generate(self, prompts: Sequence[Prompt], *args: Any, **options: Any) -> Any:
        self.prompts += prompts
        return super().generate(prompts, *args, **options)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_passed_on(call: str) -> None:
    recorder, done = Recorder(), list[int]()
    assert len(CALLS[call](Louder(recorder), done.append)) == 1
    assert recorder.prompts == ["q!"]
    assert done == [11]


@pytest.mark.parametrize("call", CALLS)
def test_without_changes_the_result_is_that_of_the_model(call: str) -> None:
    assert CALLS[call](WrappedModel(FakeTextModel()), None) == CALLS[call](FakeTextModel(), None)


@pytest.mark.parametrize("call", ["sample", "score_generations"])
def test_a_model_that_cannot_sample_is_refused(call: str) -> None:
    wrapped = WrappedModel(object())  # type: ignore[arg-type]
    assert isinstance(wrapped, SamplingModel)
    with pytest.raises(UsageError, match="cannot sample"):
        CALLS[call](wrapped, None)
