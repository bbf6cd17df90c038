"""Baseline ``prompt``: the untouched model with prompts of the user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import Baseline, BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options


class PromptOptions(Options):
    """Options of ``prompt``."""

    files: list[str] = Field(
        [],
        description=(
            "Prompts to try, one in each file: a text file has the system prompt; a TOML file has "
            "`system`, `user` with {prompt} in the place of the question, and `shots`, a list of "
            "tables with `user` and `assistant`."
        ),
        json_schema_extra={"path": True},
    )
    constrain: bool = Field(
        True,
        description=(
            "Also try each prompt with constrained answers: where these are classes, the most "
            "probable label, as it is and calibrated by training prompts; where they are JSON "
            "objects, answers of a schema."
        ),
    )


@dataclass(frozen=True)
class PromptBaseline:
    """The untouched model with prompts that the user wrote."""

    options: PromptOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one for each file, and one with constrained answers."""
        from tunesmith_evidence.prompting.task_prompt import read_task
        from tunesmith_plugins.baselines.prompt.prompt_file import read_prompts

        prompts = read_prompts(self.options.files)
        rows = read_task(task) if prompts and self.options.constrain else None
        for name, prompt in prompts.items():
            model = prompt.apply_to(task.base())
            yield BaselineVariant(name=name, model=model)
            if rows is not None:
                yield from rows.constrained(model, name, calibrate=True)


def build(options: PromptOptions) -> Baseline:
    """Build the baseline.

    Raises:
        DataError: a file is missing, or is no prompt.
    """
    from tunesmith_plugins.baselines.prompt.prompt_file import read_prompts

    read_prompts(options.files)
    return PromptBaseline(options)


PROMPT = BaselineOffer(
    name="prompt",
    summary="the untouched model with the prompts that you wrote",
    config=PromptOptions,
    build=build,
    solution="prompt",
    cost=110,
    needs_model=True,
    is_configured=lambda options: bool(options.files),
)
