"""The prompt of a task: its examples, and the instructions that describe its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith.contracts import RivalTask, RivalVariant, TextModel
from tunesmith_evidence.prompting.choice_model import ChoiceModel
from tunesmith_evidence.prompting.instructions import describe_answers
from tunesmith_evidence.prompting.json_model import can_constrain, constrain_to_schema
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.tasks.examples import Example, read_examples
from tunesmith_evidence.tasks.json_answers import find_style
from tunesmith_evidence.tasks.json_schema import derive_schema
from tunesmith_evidence.tasks.kinds import TaskKind, list_labels, task_kind

MAX_LABELS = 200
"""More labels than this are not tried one by one."""


@dataclass(frozen=True)
class TaskPrompt:
    """What a prompt can say and show about a task."""

    examples: Sequence[Example]
    kind: TaskKind
    labels: tuple[str, ...]
    """The labels of a task of classes, the most frequent first; empty for others."""
    system: str | None
    """The user's system prompt."""
    description: str
    """An instruction that describes the answers; empty if there is nothing to say."""
    base: Callable[[], TextModel]

    def prompted(
        self, find: Callable[[str], Sequence[Example]] | None = None, *, describe: bool
    ) -> PromptedModel:
        """Return the base model with the system prompt, a description if wanted, and examples."""
        return PromptedModel(
            self.base(),
            self.system,
            find or _find_nothing,
            description=self.description if describe else "",
        )

    def constrained(self, model: TextModel, name: str) -> Iterator[RivalVariant]:
        """Yield the model constrained to the labels, or to JSON objects, if that is possible."""
        if 1 < len(self.labels) <= MAX_LABELS:
            yield RivalVariant(name=name, model=ChoiceModel(model, self.labels))
        if self.kind == "objects" and can_constrain(model):
            answers = [example.answer for example in self.examples]
            schema = derive_schema(answers)
            if schema is not None:
                constrained = constrain_to_schema(model, schema, find_style(answers))
                yield RivalVariant(name=name, model=constrained)


def read_task(task: RivalTask) -> TaskPrompt:
    """Describe a task, with examples, by its training rows."""
    examples = read_examples(task.train, task.seed)
    answers = [example.answer for example in examples]
    kind = task_kind(answers)
    return TaskPrompt(
        examples=examples,
        kind=kind,
        labels=tuple(list_labels(answers)) if kind == "classes" else (),
        system=task.system_prompt,
        description=describe_answers(kind, answers),
        base=task.base,
    )


def _find_nothing(text: str) -> Sequence[Example]:
    return ()
