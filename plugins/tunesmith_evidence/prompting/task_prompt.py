"""Build the prompt of a task: its examples, and instructions that describe its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tunesmith.contracts import BaselineTask, BaselineVariant, TextModel
from tunesmith.records import Message, Prompt
from tunesmith_evidence.prompting.choice_model import ChoiceModel
from tunesmith_evidence.prompting.instructions import describe_answers
from tunesmith_evidence.prompting.json_model import can_constrain, constrain_to_schema
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.tasks.examples import (
    Example,
    random_sort_key,
    read_examples,
    take_each_answer_first,
)
from tunesmith_evidence.tasks.json_answers import find_json_style
from tunesmith_evidence.tasks.json_schema import derive_schema
from tunesmith_evidence.tasks.kinds import TaskKind, detect_task_kind, list_labels

__all__ = ["TaskPrompt", "read_task"]

MAX_LABELS = 200
"""Maximum number of labels for constrained answers, for which every label is scored."""
CALIBRATION_PROMPTS = 16
"""Number of training prompts over which a label's probability is averaged."""


@dataclass(frozen=True)
class TaskPrompt:
    """The parts of a task's prompt: its examples, and descriptions of its answers."""

    examples: Sequence[Example]
    kind: TaskKind
    labels: tuple[str, ...]
    """The labels if answers are classes, the most frequent first; otherwise empty."""
    system: str | None
    """The user's system prompt."""
    description: str
    """An instruction that describes the answers; may be empty."""
    base: Callable[[], TextModel]
    seed: int = 0
    """Seed for choosing the prompts that calibrate the labels."""

    def prompted(
        self, find: Callable[[str], Sequence[Example]] | None = None, *, describe: bool
    ) -> PromptedModel:
        """Return the base model with the system prompt, examples and, optionally, a description."""
        return PromptedModel(
            self.base(),
            self.system,
            find or _find_nothing,
            description=self.description if describe else "",
        )

    def constrained(
        self, model: TextModel, name: str, shown: Sequence[Example] = ()
    ) -> Iterator[BaselineVariant]:
        """Yield variants of a model with constrained answers, if possible.

        For classes, one variant answers with the most probable label, and another one with the most
        probable label after calibration. They share the scores of the labels. For JSON objects, the
        variant's answers follow a schema. ``shown`` are the worked examples in every prompt.
        """
        of = f"{name}, " if name else ""
        if 1 < len(self.labels) <= MAX_LABELS:
            free = ChoiceModel(model, self.labels)
            yield BaselineVariant(name=f"{of}constrained", model=free)
            prompts = self._choose_calibration(shown)
            if prompts:
                calibrated = replace(free, calibration=prompts)
                yield BaselineVariant(name=f"{of}calibrated", model=calibrated)
        if self.kind == "objects" and can_constrain(model):
            answers = [example.answer for example in self.examples]
            schema = derive_schema(answers)
            if schema is not None:
                constrained = constrain_to_schema(model, schema, find_json_style(answers))
                yield BaselineVariant(name=f"{of}constrained", model=constrained)

    def _choose_calibration(self, shown: Sequence[Example]) -> tuple[Prompt, ...]:
        """Choose training prompts with as many labels as possible, in a random order.

        Skip prompts that are also worked examples. Such a prompt would show its own answer, so its
        scores would not reveal the model's bias.
        """
        questions = {example.question for example in shown}
        others = [example for example in self.examples if example.question not in questions]
        ordered = sorted(others, key=lambda e: random_sort_key(e, self.seed), reverse=True)
        chosen = take_each_answer_first(ordered, CALIBRATION_PROMPTS)
        return tuple((Message("user", example.question),) for example in chosen)


def read_task(task: BaselineTask) -> TaskPrompt:
    """Derive the parts of a task's prompt from its training rows."""
    examples = read_examples(task.train, task.seed)
    answers = [example.answer for example in examples]
    kind = detect_task_kind(answers)
    return TaskPrompt(
        examples=examples,
        kind=kind,
        labels=tuple(list_labels(answers)) if kind == "classes" else (),
        system=task.system_prompt,
        description=describe_answers(kind, answers),
        base=task.base,
        seed=task.seed,
    )


def _find_nothing(text: str) -> Sequence[Example]:
    return ()
