"""Normalize answers before they are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_LEAD_IN = re.compile(
    r"\A\W*(?:(?:so|therefore|thus|sure|okay|ok)\W+)?(?:i think\W+)?(?:(?:the|my|this|its?)\W+)?"
    r"(?:(?:correct|right|best|final|most likely)\W+)?"
    r"(?:answer|label|category|class|intent|topic|sentiment|type|result|output)"
    r"(?:\W+(?:here|for this \w+))?(?:\W+(?:is|would be|should be)\b\W*|\s*[:=]\W*)",
    re.IGNORECASE,
)
_EDGES = re.compile(r"\A[\W_]+|[\W_]+\Z")
_NEGATIONS = frozenset({"not", "no", "never", "neither", "nor", "isn't", "isnt", "without"})


@dataclass(frozen=True, kw_only=True)
class TextNormalizer:
    """Normalizes answers and references before they are compared."""

    ignore_case: bool = False
    ignore_punctuation: bool = False
    """Ignore punctuation at the ends, and the marks of Markdown there: ``**Yes.**`` is ``Yes``."""
    ignore_lead_in: bool = False
    """Ignore a phrase such as ``The answer is`` or ``Category:`` before the answer."""
    extract: re.Pattern[str] | None = None

    def normalize(self, text: str) -> str | None:
        """Return the text to compare; None if the pattern ``extract`` finds nothing.

        Reasoning between ``<think>`` marks in front of an answer is not a part of it. White space
        is trimmed and collapsed and Unicode is composed (NFC), because a reader sees no difference.
        """
        text = strip_reasoning(text)
        if self.extract is not None:
            matches = list(self.extract.finditer(text))
            if not matches:
                return None
            last = matches[-1]  # an answer ends with its result
            text = (last.group(1) if self.extract.groups else last.group()) or ""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        if self.ignore_lead_in:
            rest = _LEAD_IN.sub("", text, count=1)
            text = rest if rest.strip() else text
        if self.ignore_punctuation:
            inner = _EDGES.sub("", text)
            text = inner or text  # an answer of punctuation alone, such as "+", stays
        return text.casefold() if self.ignore_case else text


def strip_reasoning(text: str) -> str:
    """Return an answer without the reasoning between ``<think>`` marks in front of it."""
    return _REASONING.sub("", text, count=1)


LENIENT = TextNormalizer(ignore_case=True, ignore_punctuation=True, ignore_lead_in=True)
"""Ignores case, punctuation at the ends, and a phrase such as ``The answer is``."""


class LabelReader:
    """Reads which label of a list an answer gives.

    Raises:
        ValueError: two labels differ only in what the normalizer ignores.
    """

    def __init__(self, labels: Sequence[str], normalizer: TextNormalizer = LENIENT) -> None:
        self.normalizer = normalizer
        self._labels: dict[str, str] = {}
        for label in labels:
            key = normalizer.normalize(label) or ""
            if self._labels.setdefault(key, label) != label:
                raise ValueError(f"the labels {self._labels[key]!r} and {label!r} are alike")
        longest_first = sorted(map(re.escape, filter(None, self._labels)), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first) or '(?!)'})(?!\w)")

    def read(self, answer: str) -> str | None:
        """Return the label that an answer is, or the only one that it names; None without one.

        A label counts as a whole word. One after "not", "no" and the like does not count, and
        nor does the answer if it names two different labels.
        """
        text = self.normalizer.normalize(answer)
        if text is None:
            return None
        if text in self._labels:
            return self._labels[text]
        named = set()
        for match in self._pattern.finditer(text):
            before = text[: match.start()].casefold().split()
            if before and before[-1].strip(",;:\"'`*(") in _NEGATIONS:
                return None
            named.add(match.group())
        return self._labels[named.pop()] if len(named) == 1 else None
