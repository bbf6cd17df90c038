"""Find rows that the model's chat template cannot render, and runs that need a missing template.

A base model without a chat template can only take plain text: one user message, or a text to
continue. Conversations with a system prompt or several turns cannot be rendered for such a model.
Without this check, a run would fail only after loading the weights.

If there is a template, the check renders every row (or a sample of many rows) as in training:

* It reports rows that training would skip.
* It refuses the run if the template contradicts a row, drops part of it, or does not terminate.
* It refuses the run if the saved tokenizer files would encode a prompt differently.
* It warns about a template with reasoning if no row has any.

The check only covers techniques that use the toolkit's options, because others may format
conversations differently. It reports nothing about models that are not on this machine yet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.contracts import Finding, SkippedRow
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.records import Completion, Record, Text, exchanges, has_media
from tunesmith.text import format_count
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.data.refusals import HAS_REASONING, REFUSED_BY_TEMPLATE, TEMPLATE_DROPS_MESSAGE
from tunesmith_torch.options.stages import list_stages
from tunesmith_torch.options.training import (
    CHAT_TEMPLATE_NAMES,
    ChatTemplateOptions,
    TrainingOptions,
)

if TYPE_CHECKING:
    from tunesmith_torch.data.thinking import ThinkingModes

_REMEDY = (
    'set technique.chat_template.source to a file with a template, or to a name such as "chatml", '
    "or use the instruction-tuned variant of the model"
)
_HINTS = {
    HAS_REASONING: "turn on reasoning in technique.chat_template.kwargs (enable_thinking or "
    "thinking = true, depending on the template), or remove the reasoning from "
    "these rows",
    TEMPLATE_DROPS_MESSAGE: "set technique.chat_template.source to a template file that "
    "supports this role "
    '(for tools, "chatml" does), or move its text into the user message',
    REFUSED_BY_TEMPLATE: "change the rows, or set technique.chat_template.source to another "
    "template file",
}
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def review(plan: Plan, train: Sequence[Record], test: Sequence[Record]) -> list[Finding]:
    """Return findings about missing or unreadable templates, and about rows that do not render."""
    stages = dict(list_stages(plan.technique.config))
    named = [
        Finding(
            level="info",
            where=f"{where}.chat_template",
            message="rows are formatted with tunesmith's built-in chat template "
            f'"{options.chat_template.source}", which is saved with the model',
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
    # The model named in `from` may have its own template, and a template file overrides the
    # model's.
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
        message = f"the base model has no chat template, but {what}: {other_remedy}, {_REMEDY}"
        findings.append(Finding(level="error", where=key, message=message))
    return findings


def _find_rendering_problems(
    folder: Path,
    stages: Mapping[str, TrainingOptions],
    train: Sequence[Record],
    test: Sequence[Record],
) -> Iterator[Finding]:
    """Yield findings about rows that a template cannot render, and about missing reasoning."""
    from tunesmith_torch.data.saved_template import check_saved_template
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.data.thinking import find_thinking_modes
    from tunesmith_torch.models.loading import load_tokenizer

    # A technique that trains on media, such as images, renders these rows itself.
    samples = (sample_if_large(part) for part in (train, test))
    texts, others = ([r for r in sample if not has_media([r])] for sample in samples)
    rows = [*texts, *others]
    seen: list[ChatTemplateOptions] = []
    for where, options in stages.items():
        if options.initial_model is not None or options.chat_template in seen:
            continue
        seen.append(options.chat_template)
        try:
            template = Template.from_options(load_tokenizer(folder), options)
            problems = list(template.find_problems(rows))
            check_saved_template(template, texts)
        except EnvironmentProblem:
            return  # reported when the model is loaded
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
            modes = find_thinking_modes(load_tokenizer(folder), options)
            answers = [a for r in rows if not isinstance(r, Text) for _, a in exchanges(r)]
            has_reasoning = any(a.reasoning or "</think>" in a.text for a in answers)
            if modes is not None and answers and not has_reasoning:
                yield _review_thinking(modes, f"{where}.chat_template")


def _review_thinking(modes: ThinkingModes, where: str) -> Finding:
    """Return a finding about rows without reasoning for a template that can ask for it."""
    if modes.is_on:
        return Finding(
            level="warning",
            where=where,
            message="thinking template: no row has reasoning, but prompts ask for it "
            f"({modes.variable} is not false), so the model learns to skip it",
            hint=f"set {where}.kwargs = {{ {modes.variable} = false }}, so that "
            "training and serving use prompts without reasoning",
        )
    return Finding(
        level="info",
        where=where,
        message="thinking template: the model is trained without reasoning, and its saved template "
        f"sets {modes.variable} = false; do not serve it with {modes.variable} = true",
    )


def _summarize(problems: Sequence[SkippedRow], where: str, rows: int) -> Iterator[Finding]:
    """Yield one finding per cause, with the number of affected rows and the first of them."""
    for cause, count in Counter(problem.cause for problem in problems).items():
        first = next(problem for problem in problems if problem.cause == cause)
        text = f"{cause}, {first.detail} ({format_count(count, 'row')}, the first is {first.where})"
        refused = cause in (HAS_REASONING, TEMPLATE_DROPS_MESSAGE) or count >= rows
        yield Finding(
            level="error" if refused else "warning",
            where=where,
            message=text if refused else f"{text}: skipped in training",
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
        return True  # damaged: reported when it is loaded
    return not isinstance(config, dict) or bool(config.get("chat_template"))


def _problem_of_file(path: str | None) -> str:
    """Return the reason why a template file cannot be used, or "" if nothing prevents its use."""
    if path in CHAT_TEMPLATE_NAMES:
        return ""
    try:
        text = "x" if path is None else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot read the template file: {error}"
    return "" if text.strip() else f"the template file {path} is empty"


def _parts_that_need_a_template(
    plan: Plan, train: Sequence[Record], test: Sequence[Record]
) -> Iterator[tuple[str, str, str]]:
    """Yield each reason to need a template, as a key, the reason and another remedy.

    The key is empty if the finding belongs to the key of the template.
    """
    sources = (record.source for record in chain(train, test) if _is_conversation(record))
    if first := next(sources, None):
        count = format_count(1 + sum(1 for _ in sources), "row")
        what = f"the data contains conversations ({count}, the first is {first})"
        yield "", what, "write rows with `prompt` and `completion` instead"
    if all(isinstance(record, Text) for record in train):
        return
    if plan.baseline_options.system_prompt is not None and plan.baselines:
        what = "the baselines have a system prompt"
        yield "baselines.system_prompt", what, "remove it"


def _is_conversation(record: Record) -> bool:
    """Return True if a prompt of the record has more than a single user message."""
    return not isinstance(record, Completion | Text) and any(
        not isinstance(prompt, str) and [message.role for message in prompt] != ["user"]
        for prompt, _ in exchanges(record)
    )
