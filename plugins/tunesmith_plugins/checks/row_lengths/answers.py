"""Find evaluators whose token limit is too low for some reference answers.

Generated answers are cut off at the limit, so even a perfect model would get these rows wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from tunesmith.contracts import Finding
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.records import Record, Text, last_exchange
from tunesmith.text import format_count
from tunesmith_evidence.answers.generate import format_reasoning_and_answer
from tunesmith_torch.data.large_data import sample_evenly

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CountTokens = Callable[[str], int]
MAX_EXAMPLES = 3


def review_answers(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning for each evaluator whose limit would cut off reference answers.

    Evaluators that the run file does not list choose a sufficient limit, up to 512 tokens.
    """
    count = cache(lambda: _count_tokens(plan))
    for number, evaluator in enumerate(plan.evaluators):
        limit = evaluator.offer.answer_limit(evaluator.config, test)
        if limit and not evaluator.offer.metrics[0].is_descriptive:
            where = f"evaluators.{number}.max_new_tokens"
            yield from _compare(where, evaluator.id, limit, test, count)


def _compare(
    where: str, name: str, limit: int, test: Sequence[Record], count: Callable[[], CountTokens]
) -> Iterator[Finding]:
    rows = [record for record in sample_evenly(test) if not isinstance(record, Text)]
    answers = [(record, format_reasoning_and_answer(last_exchange(record)[1])) for record in rows]
    # No tokenizer in use produces more tokens than the text has bytes.
    large = [(record, text) for record, text in answers if len(text.encode()) > limit]
    lengths = [(count()(text), record) for record, text in large]
    long = [(length, record) for length, record in lengths if length > limit]
    if not long:
        return
    longest = max(length for length, _ in long)
    yield Finding(
        level="warning",
        where=where,
        message=f"{name} generates at most {format_count(limit, 'token')}, but the reference "
        f"answers of {len(long):,} of {format_count(len(rows), 'test row')} are longer (up to "
        f"{longest:,}): no model can get these rows right",
        hint=f"set max_new_tokens to {longest + 1} or more, or shorten the answers",
        count=len(long),
        examples=tuple(
            f"{record.source} has {length:,} tokens" for length, record in long[:MAX_EXAMPLES]
        ),
    )


def _count_tokens(plan: Plan) -> CountTokens:
    """Return a function that counts tokens, or words (a lower bound) without a tokenizer."""
    folder = plan.found_model.tokenizer()
    if folder is not None:
        from tunesmith_torch.models.loading import load_tokenizer

        with suppress(EnvironmentProblem, UsageError):
            tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
            options = {"add_special_tokens": False, "verbose": False}
            return lambda text: len(tokenizer(text, **options)["input_ids"])
    return lambda text: len(text.split())
