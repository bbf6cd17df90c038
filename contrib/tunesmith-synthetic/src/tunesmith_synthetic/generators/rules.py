"""The ``rules`` generator: edits of prompts that keep the answer right by construction.

- ``punctuation``: insert punctuation marks between words, as in Karimi et al. 2021, *AEDA*.
- ``typos``: swap, drop or double a letter inside a long word.
- ``casing``: all lower case, or no capital at the start.
- ``slots``: replace a value by another one of its list. If the answer has the value too, the
  answer changes in the same way. Without lists, the values are those that JSON answers copy. Values
  that also occur elsewhere, or in another case, are not replaced.

A word that the answer contains is never edited by the first three rules, and no mark is inserted
between two such words.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from pydantic import Field

from tunesmith.contracts import SkippedRow
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.offers import GeneratorOffer
from tunesmith.options import Options
from tunesmith.records import Chat, Completion, Message, Record, last_exchange
from tunesmith_synthetic.generators.pool import shuffle_rows

MARKS = (".", ";", "?", ":", "!", ",")
MIN_LETTERS = 5
TRIES = 4
"""Attempts for a new text before a rule gives up on a row in a round."""
_WORD = re.compile(r"\w+")
Rule = Literal["punctuation", "typos", "casing", "slots"]
Slots = Mapping[str, Sequence[str]]


class RulesOptions(Options):
    """Options of ``[generator] use = "rules"``."""

    rules: list[Rule] = Field(
        ["punctuation", "typos", "casing", "slots"], min_length=1, description="Rules to apply."
    )
    slots: dict[str, list[str]] = Field(
        {},
        description=(
            "Lists of interchangeable values, such as { city = ['Rome', 'Oslo'] }. Unset: values "
            "that JSON answers copy from the prompts."
        ),
    )
    rounds: int = Field(
        1, ge=1, le=100, description="Number of new rows per training row and rule."
    )


@dataclass(frozen=True)
class Rules:
    """Applies each rule to each training row."""

    options: RulesOptions

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        """Yield edited rows, round by round, of the training rows in random order."""
        train, count = task.task.train, 0
        order = shuffle_rows(len(train), task.task.seed)
        slots = self.options.slots or find_slots(train)
        if not train:
            yield SkippedRow(where="train", cause="there are no training rows")
        for turn, rule, number in product(range(self.options.rounds), self.options.rules, order):
            if count == task.count:
                return
            record = train[number]
            rng = random.Random(f"{task.task.seed}/{turn}/{number}/{rule}")
            edited = edit(record, rule, rng, slots)
            if edited is None:
                yield SkippedRow(where=record.source, cause=f"{rule}: nothing to change")
                continue
            count += 1
            yield GeneratedRow(record=edited, parent=number, details={"rule": rule})


def edit(record: Record, rule: Rule, rng: random.Random, slots: Slots) -> Record | None:
    """Return the record with an edited question, or None if the rule cannot change it."""
    if not isinstance(record, Completion | Chat):
        return None
    question, answer = _question(record), last_exchange(record)[1]
    if question is None:
        return None
    if rule == "slots":
        return _swap_slot(record, question, answer, rng, slots)
    kept = {*_list_words(answer.text)}
    for _ in range(TRIES):
        text = EDITS[rule](question, kept, rng)
        if text != question:
            return _with_texts(record, text, answer.text)
    return None


def insert_punctuation(text: str, kept: set[str], rng: random.Random) -> str:
    """Insert marks at up to a third of the gaps between words."""
    words = text.split(" ")
    is_kept = [bool(found) and kept.issuperset(found) for found in map(_list_words, words)]
    gaps = [n for n in range(1, len(words)) if not (is_kept[n - 1] and is_kept[n])]
    count = min(len(gaps), rng.randint(1, max(1, len(words) // 3)))
    for place in rng.sample(gaps, count):
        words[place] = f"{rng.choice(MARKS)} {words[place]}"
    return " ".join(words)


def _list_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def make_typo(text: str, kept: set[str], rng: random.Random) -> str:
    """Change an inner letter of one or two long words without digits."""
    words = [m for m in _WORD.finditer(text) if _may_change(m[0], kept)]
    chosen = rng.sample(words, min(len(words), rng.randint(1, 2)))
    for match in sorted(chosen, key=lambda m: -m.start()):
        place = match.start() + rng.randrange(1, len(match[0]) - 2)
        pair = text[place : place + 2]
        changed = rng.choice([pair[::-1], pair[1], pair[0] + pair])
        text = text[:place] + changed + text[place + 2 :]
    return text


def _may_change(word: str, kept: set[str]) -> bool:
    return len(word) >= MIN_LETTERS and word.isalpha() and word.lower() not in kept


def change_case(text: str, kept: set[str], rng: random.Random) -> str:
    """Lower the first letter, or all words that the answer does not contain."""

    def lower(match: re.Match[str]) -> str:
        return match[0] if match[0].lower() in kept else match[0].lower()

    return _WORD.sub(lower, text, count=rng.choice([0, 1]))


EDITS: Mapping[str, Callable[[str, set[str], random.Random], str]] = {
    "punctuation": insert_punctuation,
    "typos": make_typo,
    "casing": change_case,
}


def find_slots(records: Sequence[Record]) -> Slots:
    """Return the values that JSON answers copy from their prompts, by field."""
    from tunesmith_evidence.tasks.json_answers import parse_json_object

    found: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        if isinstance(record, Completion | Chat):
            question = _question(record) or ""
            for path, raw in (parse_json_object(last_exchange(record)[1].text) or {}).items():
                value = raw.strip('"')
                if raw.startswith('"') and "\\" not in raw and _occurrences(value, question):
                    found[".".join(path)][value] = None
    return {name: [*values] for name, values in found.items() if len(values) > 1}


def _swap_slot(
    record: Completion | Chat, question: str, answer: Message, rng: random.Random, slots: Slots
) -> Record | None:
    """Swap a value that occurs once in the question, at most once in the answer, and not before."""
    before = [] if isinstance(record, Completion) else record.messages[:-2]
    places = [
        (value, name)
        for name, values in slots.items()
        for value in values
        if _count(value, question) == [1, 1]
        and _count(value, answer.text) in ([0, 0], [1, 1])
        and not any(_count(value, turn.text)[1] for turn in before)
    ]
    if not places:
        return None
    value, name = rng.choice(sorted(places))
    others = sorted({other for other in slots[name] if other != value and other not in question})
    if not others:
        return None
    other = rng.choice(others)
    return _with_texts(record, _swap(question, value, other), _swap(answer.text, value, other))


def _count(value: str, text: str) -> list[int]:
    """Return how often a value occurs in a text, in the same case and in any case."""
    pairs = ((value, text), (value.casefold(), text.casefold()))
    return [len(_occurrences(*pair)) for pair in pairs]


def _occurrences(value: str, text: str) -> list[Any]:
    return re.findall(rf"(?<!\w){re.escape(value)}(?!\w)", text) if value.strip() else []


def _swap(text: str, value: str, other: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", lambda match: other, text)


def _question(record: Completion | Chat) -> str | None:
    """Return the text before the last answer; None if it is not the user's plain text."""
    if isinstance(record, Completion):
        return record.prompt
    messages = record.messages
    if len(messages) < 2 or messages[-2].role != "user" or messages[-1].role != "assistant":
        return None
    plain = isinstance(messages[-2].content, str) and isinstance(messages[-1].content, str)
    return messages[-2].text if plain and not messages[-1].tool_calls else None


def _with_texts(record: Completion | Chat, question: str, answer: str) -> Record:
    if isinstance(record, Completion):
        return replace(record, prompt=question, completion=answer)
    *before, asked, given = record.messages
    edited = (replace(asked, content=question), replace(given, content=answer))
    return replace(record, messages=(*before, *edited))


RULES: GeneratorOffer[Any] = GeneratorOffer(
    name="rules",
    summary="punctuation, typos, casing and swapped values; the answer stays right",
    config=RulesOptions,
    build=Rules,
    makes_variations=True,
)
