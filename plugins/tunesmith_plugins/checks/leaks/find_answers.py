"""Find rows whose prompts contain their answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunesmith.records import Preference, Record, Text, UnpairedPreference, last_exchange
from tunesmith_data.near_duplicates.features import fold_case_and_spelling
from tunesmith_data.near_duplicates.punctuation import blank_punctuation
from tunesmith_data.splits import prompt_text
from tunesmith_evidence.answers.whole_words import build_whole_word_pattern
from tunesmith_plugins.checks.leaks.find_leaks import Leak

MIN_LONG_CHARACTERS = 30
"""Minimum number of letters, digits and symbols; shorter answers may be in a prompt by chance."""
CODE_LENGTH = 6
FINAL_LENGTH = 60
SAMPLE_ROWS = 1_000
BY_DESIGN = 0.2
"""If at least this share of training prompts contains the answer, copying it is the task."""
_MARKER = (
    r"(?i:\b(?:answer|label|category|class|intent|output|result|solution|target|completion)s?\b"
    r"\s*(?:(?:is|are|was)\W{1,4}|[:=>-]+\W{0,4}))"
)
_NOT_LISTED = r"(?!\s*(?:[,/|]|or\b))"
_CODE = re.compile(r"[^\W\d][\d_]|[^\w\s,.;:!?'\"()-]|\s-\w")
_FINAL_MARK = re.compile(r"^[\s#*]*(?:(?:the )?(?:final )?answer(?: is)?[\s:=*]+)?", re.IGNORECASE)


def find_contained_answers(records: Sequence[Record]) -> Iterator[Leak]:
    """Yield a leak for each record whose prompt gives its answer away."""
    for row, record in enumerate(records):
        if has_answer_in_prompt(record):
            yield Leak("answer", row)


def is_by_design(train: Sequence[Record]) -> bool:
    """Return True if at least a fifth of the training prompts contain their own answers."""
    step = max(1, len(train) // SAMPLE_ROWS)
    found = [has_answer_in_prompt(train[row]) for row in range(0, len(train), step)]
    return sum(found) >= BY_DESIGN * len(found)


def has_answer_in_prompt(record: Record) -> bool:
    """Return True if a record's prompt gives its answer away.

    Three cases count:

    * a long answer whose letters, digits and symbols all occur in the prompt, in order,
    * a short answer that the prompt contains verbatim and that is not a word, such as ``lost_card``
      or ``ls -l``,
    * any short answer, or the last line of a long one, that follows a word such as ``answer:`` in
      the prompt.
    """
    if isinstance(record, Text | Preference | UnpairedPreference):
        return False
    prompt, answer = prompt_text(record), last_exchange(record)[1].text.strip()
    if not answer or answer == prompt.strip():
        return False
    signs = _signs(answer)
    if len(signs) >= MIN_LONG_CHARACTERS and signs in _signs(prompt):
        return True
    final = _FINAL_MARK.sub("", answer.rpartition("\n")[2]).strip()
    patterns = []
    if CODE_LENGTH <= len(answer) <= FINAL_LENGTH and _CODE.search(answer):
        patterns.append(rf"(?<!\w){re.escape(answer)}(?!\w)")
    if 0 < len(final) <= FINAL_LENGTH:
        patterns.append(f"{_MARKER}{build_whole_word_pattern(final)}{_NOT_LISTED}")
    return any(re.search(pattern, prompt) for pattern in patterns)


def _signs(text: str) -> str:
    return "".join(blank_punctuation(fold_case_and_spelling([text])[0]).split())
