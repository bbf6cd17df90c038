"""Find answers that state facts that are not in their prompt.

A model can only learn such facts from the training answers, and it has to be trained again when the
facts change. A prompt with documents may do better.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.records import Record, Text, last_exchange, prompt_text
from tunesmith.text import mask_excerpt
from tunesmith_evidence.number_text import format_share
from tunesmith_evidence.tasks.examples import Example, last_question
from tunesmith_evidence.tasks.kinds import detect_task_kind

SAMPLE_ROWS = 2_000
MIN_SHARE = 0.25
"""Smallest share of training answers with such facts. It is at most 0.19 in published sets of
labels, replies, instructions, commands and calculations (``tests.benchmarks.data_checks``)."""
MIN_FACTS = 10
"""Fewer distinct facts are like labels, which training rows teach."""
MAX_EXAMPLES = 2
FACT = re.compile(
    r"https?://[^\s)>\]]+"  # address of a page
    r"|@[\w-]{1,64}\.\w[\w.-]*"  # domain of an e-mail address
    r"|(?:§|section|article|paragraph|clause|chapter) ?\d[\w.]*"  # citation
    r"|\d(?:[.,:/-]?\d)+",  # number of two digits or more, also in a code
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\d+|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|dozen"
    r"|half|third|quarter|twice|double|triple)\b",
    re.IGNORECASE,
)
MIN_OPERANDS = 2
"""An answer may be computed or converted from this many numbers in its prompt."""


def review(train: Sequence[Record], test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a note if many training answers state facts that their prompt does not contain."""
    rows = [*read_rows(train[row] for row in range(0, len(train), 1 + len(train) // SAMPLE_ROWS))]
    stated = [(*row, facts) for row in rows if (facts := find_new_facts(row[1]))]
    distinct = {fact for *_, facts in stated for fact in facts}
    if len(stated) < MIN_SHARE * len(rows) or len(distinct) < MIN_FACTS:
        return
    if detect_task_kind([example.answer for _, example in rows]) == "objects":
        return  # values of JSON answers are often converted from the prompt
    message = (
        f"{_show_share(len(stated), len(rows), 'training answers')} contain numbers, codes, "
        "addresses or citations that their prompt does not contain"
    )
    known = {_fold(fact) for _, row in read_rows(train) for fact in list_facts(row.answer)}
    tested = [{*map(_fold, find_new_facts(row))} for _, row in read_rows(test)]
    unknown = sum(not facts <= known for facts in tested)
    if unknown:
        message += (
            f"; {_show_share(unknown, len(tested), 'test answers')} contain facts that no "
            "training answer contains, so training cannot teach them"
        )
    yield Finding(
        level="info",
        where="data knowledge",
        message=message,
        hint="if your documents contain these facts, test retrieval (RAG): add "
        '`[baselines.documents]` with `folder = "FOLDER"` to the run file',
        count=len(stated),
        examples=tuple(
            f'{source} "{mask_excerpt(row.question)}": {mask_excerpt(facts[0])}'
            for source, row, facts in stated[:MAX_EXAMPLES]
        ),
    )


def find_new_facts(row: Example) -> list[str]:
    """Return the facts in an answer that its prompt does not contain.

    The result is empty if the answer may be computed from the numbers in the prompt.
    """
    if len(_NUMBER.findall(row.text)) >= MIN_OPERANDS:
        return []
    prompt = _fold(row.text)
    return [fact for fact in list_facts(row.answer) if _fold(fact) not in prompt]


def list_facts(text: str) -> list[str]:
    """Return the numbers, codes, addresses and citations in a text."""
    return [match.group().rstrip(".,:") for match in FACT.finditer(text)]


def read_rows(records: Iterable[Record]) -> Iterator[tuple[str, Example]]:
    """Yield the source and the last exchange of each record that has one."""
    for record in records:
        if isinstance(record, Text):
            continue
        try:
            prompt, answer = last_exchange(record)
        except (TypeError, ValueError):
            continue  # a kind of record that a plugin defines
        yield record.source, Example(prompt_text(prompt), answer.text, last_question(prompt))


def _fold(text: str) -> str:
    return re.sub(r"[\s,]", "", text).casefold()


def _show_share(count: int, total: int, noun: str) -> str:
    return f"{count:,} of {total:,} {noun} ({format_share(count / total)})"
