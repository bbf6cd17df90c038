"""The ``self`` generator: the base model's own answers to general prompts, against forgetting.

Rows that the base model would write itself keep its other abilities when they are mixed into the
training rows of a narrow task (rehearsal).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.contracts import SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.offers import GeneratorOffer
from tunesmith.options import DataPath, Options
from tunesmith.records import last_exchange
from tunesmith_synthetic.generators.pool import read_pool, with_answer


class SelfOptions(Options):
    """Options of ``[generator] use = "self"``."""

    prompts: DataPath = Field(
        min_length=1, description="File of general prompts: JSON Lines or lines of text."
    )
    max_new_tokens: int = Field(
        128, ge=1, le=32_768, description="Maximum tokens per answer; longer answers are rejected."
    )


@dataclass(frozen=True)
class OwnAnswers:
    """Answers prompts with the base model."""

    options: SelfOptions

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        """Yield a row for each complete answer, without prompts of the side-effect check."""
        from tunesmith_data.near_duplicates import find_nearest
        from tunesmith_data.splits import prompt_text
        from tunesmith_evidence.side_effects.general_prompts import read_general_prompts

        records = read_pool(Path(self.options.prompts), task.count, task.task.seed)
        measured = [each.prompt for each in read_general_prompts()]
        near = find_nearest(measured, [prompt_text(record) for record in records])
        prompts = [last_exchange(record)[0] for record in records]
        given = task.task.base().generate(prompts, self.options.max_new_tokens)
        for record, answer, match in zip(records, given, near, strict=True):
            if match is not None:
                yield SkippedRow(where=record.source, cause="side effects are measured with it")
            elif answer.finish_reason == "length":
                yield SkippedRow(where=record.source, cause="the answer was cut off")
            else:
                row, place = with_answer(record, answer.text.strip()), Path(record.source).name
                yield GeneratedRow(record=row, model="base", details={"pool": place})


SELF: GeneratorOffer[Any] = GeneratorOffer(
    name="self",
    summary="the base model's own answers to general prompts, as rehearsal against forgetting",
    config=SelfOptions,
    build=OwnAnswers,
)
