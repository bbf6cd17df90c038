"""Normalize answers before comparison, and read labels from answers.

Normalization must not make two different answers equal. A sign, an operator or a symbol at the edge
of an answer is part of it: ``-1`` is not ``1``, and ``C++`` is not ``C``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tunesmith_evidence.answers.whole_words import WholeWordFinder

__all__ = ["LabelReader", "TextNormalizer", "normalize_unicode", "strip_reasoning"]

_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_LEAD_IN = re.compile(
    r"\A\W*(?:(?:so|therefore|thus|sure|okay|ok)\W+)?(?:i think\W+)?(?:(?:the|my|this|its?)\W+)?"
    r"(?:(?:correct|right|best|final|most likely)\W+)?"
    r"(?:answer|label|category|class|intent|topic|sentiment|type|result|output)"
    r"(?:\W+(?:here|for this \w+))?(?:\W+(?:is|would be|should be)\b\s*:?\s*|\s*[:=]\s*)",
    re.IGNORECASE,
)
# Markdown emphasis around words. Its length is bounded, to limit the matching time.
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
_ENDINGS = ".,;:!?…。，、；：！？؟،؛۔।"
_NEGATIONS = frozenset(
    (
        *("not", "no", "never", "neither", "nor", "isn't", "isn’t", "isnt", "without"),
        *("nicht", "kein", "keine", "keinen", "keiner", "nie", "weder", "ohne"),
        *("pas", "non", "ni", "jamais", "sans", "nunca", "sin", "não", "nem", "sem"),
        *("niet", "geen", "nooit", "zonder", "inte", "ikke"),
    )
)
"""English, German, Romance, Dutch and Scandinavian words before a label that negate it."""
_ARTICLES = frozenset(
    (
        *("a", "an", "the", "any", "ein", "eine", "einen", "einem", "der", "die", "das"),
        *("un", "une", "una", "le", "la", "el", "um", "uma", "een"),
    )
)


@dataclass(frozen=True, kw_only=True)
class TextNormalizer:
    """Normalizes answers and references so that only differences in content remain."""

    ignore_case: bool = False
    ignore_punctuation: bool = False
    """Ignore punctuation after an answer, and quotes, brackets and Markdown around it.

    ``**Yes.**`` equals ``Yes``. Other characters count: ``-1`` is not ``1``.
    """
    ignore_lead_in: bool = False
    """Ignore a phrase such as ``The answer is`` or ``Category:`` before the answer."""
    extract: re.Pattern[str] | None = None

    def normalize(self, text: str) -> str | None:
        """Return the text to compare, or None if the pattern ``extract`` does not match.

        Reasoning between ``<think>`` tags before the answer is removed. White space is trimmed and
        collapsed, and Unicode is composed (NFC), because these differences are invisible.
        """
        found = self.find(text)
        return None if found is None else self.fold([*self.readings(found)][-1])

    def find(self, text: str) -> str | None:
        """Return the part of a text to compare, or None if the pattern ``extract`` does not match.

        Case, punctuation and lead-in phrases are still included.
        """
        text = strip_reasoning(text)
        if self.extract is not None:
            matches = list(self.extract.finditer(text))
            if not matches:
                return None
            last = matches[-1]  # an answer ends with its result
            text = (last.group(1) if self.extract.groups else last.group()) or ""
        return normalize_unicode(text)

    def readings(self, text: str) -> Iterator[str]:
        """Yield a text, then ever shorter versions without quotes, brackets or lead-in phrases.

        Each step removes as little as possible, and never the whole text.
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
        """Return the text case-folded if case is ignored, otherwise unchanged."""
        return text.casefold() if self.ignore_case else text


def strip_reasoning(text: str) -> str:
    """Remove the reasoning between ``<think>`` tags at the start of an answer."""
    return _REASONING.sub("", text, count=1)


def normalize_unicode(text: str) -> str:
    """Collapse white space to single spaces and compose characters (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _remove_emphasis(text: str) -> str:
    return _EMPHASIS.sub(lambda match: match[2] or match[4] or match[6], text)


def _remove_lead_in(text: str) -> str:
    return _LEAD_IN.sub("", text, count=1)


def _remove_edge(text: str) -> str:
    """Remove one layer: enclosing quotes or brackets, trailing punctuation, or a list marker."""
    if not text:
        return text
    if text[0] + text[-1] in _PAIRS and not {text[0], text[-1]} & {*text[1:-1]}:
        return text[1:-1]
    if text[-1] in _ENDINGS:  # one by one only if the rest is short enough to be a label
        return text[:-1] if len(text) <= _LONGEST else text.rstrip(f"{_ENDINGS} ")
    if text[0] in "¿¡":
        return text.lstrip("¿¡ ")
    return _LIST_MARK.sub("", text)


LENIENT_NORMALIZER = TextNormalizer(ignore_case=True, ignore_punctuation=True, ignore_lead_in=True)
"""A normalizer that ignores case, punctuation, and a lead-in phrase such as ``The answer is``."""


class LabelReader:
    """Finds which label from a list an answer gives.

    An answer that equals a label, up to white space and Unicode form, always gives that label.
    Other answers are normalized first. Normalization never merges labels: if two labels become
    equal, the answer must match one of them exactly.

    Raises:
        ValueError: a label occurs twice.
    """

    def __init__(
        self, labels: Sequence[str], normalizer: TextNormalizer = LENIENT_NORMALIZER
    ) -> None:
        self.normalizer = normalizer
        self._labels: dict[str, str] = {}
        for label in labels:
            if normalize_unicode(label) in self._labels:
                raise ValueError(f"the label {label!r} occurs twice")
            self._labels[normalize_unicode(label)] = label
        written = self._labels.items()
        self._folded = _keep_unique((normalizer.fold(text), label) for text, label in written)
        self._bare = _keep_unique(
            (normalizer.fold([*normalizer.readings(text)][-1]), label) for text, label in written
        )

    @cached_property
    def _names(self) -> Sequence[tuple[WholeWordFinder, dict[str, str]]]:
        """The texts that stand for a label: as written, and case-folded.

        Building a finder for thousands of labels takes a second.
        """
        return [
            (WholeWordFinder(names), names) for names in (self._labels, self._bare | self._folded)
        ]

    def match(self, answer: str) -> str | None:
        """Return the label that an answer equals, or None if no label or several labels match."""
        text = self.normalizer.find(answer)
        return None if text is None else self._match([*self.normalizer.readings(text)])

    def read(self, answer: str) -> str | None:
        """Return the label that an answer equals, or the only label that it mentions.

        Labels are matched as whole words. An answer with a negation ("not", "no", "nicht", ...)
        before a label, or with two different labels, gives no label.

        Returns:
            The label, or None if the answer gives none.
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
        """Return the only label that a text mentions, or None."""
        named = set[str]()
        texts = (text, self.normalizer.fold(text))
        for where, (finder, labels) in zip(texts, self._names, strict=True):
            for start, part in finder.find(where):
                before = where[:start].casefold().split()
                while before and before[-1] in _ARTICLES:
                    before.pop()
                if before and before[-1].strip(",;:\"'`*(") in _NEGATIONS:
                    return None
                named.add(labels[part])
        return named.pop() if len(named) == 1 else None


def _keep_unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a mapping from texts to labels, without texts that several labels share."""
    found: dict[str, set[str]] = {}
    for text, label in pairs:
        found.setdefault(text, set()).add(label)
    return {text: labels.pop() for text, labels in found.items() if len(labels) == 1}
