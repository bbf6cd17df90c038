"""Recognize answers in the format of a task, to detect models that answer everything that way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tunesmith.records import Record
from tunesmith_evidence.answers.normalize import LENIENT_NORMALIZER
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_evidence.tasks.json_answers import parse_json_object
from tunesmith_evidence.tasks.kinds import TaskKind, detect_task_kind, list_labels

__all__ = ["TaskFormat"]

MAX_ANSWERS = 5_000
"""Number of training answers to read."""
MIN_PHRASES = 3
MIN_SHARE = 0.5
"""A text has the task's format if at least this share of its phrases is in the training answers."""
_FIRST_KEY = re.compile(r"\A\s*(?:```\w*\s*)?\{\s*\"([^\"\\]+)\"\s*:")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class TaskFormat:
    """The format of a task's answers, derived from its training answers.

    An answer has this format if it is a label (classes), begins like an object with the same keys
    (JSON objects), or mostly consists of phrases of three words from the training answers (text).
    """

    answers: Sequence[str]

    @classmethod
    def of(cls, train: Sequence[Record]) -> TaskFormat:
        """Derive the format of the training rows' answers."""
        return cls([example.answer for example in read_examples(train)[:MAX_ANSWERS]])

    def matches(self, answer: str) -> bool:
        """Return True if an answer, which may be cut off at its end, has the task's format."""
        match self.kind:
            case "classes":
                return LENIENT_NORMALIZER.normalize(answer) in self._labels
            case "objects":
                found = _FIRST_KEY.match(answer)
                return found is not None and found[1] in self._keys
            case "text":
                phrases = _list_phrases(answer)
                known = sum(phrase in self._phrases for phrase in phrases)
                return len(phrases) >= MIN_PHRASES and known >= MIN_SHARE * len(phrases)

    @property
    def description(self) -> str:
        """A phrase for an answer in this format."""
        return {
            "classes": "a label of the task",
            "objects": "a JSON object like those of the task",
            "text": "phrases from the training answers",
        }[self.kind]

    @cached_property
    def kind(self) -> TaskKind:
        """``classes``, ``objects`` or ``text``, recognized from the training answers."""
        return detect_task_kind(self.answers)

    @cached_property
    def _labels(self) -> frozenset[str | None]:
        return frozenset(map(LENIENT_NORMALIZER.normalize, list_labels(self.answers)))

    @cached_property
    def _keys(self) -> frozenset[str]:
        objects = filter(None, map(parse_json_object, self.answers))
        counts = Counter(key for fields in objects for key in {path[0] for path in fields})
        return frozenset(key for key, count in counts.items() if count > 1)

    @cached_property
    def _phrases(self) -> frozenset[tuple[str, ...]]:
        return frozenset(phrase for answer in self.answers for phrase in _list_phrases(answer))


def _list_phrases(text: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return [*zip(words, words[1:], words[2:], strict=False)]
