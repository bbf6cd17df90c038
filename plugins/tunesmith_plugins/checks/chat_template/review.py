"""Find rows and baselines that need a chat template where the base model has none.

A base model without a chat template takes plain text: one user message, or a text to go on from. A
conversation with a system prompt or with several turns has no form for it, and neither has a
few-shot baseline, which puts earlier turns before the question. Without this check a run would find
that out after it has read the weights.

Only techniques with the options of the toolkit are checked, because others may write conversations
in their own way. Of a model that is not on this machine nothing is known yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record, Text, exchanges
from tunesmith.text import format_count
from tunesmith_torch.options.training import TrainingOptions

_REMEDY = (
    "set technique.chat_template to a file with a template, or use the instruction-tuned variant "
    "of the model"
)
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def review(plan: Plan, train: Sequence[Record], heldout: Sequence[Record]) -> list[Finding]:
    """Return an error for each part of the run that needs a chat template and has none."""
    stages = dict(_training_options(plan.technique.config))
    findings = [
        Finding(level="error", where=f"{where}.chat_template", message=problem)
        for where, options in stages.items()
        if (problem := _problem_of_file(options.chat_template))
    ]
    # A model that `from` names may bring a template, and a file replaces the one of the model.
    lacking = [
        where
        for where, options in stages.items()
        if options.chat_template is None and options.initial_model is None
    ]
    needs = list(_parts_that_need_a_template(plan, train, heldout)) if lacking else []
    folder = plan.found_model.tokenizer() if needs else None
    if folder is None or has_chat_template(folder):
        return findings
    for where, what, other_remedy in needs:
        key = where or f"{lacking[0]}.chat_template"
        message = f"the base model has no chat template, and {what}: {other_remedy}, {_REMEDY}"
        findings.append(Finding(level="error", where=key, message=message))
    return findings


def has_chat_template(folder: Path) -> bool:
    """Return True if the tokenizer in this folder has a chat template, or cannot be read."""
    if any((folder / name).exists() for name in _TEMPLATE_FILES):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True  # damaged: the message about that comes when it is loaded
    return not isinstance(config, dict) or bool(config.get("chat_template"))


def _training_options(
    config: BaseModel, where: str = "technique"
) -> Iterator[tuple[str, TrainingOptions]]:
    """Yield the key and the options of each stage that is trained; nothing for other options."""
    if isinstance(config, TrainingOptions):
        if not getattr(config, "skip", False):
            yield where, config
        return
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, TrainingOptions):
            yield from _training_options(value, f"{where}.{name}")


def _problem_of_file(path: str | None) -> str:
    """Return the reason why a template file cannot be used; empty if it can, or there is none."""
    try:
        text = "x" if path is None else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read, {error}"
    return "" if text.strip() else f"the file is empty, {path}"


def _parts_that_need_a_template(
    plan: Plan, train: Sequence[Record], heldout: Sequence[Record]
) -> Iterator[tuple[str, str, str]]:
    """Yield the key (empty: that of the template), what needs it, and what else would help."""
    rows = [record for record in (*train, *heldout) if _is_conversation(record)]
    if rows:
        count = format_count(len(rows), "row")
        what = f"there are conversations ({count}, the first is {rows[0].source})"
        yield "", what, "write rows with `prompt` and `completion`"
    if all(isinstance(record, Text) for record in train):
        return
    if plan.baselines.shots:
        what = "the few-shot baseline is a conversation"
        yield "baselines.shots", what, "set baselines.shots = 0"
    if plan.baselines.zero_shot and plan.baselines.system_prompt is not None:
        what = "the baseline has a system prompt"
        yield "baselines.system_prompt", what, "leave it out"


def _is_conversation(record: Record) -> bool:
    """Return True if the model is asked with more than one user message, or with another role."""
    return any(
        not isinstance(prompt, str) and [message.role for message in prompt] != ["user"]
        for prompt, _ in exchanges(record)
    )
