"""Normalize answers before they are compared, and read labels from them.

What is ignored must not make two different answers equal: a sign, an operator or a symbol at the
edge of an answer is a part of it. ``-1`` is not ``1``, and ``C++`` is not ``C``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith_evidence.answers.whole_words import WholeFinder

__all__ = ["LabelReader", "TextNormalizer", "compose", "strip_reasoning"]

_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_LEAD_IN = re.compile(
    r"\A\W*(?:(?:so|therefore|thus|sure|okay|ok)\W+)?(?:i think\W+)?(?:(?:the|my|this|its?)\W+)?"
    r"(?:(?:correct|right|best|final|most likely)\W+)?"
    r"(?:answer|label|category|class|intent|topic|sentiment|type|result|output)"
    r"(?:\W+(?:here|for this \w+))?(?:\W+(?:is|would be|should be)\b\s*:?\s*|\s*[:=]\s*)",
    re.IGNORECASE,
)
# Marks of Markdown around some words. The length is bounded, and so is the time.
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=[^\s*])(.{1,500}?)(?<=[^\s*])\1(?![\w*])"
    r"|(?<!\w)(_{1,3})(?=[^\s_])(.{1,500}?)(?<=[^\s_])\3(?!\w)"
    r"|(?<!`)(`{1,3})(?!`)\s?(.{1,500}?)\s?(?<!`)\5(?!`)"
)
_LIST_MARK = re.compile(r"\A(?:[-*+•>]|#{1,6})\s+(?=[^\W\d])")
_PAIRS = frozenset(
    (
        '""',
        "''",
        "“”",
        "„“",
        "‘’",
        "«»",
        "»«",
        "()",
        "[]",
        "{}",
        "<>",
        "（）",
        "「」",
        "『』",
        "《》",
    )
)
_LONGEST = 500
_ENDINGS = ".,;:!?…。，、；：！？"
_NEGATIONS = frozenset({"not", "no", "never", "neither", "nor", "isn't", "isnt", "without"})


@dataclass(frozen=True, kw_only=True)
class TextNormalizer:
    """Normalizes answers and references before they are compared."""

    ignore_case: bool = False
    ignore_punctuation: bool = False
    """Ignore punctuation behind an answer, and quotes, brackets and Markdown around it.

    ``**Yes.**`` is ``Yes``. Other characters count: ``-1`` is not ``1``.
    """
    ignore_lead_in: bool = False
    """Ignore a phrase such as ``The answer is`` or ``Category:`` before the answer."""
    extract: re.Pattern[str] | None = None

    def normalize(self, text: str) -> str | None:
        """Return the text to compare; None if the pattern ``extract`` finds nothing.

        Reasoning between ``<think>`` marks in front of an answer is not a part of it. White space
        is trimmed and collapsed and Unicode is composed (NFC), because a reader sees no difference.
        """
        found = self.find(text)
        return None if found is None else self.fold([*self.readings(found)][-1])

    def find(self, text: str) -> str | None:
        """Return the answer as it is written; None if the pattern ``extract`` finds nothing."""
        text = strip_reasoning(text)
        if self.extract is not None:
            matches = list(self.extract.finditer(text))
            if not matches:
                return None
            last = matches[-1]  # an answer ends with its result
            text = (last.group(1) if self.extract.groups else last.group()) or ""
        return compose(text)

    def readings(self, text: str) -> Iterator[str]:
        """Yield a text, and then what is left of it as more and more around it is ignored.

        Each step ignores as little as possible. Nothing is ignored if nothing would be left.
        """
        steps: list[Callable[[str], str]] = []
        if self.ignore_punctuation:
            steps.append(_remove_emphasis)
        if self.ignore_lead_in:
            steps.append(_remove_lead_in)
        if self.ignore_punctuation:
            steps.append(_remove_edge)
        while True:
            yield text
            shorter = (step(text).strip() for step in steps)
            found = next((rest for rest in shorter if rest and rest != text), None)
            if found is None:
                return
            text = found

    def fold(self, text: str) -> str:
        """Return a text in one case, if case is ignored."""
        return text.casefold() if self.ignore_case else text


def strip_reasoning(text: str) -> str:
    """Return an answer without the reasoning between ``<think>`` marks in front of it."""
    return _REASONING.sub("", text, count=1)


def compose(text: str) -> str:
    """Return a text with single spaces and composed characters (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _remove_emphasis(text: str) -> str:
    return _EMPHASIS.sub(lambda match: match[2] or match[4] or match[6], text)


def _remove_lead_in(text: str) -> str:
    return _LEAD_IN.sub("", text, count=1)


def _remove_edge(text: str) -> str:
    """Return a text without the quotes or brackets around it, its last sign, or its list mark."""
    if not text:
        return text
    if text[0] + text[-1] in _PAIRS and not {text[0], text[-1]} & {*text[1:-1]}:
        return text[1:-1]
    if text[-1] in _ENDINGS:  # one by one only where the rest could be a label
        return text[:-1] if len(text) <= _LONGEST else text.rstrip(f"{_ENDINGS} ")
    if text[0] in "¿¡":
        return text.lstrip("¿¡ ")
    return _LIST_MARK.sub("", text)


LENIENT = TextNormalizer(ignore_case=True, ignore_punctuation=True, ignore_lead_in=True)
"""Ignores case, punctuation around an answer, and a phrase such as ``The answer is``."""


class LabelReader:
    """Reads which label of a list an answer gives.

    An answer that is a label as it stands, white space and the form of its Unicode aside, gives
    that label and no other. What the normalizer ignores helps to read other answers, and never
    merges two labels: where they differ only in what is ignored, an answer names neither.

    Raises:
        ValueError: a label occurs twice.
    """

    def __init__(self, labels: Sequence[str], normalizer: TextNormalizer = LENIENT) -> None:
        self.normalizer = normalizer
        self._labels: dict[str, str] = {}
        for label in labels:
            if compose(label) in self._labels:
                raise ValueError(f"the label {label!r} occurs twice")
            self._labels[compose(label)] = label
        written = self._labels.items()
        self._folded = _keep_unique((normalizer.fold(text), label) for text, label in written)
        self._bare = _keep_unique(
            (normalizer.fold([*normalizer.readings(text)][-1]), label) for text, label in written
        )
        # Texts by which an answer can name a label, as they are written and in one case.
        self._names = [
            (WholeFinder(names), names) for names in (self._labels, self._bare | self._folded)
        ]

    def match(self, answer: str) -> str | None:
        """Return the label that an answer is; None if it is none, or could be several."""
        text = self.normalizer.find(answer)
        return None if text is None else self._match([*self.normalizer.readings(text)])

    def read(self, answer: str) -> str | None:
        """Return the label that an answer is, or the only one that it names; None without one.

        A label counts as a whole word. One after "not", "no" and the like does not count, and
        nor does the answer if it names two different labels.
        """
        text = self.normalizer.find(answer)
        if text is None:
            return None
        readings = [*self.normalizer.readings(text)]
        found = self._match(readings)
        return self._find_named(readings[-1]) if found is None else found

    def _match(self, readings: Sequence[str]) -> str | None:
        for text in readings:
            if text in self._labels:
                return self._labels[text]
            if (folded := self.normalizer.fold(text)) in self._folded:
                return self._folded[folded]
        return self._bare.get(self.normalizer.fold(readings[-1]))

    def _find_named(self, text: str) -> str | None:
        """Return the only label that a text names."""
        named = set[str]()
        texts = (text, self.normalizer.fold(text))
        for where, (finder, labels) in zip(texts, self._names, strict=True):
            for start, part in finder.find(where):
                before = where[:start].casefold().split()
                if before and before[-1].strip(",;:\"'`*(") in _NEGATIONS:
                    return None
                named.add(labels[part])
        return named.pop() if len(named) == 1 else None


def _keep_unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the labels by their texts, without the texts that several labels have."""
    found: dict[str, set[str]] = {}
    for text, label in pairs:
        found.setdefault(text, set()).add(label)
    return {text: labels.pop() for text, labels in found.items() if len(labels) == 1}
