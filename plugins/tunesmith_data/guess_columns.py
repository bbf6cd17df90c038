"""Guess from the column names of a file which columns contain a prompt and its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunesmith_data.formats import FORMATS, match_format

PROMPT_NAMES = (
    "prompt", "question", "instruction", "query", "utterance", "user", "request", "input", "source",
    "sentence", "message", "document", "article", "passage", "description", "title", "nl", "text",
)  # fmt: skip
ANSWER_NAMES = (
    "completion", "answer", "response", "reply", "assistant", "output", "target", "summary",
    "translation", "label", "labels", "category", "class", "intent", "sentiment", "topic", "queue",
    "sql", "code", "command", "result",
)  # fmt: skip
"""Usual names of prompt and answer columns, the preferred ones first."""


def guess_columns(columns: Sequence[str]) -> dict[str, str] | None:
    """Guess the run file's option ``columns`` for these columns.

    If a file has exactly two columns, unrecognized names are assigned by elimination, the prompt
    before the answer.

    Returns:
        The mapping. It is empty if the columns already match a format, and None if there is no good
        guess.
    """
    match = match_format(frozenset(columns), FORMATS, {})
    prompt, answer = find_usual_names(columns)
    if match is not None and (match.format.name != "text" or answer is None):
        return {}
    if len(columns) == 2 and (prompt is None or answer is None):
        prompt = prompt or next(column for column in columns if column != answer)
        answer = answer or next(column for column in columns if column != prompt)
    return None if prompt is None or answer is None else {"prompt": prompt, "completion": answer}


def find_usual_names(columns: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the columns that have a usual name of a prompt and of an answer, in any case."""
    by_name = {column.strip().lower(): column for column in columns}
    answer = next((by_name[name] for name in ANSWER_NAMES if name in by_name), None)
    prompts = (by_name[name] for name in PROMPT_NAMES if name in by_name)
    return next((name for name in prompts if name != answer), None), answer
