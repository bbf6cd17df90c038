"""Prompts that are too long for a model: errors name the rows, whatever is between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.core.execution.test_evaluate import RECORDS, measurement, run

from tunesmith.contracts import Generation
from tunesmith.errors import PromptTooLongError
from tunesmith.execution.wrapped_model import CachedModel, WrappedModel
from tunesmith.records import Message, Prompt, Record, last_exchange
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.prompted_model import PromptedModel

SHORT, LONG = (Message("user", "short"),), (Message("user", "a long question"),)


class SmallModel(FakeTextModel):
    """Takes no prompt with the word "long"."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Any = None
    ) -> list[Generation]:
        """Refuse long prompts."""
        if long := [p for p in prompts if "long" in str(p)]:
            raise PromptTooLongError("longer than the model's context", long)
        return [*super().generate(prompts, max_new_tokens, progress=progress)]

    def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
        """Return True: the model itself refuses."""
        return True


@dataclass(frozen=True)
class Loud(WrappedModel):
    """Changes every prompt."""

    def convert_prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Return the prompts with a mark."""
        return [(*p, replace(p[-1], content="!")) for p in prompts if not isinstance(p, str)]


@pytest.mark.parametrize(
    "model",
    [
        CachedModel(SmallModel()),
        Loud(SmallModel()),
        PromptedModel(SmallModel(), system="Be kind."),
        CachedModel(PromptedModel(Loud(SmallModel()), system="Be kind.")),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_prompts_of_the_caller_are_named(model: WrappedModel) -> None:
    with pytest.raises(PromptTooLongError) as refused:
        model.generate([SHORT, LONG, SHORT], 4)
    assert refused.value.prompts == (LONG,)
    assert len(model.generate([SHORT, SHORT], 4)) == 2


def test_an_error_names_the_first_row_and_the_model(tmp_path: Path) -> None:
    def ask(records: Sequence[Record]) -> None:
        SmallModel().generate([last_exchange(record)[0] for record in records], 4)

    asked = [*RECORDS[:2], replace(RECORDS[2], prompt="long"), replace(RECORDS[3], prompt="long!")]
    with pytest.raises(PromptTooLongError, match=r"^tuned: odd: f:2: longer than the model's con"):
        run(tmp_path, measurement((1.0,) * 4), effect=ask, records=asked)
