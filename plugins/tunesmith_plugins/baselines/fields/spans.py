"""Find the spans of a text that could be a field's value, with features of their context."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith_plugins.baselines.fields.dates import DATE, TIME
from tunesmith_plugins.baselines.fields.numbers import NUMBER

MAX_TEXT = 8_000
"""Number of characters at the start of a text that are searched for spans."""
MAX_SPANS = 600
"""Maximum number of spans per kind and text."""
_CAPITAL = r"[^\W\d_a-z][\w'’.-]*[\w]|[^\W\d_a-z]"
KINDS: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w"),
    "url": re.compile(r"\b(?:https?://|www\.)\S*[\w/]"),
    "date": DATE,
    "time": TIME,
    "number": NUMBER,
    "id": re.compile(r"(?<!\w)(?=[\w./-]*\d)[^\W_]+(?:[-_/.][^\W_]+)*"),
    "letters and digits": re.compile(r"\b[A-Za-z]{1,6}[\s#-]{0,2}\d[\d\s-]*\d\b"),
    "digits": re.compile(r"\+?\(?\d[\d\s()/.-]{3,}\d"),
    "quoted": re.compile(r"[\"“”„'‘«`]([^\"“”„‘«»`\n]+?)[\"“”'’»`](?!\w)"),
    "in brackets": re.compile(r"[(\[<]([^()\[\]<>\n]+)[)\]>]"),
    "after a key": re.compile(r"(?m)^[^:\n]{1,40}:[ \t]*(.*\S)"),
    "capitalized": re.compile(rf"\b(?:{_CAPITAL})(?:\s+(?:{_CAPITAL}))*"),
    "line": re.compile(r"(?m)^[ \t]*(\S.*?)[ \t]*$"),
    "sentence": re.compile(r"[^.!?\n\s][^.!?\n]*"),
    "words": re.compile(r"(?!)"),
}
"""Patterns per kind of span, the most specific first; ``words`` covers all word sequences."""
_TOKEN = re.compile(r"\w+(?:['’.@/-]\w+)*|[^\w\s]")


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A span of a text, with its kind and position."""

    kind: str
    start: int
    """Index of the first character in the text."""
    end: int
    """Index after the last character."""
    text: str


def find_spans(text: str, kind: str, most_words: int) -> list[TextSpan]:
    """Return a text's spans of a kind. Word sequences have at most ``most_words`` words."""
    text = text[:MAX_TEXT]
    if kind == "words":
        return list(_word_sequences(text, most_words))[:MAX_SPANS]
    spans = []
    for match in KINDS[kind].finditer(text):
        group = 1 if match.re.groups else 0
        if match[group]:
            spans.append(TextSpan(kind, *match.span(group), match[group]))
    return spans[:MAX_SPANS]


def _word_sequences(text: str, most_words: int) -> Iterator[TextSpan]:
    words = [match.span() for match in _TOKEN.finditer(text) if match[0][0].isalnum()]
    for first, (start, _) in enumerate(words):
        for _, end in words[first : first + most_words]:
            if "\n" in text[start:end]:
                break
            yield TextSpan("words", start, end, text[start:end])


def describe_spans(text: str, spans: list[TextSpan]) -> list[list[str]]:
    """Return the features of each span: its shape, neighbors and position among the spans."""
    counts, seen = Counter(span.kind for span in spans), Counter[str]()
    described = []
    for span in spans:
        seen[span.kind] += 1
        before = [t.casefold() for t in _TOKEN.findall(text[max(0, span.start - 80) : span.start])]
        after = [t.casefold() for t in _TOKEN.findall(text[span.end : span.end + 50])]
        before, after = ["^"] * 4 + before, [*after, "$", "$", "$"]
        form = describe_shape(span.text)
        place = seen[span.kind]
        features = [
            f"kind {span.kind}",
            f"form {form}",
            f"text {span.text.casefold()}",
            f"first {span.text.split()[0].casefold()}",
            f"last {span.text.split()[-1].casefold()}",
            f"words {min(len(span.text.split()), 8)}",
            f"length {min(len(span.text), 24)}",
            f"before {before[-1]}",
            f"before2 {before[-2]}",
            f"before3 {before[-3]}",
            f"before {before[-2]} {before[-1]}",
            f"before {before[-3]} {before[-2]} {before[-1]}",
            f"before {before[-1]} {form}",
            f"after {after[0]}",
            f"after2 {after[1]}",
            f"after {after[0]} {after[1]}",
            f"around {before[-1]} {after[0]}",
            f"place {span.kind} {min(place, 5)}",
            f"place from the end {span.kind} {min(counts[span.kind] - place, 5)}",
            f"count {span.kind} {min(counts[span.kind], 5)}",
            f"line {not text[: span.start].rpartition(chr(10))[2].strip()}",
            *(f"near {word}" for word in before[-7:] if word.isalpha()),
            *(f"next {word}" for word in after[:4] if word.isalpha()),
        ]
        described.append(features)
    return described


def describe_shape(text: str) -> str:
    """Return the shape of a text's first 40 characters: ``Room 12b`` gives ``Aa 99a``.

    Runs of capitals, of lowercase letters and of whitespace collapse to one character; up to
    seven digits are kept.
    """
    signs = re.sub(r"[^\W\d_]", lambda m: "A" if m[0].isupper() else "a", text[:40])
    signs = re.sub(r"\d", "9", signs)
    return re.sub(r"(A+|a+|\s+)", lambda m: m[0][0], re.sub(r"9{7,}", "9999999", signs))
