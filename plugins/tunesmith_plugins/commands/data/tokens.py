"""Rows as the model sees them: their tokens, and which of them are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from tunesmith.errors import UsageError
from tunesmith.plan import Plan
from tunesmith.records import Record


@dataclass(frozen=True)
class TokenizedRow:
    """The tokens of an example as runs of text, each trained or not."""

    runs: Sequence[tuple[str, bool]]
    tokens: int
    trained_tokens: int


def create_tokenize(plan: Plan | None) -> Callable[[Record], list[TokenizedRow]]:
    """Return a function that makes the examples of a record, with the tokenizer of the plan.

    It raises a DataError for a record that gives no example.

    Raises:
        UsageError: there is no run file, and so no model.
    """
    if plan is None:
        raise UsageError("--tokens: needs a run file, whose model has the tokenizer")
    from tunesmith_torch.data.message_fields import without_label
    from tunesmith_torch.data.templates import Template, read_chat_template
    from tunesmith_torch.models.loading import load_tokenizer
    from tunesmith_torch.options.training import TrainingOptions

    options = plan.technique.config
    override = read_chat_template(options) if isinstance(options, TrainingOptions) else None
    template = Template.from_tokenizer(load_tokenizer(plan.found_model.fetch()), override)
    max_length = int(getattr(options, "max_length", 1 << 30))

    def tokenize(record: Record) -> list[TokenizedRow]:
        rows = []
        for example in template.tokenize_record(without_label(record), max_length):
            pairs = list(zip(map(int, example.ids), map(bool, example.trained), strict=True))
            runs = [
                (template.tokenizer.decode([token for token, _ in run]), is_trained)
                for is_trained, run in groupby(pairs, key=lambda pair: pair[1])
            ]
            trained = sum(is_trained for _, is_trained in pairs)
            rows.append(TokenizedRow(runs, len(pairs), trained))
        return rows

    return tokenize
