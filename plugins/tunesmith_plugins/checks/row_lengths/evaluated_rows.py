"""Find rows that cannot be evaluated because their answers do not fit the model's context.

Without this check, a run could fail after training, when it evaluates the tuned model. The check
tokenizes the longest rows first, and stops when all remaining rows must fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tunesmith.contracts import Finding
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import EvaluatorOffer
from tunesmith.plan import Component, Plan
from tunesmith.records import (
    Answer,
    Preference,
    Prompt,
    Record,
    Text,
    exchanges,
    last_exchange,
)
from tunesmith.text import format_count
from tunesmith_plugins.checks.row_lengths.review import (
    MAX_TOTAL_CHARACTERS,
    TEMPLATE_ERRORS,
    open_template,
)
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.models.model_folder import read_context_length
from tunesmith_torch.options.stages import list_stages
from tunesmith_torch.options.training import TrainingOptions

if TYPE_CHECKING:
    from tunesmith_torch.data.templates import Template

Evaluators = Sequence[Component[EvaluatorOffer[Any]]]
Exchange = tuple[Record, Prompt, Answer | None]
"""A row, its prompt, and the answer to score, which is None if an answer is generated."""
LongRow = tuple[int, Record]
"""The number of tokens in a row that is too long, and the row."""
CHUNK = 64
"""Number of rows to tokenize at a time."""


def review(
    plan: Plan, evaluators: Evaluators, validation: Sequence[Record], test: Sequence[Record]
) -> Iterator[Finding]:
    """Yield errors for test rows that do not fit the context, and a warning for validation rows."""
    context = read_context_length(plan.found_model.config)
    options = _find_options(plan.technique.config)
    if context is None or options is None or (template := open_template(plan, options)) is None:
        return
    test, validation = sample_if_large(test), sample_if_large(validation)
    if asking := _find_longest(evaluators, test):
        evaluator, limit = asking
        if found := _find_long(template, _list_prompts(test), context - limit):
            yield _describe_prompts("error", "test", found, context, evaluator, limit)
        asks_base = any(baseline.offer.needs_model for baseline in plan.baselines)
        if asks_base and (
            found := _find_long(template, _list_prompts(validation), context - limit)
        ):
            yield _describe_prompts("warning", "validation", found, context, evaluator, limit)
    scoring = [evaluator.id for evaluator in evaluators if evaluator.offer.scores_references]
    if scoring and (found := _find_long(template, _list_references(test), context)):
        yield Finding(
            level="error",
            where=found[0][1].source,
            message=f"{format_count(len(found), 'test row')} cannot be scored by {scoring[0]}: "
            f"with the reference answer, the longest has {found[0][0]:,} tokens, but the model's "
            f"context is {context:,}",
            hint="shorten or remove these rows, or choose a base model with a longer context",
            count=len(found),
            examples=_list_examples(found),
        )


def _find_options(config: BaseModel) -> TrainingOptions | None:
    """Return the options of the last stage, whose template renders the prompts, or None if unknown.

    The options are unknown if a stage starts from another model (`from`) with its own tokenizer.
    """
    stages = [options for _, options in list_stages(config)]
    if not stages or any(stage.initial_model is not None for stage in stages):
        return None
    return stages[-1]


def _find_longest(
    evaluators: Evaluators, test: Sequence[Record]
) -> tuple[Component[EvaluatorOffer[Any]], int] | None:
    """Return the evaluator that allows the longest answers, and its token limit; None if none."""
    found = []
    for evaluator in evaluators:
        with attribute_errors_to(evaluator.offered.plugin):
            limit = evaluator.offer.answer_limit(evaluator.config, test)
        if limit is not None:
            found.append((evaluator, limit))
    return max(found, key=lambda pair: pair[1], default=None)


def _list_prompts(records: Sequence[Record]) -> list[Exchange]:
    asked = (record for record in records if not isinstance(record, Text))
    return [(record, last_exchange(record)[0], None) for record in asked]


def _list_references(records: Sequence[Record]) -> list[Exchange]:
    found: list[Exchange] = [(r, prompt, a) for r in records for prompt, a in exchanges(r)]
    pairs = (record for record in records if isinstance(record, Preference))
    return [*found, *((pair, pair.prompt, pair.rejected) for pair in pairs)]


def _find_long(template: Template, asked: Sequence[Exchange], room: int) -> list[LongRow]:
    """Return the rows with more than ``room`` tokens, the longest first.

    The search ends at rows that cannot be tokenized, and after :data:`MAX_TOTAL_CHARACTERS`.
    """
    # An upper bound, because a token has at least one byte and the template adds less than repr()
    # does.
    sizes = [len(repr((prompt, answer)).encode()) for _, prompt, answer in asked]
    order = sorted(range(len(asked)), key=lambda index: -sizes[index])
    found: dict[int, LongRow] = {}
    left = MAX_TOTAL_CHARACTERS
    with suppress(*TEMPLATE_ERRORS):
        for start in range(0, len(order), CHUNK):
            chosen = [index for index in order[start : start + CHUNK] if sizes[index] > room]
            left -= sum(sizes[index] for index in chosen)
            if not chosen or left < 0:
                break
            for index, tokens in zip(
                chosen, _count_tokens(template, [asked[index] for index in chosen]), strict=True
            ):
                record = asked[index][0]
                if tokens > max(room, found.get(id(record), (0, record))[0]):
                    found[id(record)] = (tokens, record)
    return sorted(found.values(), key=lambda long: -long[0])


def _count_tokens(template: Template, asked: Sequence[Exchange]) -> list[int]:
    """Return the number of tokens of each prompt, including its answer if there is one."""
    prompts = [prompt for _, prompt, _ in asked]
    answers = [answer for _, _, answer in asked if answer is not None]
    if not answers:
        return [len(ids) for ids in template.encode_prompts(prompts)]
    pairs = template.encode_exchanges(prompts, answers)
    return [len(before) + len(after) for before, after in pairs]


def _describe_prompts(
    level: Any,
    part: str,
    found: Sequence[LongRow],
    context: int,
    evaluator: Component[EvaluatorOffer[Any]],
    limit: int,
) -> Finding:
    tokens, longest = found[0]
    ask = f"set max_new_tokens of {evaluator.id} to {context - tokens} or less, "
    leads_to = "cannot be evaluated" if level == "error" else "cannot be used to choose a prompt"
    return Finding(
        level=level,
        where=longest.source,
        message=f"{format_count(len(found), f'{part} row')} {leads_to}: the longest prompt has "
        f"{tokens:,} tokens, and {evaluator.id} allows {limit:,} more for the answer, "
        f"but the model's context is only {context:,} tokens",
        hint=f"{ask if tokens < context else ''}shorten or remove these rows, or choose a base "
        "model with a longer context",
        count=len(found),
        examples=_list_examples(found),
    )


def _list_examples(found: Sequence[LongRow]) -> tuple[str, ...]:
    return tuple(f"{record.source} has {tokens:,} tokens" for tokens, record in found[:3])
