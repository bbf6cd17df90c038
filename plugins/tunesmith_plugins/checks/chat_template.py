"""Find rows and baselines that the chat template cannot write, and those that have none.

A base model without a chat template takes plain text: one user message, or a text to go on from. A
conversation with a system prompt or with several turns has no form for it, and neither has a
few-shot baseline, which puts earlier turns before the question. Without this check a run would find
that out after it has read the weights.

With a template every row is rendered, as training will; of large data, a sample. Rows that would
be skipped are reported; the run is refused if the template contradicts a row, drops a part of it,
or runs without end. The prompts of some rows must have the ids that the saved files will give.

Only techniques with the options of the toolkit are checked, because others may write conversations
in their own way. Of a model that is not on this machine nothing is known yet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tunesmith.contracts import Finding, SkippedRow
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.records import Completion, Record, Text, exchanges
from tunesmith.text import format_count
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.data.refusals import DROPS_MESSAGE, HAS_REASONING, REFUSED
from tunesmith_torch.options.stages import list_stages
from tunesmith_torch.options.training import (
    CHAT_TEMPLATE_NAMES,
    ChatTemplateOptions,
    TrainingOptions,
)

_REMEDY = (
    'set technique.chat_template.source to a file with a template, or to a name such as "chatml", '
    "or use the instruction-tuned variant of the model"
)
_HINTS = {
    HAS_REASONING: "set technique.chat_template.kwargs to what turns reasoning on in this template "
    "(enable_thinking or thinking = true), or remove the reasoning from these rows",
    DROPS_MESSAGE: "set technique.chat_template.source to a file with a template that writes this "
    'role, or to "chatml" for tools, or move its text into the user message',
    REFUSED: "change the rows, or set technique.chat_template.source to a file with another "
    "template",
}
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def review(plan: Plan, train: Sequence[Record], test: Sequence[Record]) -> list[Finding]:
    """Return an error for each part of the run that needs a chat template and has none."""
    stages = dict(list_stages(plan.technique.config))
    named = [
        Finding(
            level="info",
            where=f"{where}.chat_template",
            message=f'rows are written with the template "{options.chat_template.source}" of '
            "tunesmith, which is saved with the model",
        )
        for where, options in stages.items()
        if options.chat_template.source in CHAT_TEMPLATE_NAMES
    ]
    return [*named, *_find_problems(plan, stages, train, test)]


def _find_problems(
    plan: Plan,
    stages: Mapping[str, TrainingOptions],
    train: Sequence[Record],
    test: Sequence[Record],
) -> list[Finding]:
    findings = [
        Finding(level="error", where=f"{where}.chat_template", message=problem)
        for where, options in stages.items()
        if (problem := _problem_of_file(options.chat_template.source))
    ]
    # A model that `from` names may bring a template, and a file replaces the one of the model.
    lacking = [
        where
        for where, options in stages.items()
        if options.chat_template.source is None and options.initial_model is None
    ]
    folder = plan.found_model.tokenizer() if stages and not findings else None
    if folder is None:
        return findings
    if has_chat_template(folder) or not lacking:
        return list(_find_rendering_problems(folder, stages, train, test))
    for where, what, other_remedy in _parts_that_need_a_template(plan, train, test):
        key = where or f"{lacking[0]}.chat_template"
        message = f"the base model has no chat template, and {what}: {other_remedy}, {_REMEDY}"
        findings.append(Finding(level="error", where=key, message=message))
    return findings


def _find_rendering_problems(
    folder: Path,
    stages: Mapping[str, TrainingOptions],
    train: Sequence[Record],
    test: Sequence[Record],
) -> Iterator[Finding]:
    """Yield a finding for each reason why rows cannot be written with the template of a stage."""
    from tunesmith_torch.data.saved_template import check_saved_template
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.loading import load_tokenizer

    rows = [*sample_if_large(train), *sample_if_large(test)]
    seen: list[ChatTemplateOptions] = []
    for where, options in stages.items():
        if options.initial_model is not None or options.chat_template in seen:
            continue
        seen.append(options.chat_template)
        try:
            template = Template.from_options(load_tokenizer(folder), options)
            problems = list(template.find_problems(rows))
            check_saved_template(template, train)
        except EnvironmentProblem:
            return  # the message about that comes when the model is loaded
        except UsageError as error:
            yield Finding(
                level="error",
                where=f"{where}.chat_template",
                message=error.message,
                hint=error.hint or "",
            )
        except DataError as error:
            what = error.message.removeprefix(f"{error.where}: ")
            yield Finding(
                level="error", where=error.where, message=what, hint=error.hint or _REMEDY
            )
        else:
            yield from _summarize(problems, f"{where}.chat_template", len(rows))


def _summarize(problems: Sequence[SkippedRow], where: str, rows: int) -> Iterator[Finding]:
    """Yield one finding per cause, with the number of rows and the first of them."""
    for cause, count in Counter(problem.cause for problem in problems).items():
        first = next(problem for problem in problems if problem.cause == cause)
        text = f"{cause}, {first.detail} ({format_count(count, 'row')}, the first is {first.where})"
        refused = cause in (HAS_REASONING, DROPS_MESSAGE) or count >= rows
        yield Finding(
            level="error" if refused else "warning",
            where=where,
            message=text if refused else f"{text}: left out of training",
            hint=_HINTS.get(cause, "") if refused else "",
        )


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


def _problem_of_file(path: str | None) -> str:
    """Return the reason why a template file cannot be used; empty if it can, or there is none."""
    if path in CHAT_TEMPLATE_NAMES:
        return ""
    try:
        text = "x" if path is None else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read, {error}"
    return "" if text.strip() else f"the file is empty, {path}"


def _parts_that_need_a_template(
    plan: Plan, train: Sequence[Record], test: Sequence[Record]
) -> Iterator[tuple[str, str, str]]:
    """Yield the key (empty: that of the template), what needs it, and what else would help."""
    sources = (record.source for record in chain(train, test) if _is_conversation(record))
    if first := next(sources, None):
        count = format_count(1 + sum(1 for _ in sources), "row")
        what = f"there are conversations ({count}, the first is {first})"
        yield "", what, "write rows with `prompt` and `completion`"
    if all(isinstance(record, Text) for record in train):
        return
    if plan.baseline_options.system_prompt is not None and plan.baselines:
        what = "the baselines have a system prompt"
        yield "baselines.system_prompt", what, "leave it out"


def _is_conversation(record: Record) -> bool:
    """Return True if the model is asked with more than one user message, or with another role."""
    return not isinstance(record, Completion | Text) and any(
        not isinstance(prompt, str) and [message.role for message in prompt] != ["user"]
        for prompt, _ in exchanges(record)
    )
