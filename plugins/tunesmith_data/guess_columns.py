"""Guess which columns of a file hold a prompt and its answer, from their names."""

from __future__ import annotations

from collections.abc import Sequence

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
"""Names in the order in which they are chosen."""


def guess_columns(columns: Sequence[str]) -> dict[str, str] | None:
    """Return the mapping ``columns`` of the run file that suits these columns.

    It is empty if the columns are those of a format, and None if there is no good guess. Two
    columns of which one is a label are a prompt and its answer, also if the other is ``text``.
    """
    by_name = {column.strip().lower(): column for column in columns}
    match = match_format(frozenset(columns), FORMATS, {})
    answer = next((by_name[name] for name in ANSWER_NAMES if name in by_name), None)
    if match is not None and (match.format.name != "text" or answer is None):
        return {}
    prompt = next(
        (by_name[name] for name in PROMPT_NAMES if name in by_name and by_name[name] != answer),
        None,
    )
    if len(columns) == 2 and (prompt is None or answer is None):
        prompt = prompt or next(column for column in columns if column != answer)
        answer = answer or next(column for column in columns if column != prompt)
    return None if prompt is None or answer is None else {"prompt": prompt, "completion": answer}
