"""The ``prompt`` baseline: the base model with prompts that the user wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import Baseline, BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options


class PromptOptions(Options):
    """Options of ``prompt``: the prompt files, and whether to constrain the answers."""

    files: list[str] = Field(
        [],
        description=(
            "Prompts to try, one per file. A text file contains the system prompt. A TOML file has "
            "`system`, `user` (where {prompt} stands for the question) and `shots`, a list of "
            "tables with `user` and `assistant`."
        ),
        json_schema_extra={"path": True},
    )
    constrain: bool = Field(
        True,
        description=(
            "Also try each prompt with constrained answers. For classes, take the most probable "
            "label, uncalibrated and calibrated with training prompts. For JSON objects, constrain "
            "decoding to a schema."
        ),
    )


@dataclass(frozen=True)
class PromptBaseline:
    """Prompts the base model with the user's prompt files, one variant per file."""

    options: PromptOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield variants for each prompt file, with free and with constrained answers."""
        from tunesmith_evidence.prompting.task_prompt import read_task
        from tunesmith_plugins.baselines.prompt.prompt_file import read_prompts

        prompts = read_prompts(self.options.files)
        rows = read_task(task) if prompts and self.options.constrain else None
        for name, prompt in prompts.items():
            model = prompt.apply_to(task.base())
            yield BaselineVariant(name=name, model=model)
            if rows is not None:
                yield from rows.constrained(model, name, prompt.shots)


def build(options: PromptOptions) -> Baseline:
    """Validate the prompt files, and create the baseline.

    Raises:
        DataError: a prompt file is missing or invalid.
    """
    from tunesmith_plugins.baselines.prompt.prompt_file import read_prompts

    read_prompts(options.files)
    return PromptBaseline(options)


PROMPT = BaselineOffer(
    name="prompt",
    summary="the base model with your own prompts",
    config=PromptOptions,
    build=build,
    solution="prompt",
    cost=110,
    needs_model=True,
    is_configured=lambda options: bool(options.files),
)
