"""The ``languages`` check: identify the languages of prompts and answers in the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from operator import itemgetter

from tunesmith.contracts import Finding
from tunesmith.errors import DataError
from tunesmith.install import install_extra
from tunesmith.records import Record, Text, last_exchange
from tunesmith.text import format_count, one_line, redact
from tunesmith_data.splits import prompt_text
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.checks.languages.identify import identify_languages

READ_ROWS = 2_000
"""Target size of the evenly spaced sample; up to twice as many rows are read."""
MAX_EXAMPLES = 3
EXCERPT = 60
SHOWN_LANGUAGES = 8
BY_DESIGN = 0.2
"""If at least this share of answers is in another language, the task is translation."""


@dataclass(frozen=True)
class Languages:
    """The possible languages of a row's prompt and of its answer, the most probable first."""

    record: Record
    prompt: tuple[str, ...]
    answer: tuple[str, ...]


def review(train: Sequence[Record]) -> list[Finding]:
    """Return findings about prompts in minor languages, and answers in a different language."""
    if find_spec("py3langid") is None:
        text = "the languages of rows were not checked: py3langid is not installed"
        return [
            Finding(level="info", where="data languages", message=text, hint=install_extra("data"))
        ]
    rows = list(_read(train))
    sample = "" if len(rows) == len(train) else f", in a sample of {len(rows):,} rows"
    return [*_find_rare(rows, sample), *_find_answers(rows, sample)]


def _read(train: Sequence[Record]) -> Iterator[Languages]:
    for number in range(0, len(train), max(1, len(train) // READ_ROWS)):
        record = train[number]
        try:
            text = prompt_text(record)
            answer = "" if isinstance(record, Text) else last_exchange(record)[1].text
        except (TypeError, ValueError, DataError):
            continue  # a kind of record defined by a plugin
        yield Languages(record, identify_languages(text), identify_languages(answer))


def _find_rare(rows: Sequence[Languages], sample: str) -> Iterator[Finding]:
    """Report prompts that are not in the most frequent language."""
    read = [row for row in rows if row.prompt]
    usual = max(Counter(row.prompt[0] for row in read).items(), key=itemgetter(1), default=("", 0))[
        0
    ]
    found = [row for row in read if usual not in row.prompt]
    if not found:
        return
    counts = Counter(row.prompt[0] for row in found)
    others = counts.most_common()
    listed = ", ".join(f"{number:,} {code}" for code, number in others[:SHOWN_LANGUAGES])
    more = f" and {len(others) - SHOWN_LANGUAGES} more" if len(others) > SHOWN_LANGUAGES else ""
    rare = sorted(found, key=lambda row: counts[row.prompt[0]])
    yield Finding(
        level="info",
        where="data languages",
        message=f"{_share(len(found), len(read), 'training prompts')} are not in the main "
        f"language, {usual}: {listed}{more}{_unclear(len(rows) - len(read))}{sample}",
        count=len(found),
        examples=_examples((row.record, f"is {row.prompt[0]}") for row in rare),
        hint=("add rows in the languages that users write in, and some of each to the test rows"),
    )


def _find_answers(rows: Sequence[Languages], sample: str) -> Iterator[Finding]:
    """Report answers in a different language than their prompt."""
    readable = [row for row in rows if row.prompt and row.answer]
    found = [row for row in readable if not {*row.prompt} & {*row.answer}]
    if not found:
        return
    is_intended = len(found) >= BY_DESIGN * len(readable)
    message = (
        f"{_share(len(found), len(readable), 'answers')} are in a different language than their "
        "prompt"
    )
    yield Finding(
        level="info" if is_intended else "warning",
        where="data languages",
        message=message + _unclear(len(rows) - len(readable)) + sample,
        count=len(found),
        examples=_examples(
            (row.record, f"is {row.prompt[0]}, answer {row.answer[0]}") for row in found
        ),
        hint="fine if this is the task"
        if is_intended
        else "correct these answers, or remove their rows",
    )


def _examples(rows: Iterable[tuple[Record, str]]) -> tuple[str, ...]:
    first = [row for row, _ in zip(rows, range(MAX_EXAMPLES), strict=False)]
    return tuple(
        f'{record.source} "{one_line(redact(prompt_text(record)), EXCERPT)}" {what}'
        for record, what in first
    )


def _unclear(count: int) -> str:
    return f"; the language of {format_count(count, 'other row')} is unclear" if count else ""


def _share(count: int, total: int, noun: str) -> str:
    return f"{count:,} of {total:,} {noun} ({format_share(count / total)})"
