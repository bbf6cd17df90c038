"""Find personal data in text by its form, its check digits and the words before it; mask it.

Names and postal addresses are not found: their form is that of other text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.text import redact
from tunesmith_data import check_digits

__all__ = ["KINDS", "PersonalData", "Span", "find_personal_data", "find_spans", "mask_row"]

CONTEXT = 48
"""Number of characters before a value that are searched for the words that name it."""
MIN_PHONE_DIGITS = 8
SECRET = "SECRET"  # noqa: S105 - a placeholder
_REDACTED = re.compile(r"\[redacted:[\w-]+\]")


@dataclass(frozen=True)
class PersonalData:
    """A kind of personal data, and how to recognize it."""

    placeholder: str
    what: str
    """The kind as a noun phrase: ``an e-mail address``."""
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool] = bool
    named_by: re.Pattern[str] | None = None
    """Pattern that must match the end of the text before a value; None: any text."""

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Yield every value of this kind in a text."""
        for match in self.pattern.finditer(text):
            before = text[max(0, match.start() - CONTEXT) : match.start()]
            if self.named_by is not None and not self.named_by.search(before):
                continue
            if self.is_valid(match.group()):
                yield match


class Span(NamedTuple):
    """A value in a text, and its placeholder."""

    start: int
    end: int
    placeholder: str


# Each pattern begins with a set of characters, which lets the search skip all others quickly. The
# look-behind for what must not precede a match comes second.
_EMAIL = (
    r"(?<![\w.+-])[\w.+-]{1,64}@(?![\w.-]*\bexample\b)"
    r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{2,63}){1,4}"
)
_IBAN = (
    r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
    r"(?![A-Za-z0-9])"
)
_CARD = r"\d(?<![\w.+-]\d)(?:[ -]?\d){12,18}(?![\w-])"
_SOCIAL_SECURITY = r"[0-8](?<![\w.-][0-8])\d{2}(?<!000)(?<!666)-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"
_PHONE = (
    r"[+(\d](?<![\w.+-][+(\d])(?:"
    r"(?<=\+)\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}"
    r"|(?<=\()\d{3}\)[ .-]\d{3}[.-]\d{4}|(?<=\d)\d{2}[ .-]\d{3}[.-]\d{4})(?![\w-])"
)
_NATIONAL_IDS: dict[str, Callable[[str], bool]] = {
    r"[1-9](?<![\w.+-][1-9])\d(?: ?\d{3}){3}(?![\w-])": check_digits.is_german_tax_id,
    r"[\dXYZ](?<![\w.+-][\dXYZ])-?\d{7}-?[A-Z](?![\w-])": check_digits.is_spanish_id,
    r"[12](?<![\w.+-][12])(?: ?\d\d){2} ?(?:\d\d|2[AB])(?: ?\d{3}){2} ?\d\d(?![\w-])": (
        check_digits.is_french_nir
    ),
    r"[A-Z](?<![\w-][A-Z])[A-Z](?: ?\d\d){3} ?[A-D](?![\w-])": check_digits.is_british_nino,
    r"[A-Z](?<![\w-][A-Z])[A-Z]{5}[\dL-V]{2}[A-EHLMPRST][\dL-V]{2}[A-Z][\dL-V]{3}[A-Z](?!\w)": (
        check_digits.is_italian_codice_fiscale
    ),
    r"\d(?<![\w.+-]\d)\d\d\.\d{3}\.\d{3}-\d\d(?![\w-])": check_digits.is_brazilian_cpf,
    r"[2-9](?<![\w.+-][2-9])\d{3}([ -])\d{4}\1\d{4}(?![\w-]|[ -]\d)": (
        check_digits.is_indian_aadhaar
    ),
}
_NAMED = r"[\"'*]*\s*(?:[:=#]|is|was|are|ist|lautet|est|es|è|é)?\s*[\"'*#]*\Z"
"""Pattern of the text between the name of a value and the value."""
_MONTH = (
    r"(?:Jan|Feb|Mar|Mär|Apr|May|Mai|Jun|Jul|Aug|Sep|Oct|Okt|Nov|Dec|Dez|ene|feb|mar|abr|may|jun"
    r"|jul|ago|sep|oct|nov|dic|janv|fév|avr|mai|juin|juil|août|déc|gen|mag|giu|lug|set|ott|dez"
    r")[^\W\d_]{0,9}\.?"
)
_YEAR = r"(?:19|20)\d\d"
_DATE = (
    rf"\b(?:{_YEAR}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.](?:{_YEAR}|\d\d)"
    rf"|\d\d?(?:st|nd|rd|th|\.|er|º)?(?: de| of)? {_MONTH},?(?: de| del)? {_YEAR}"
    rf"|{_MONTH} \d\d?(?:st|nd|rd|th)?,? {_YEAR})(?![\w-])"
)
_BIRTH = (
    r"(?:\bborn|\bbirth(?:[ _-]?da(?:te|y))?|\bdate[ _]of[ _]birth|\bD\.?O\.?B\.?|\bgeb\.?"
    r"|\bgeboren|\bgeburtsdatum|\bn[ée]e?(?= le)|\bnaissance|\bnacimiento|\bnacid[oa]|\bnat[oa]"
    r"|\bnascita|\bnascimento)(?:\s(?:on|am|the|le|el|il|em))?"
)
_RECORD_NAME = (
    r"(?:\bMRN|\bmedical record|\b(?:patient|case|customer|client|account|policy|claim|member)"
    r"|\b(?:kunden|patienten|fall|vertrags|versicherten|mitglieds)|\bdossier|\bcliente?s?"
    r"|\bexpediente)"
)
_RECORD = (
    rf"(?:{_RECORD_NAME}[ _-]?(?:numbers?|no\.?|num\.?|nummer|nr\.?|id\b|#)|\bMRN|\baktenzeichen"
    r"|\bAz\.|\bn(?:[úu]m[ée]?ro|°|º) de (?:client|cliente|dossier|patient|expediente))"
)
_RECORD_NUMBER = (
    r"[\dA-Z](?<![\w/-][\dA-Z])"
    r"(?:(?<=\d)\d{0,3} [A-Z][A-Za-z]{0,3} \d{1,6}/\d\d(?:\d\d)?"  # Aktenzeichen: 4 O 123/22
    r"|[\dA-Z]{0,5}(?:[-/.]?[\dA-Z]{0,4}\d){3,10})(?![\w-])"
)


def _named_by(words: str) -> re.Pattern[str]:
    return re.compile(words + _NAMED, re.IGNORECASE)


def _has_phone_length(text: str) -> bool:
    return sum(c.isdigit() for c in text) >= MIN_PHONE_DIGITS


KINDS = (
    PersonalData("EMAIL", "an e-mail address", re.compile(_EMAIL)),
    PersonalData("IBAN", "a bank account number", re.compile(_IBAN), check_digits.is_iban),
    PersonalData("CARD", "a payment card number", re.compile(_CARD), check_digits.is_card_number),
    PersonalData("SSN", "a social security number", re.compile(_SOCIAL_SECURITY)),
    *(
        PersonalData("ID", "a national identity number", re.compile(pattern), is_valid)
        for pattern, is_valid in _NATIONAL_IDS.items()
    ),
    PersonalData("DATE OF BIRTH", "a date of birth", re.compile(_DATE), named_by=_named_by(_BIRTH)),
    PersonalData(
        "RECORD NUMBER",
        "a record or customer number",
        re.compile(_RECORD_NUMBER),
        named_by=_named_by(_RECORD),
    ),
    PersonalData("PHONE", "a telephone number", re.compile(_PHONE), _has_phone_length),
)
"""All kinds; if two match overlapping text, the first one is used."""


def find_personal_data(text: str) -> list[tuple[PersonalData, re.Match[str]]]:
    """Return the personal data in a text, in order and without overlaps."""
    found: list[tuple[PersonalData, re.Match[str]]] = []
    for kind in KINDS:
        for match in kind.find(text):
            if all(match.end() <= m.start() or m.end() <= match.start() for _, m in found):
                found.append((kind, match))
    return sorted(found, key=lambda item: item[1].start())


def find_spans(text: str) -> list[Span]:
    """Return the places of the personal data in a text, in order and without overlaps."""
    return [
        Span(match.start(), match.end(), kind.placeholder)
        for kind, match in find_personal_data(text)
    ]


def mask_row(
    texts: Sequence[str], find: Callable[[str], Sequence[Span]] = find_spans
) -> tuple[list[str], Counter[str]]:
    """Replace personal data and secrets in a row's texts with placeholders such as ``[EMAIL]``.

    Equal values get equal placeholders. If the row has several values of a kind, they are numbered:
    ``[EMAIL 1]``, ``[EMAIL 2]``. ``find`` returns the personal data in a text, in order and without
    overlaps.

    Returns:
        The texts, and the number of replacements by placeholder.
    """
    counts: Counter[str] = Counter()
    clean = [_mask_secrets(text, counts) for text in texts]
    found = [find(text) for text in clean]
    numbers: dict[str, dict[str, int]] = {}
    for text, spans in zip(clean, found, strict=True):
        for start, end, placeholder in spans:
            counts[placeholder] += 1
            values = numbers.setdefault(placeholder, {})
            values.setdefault(_fold(text[start:end]), len(values) + 1)
    masked = []
    for text, spans in zip(clean, found, strict=True):
        parts, last = [], 0
        for start, end, placeholder in spans:
            values = numbers[placeholder]
            number = f" {values[_fold(text[start:end])]}" if len(values) > 1 else ""
            parts += [text[last:start], f"[{placeholder}{number}]"]
            last = end
        masked.append("".join([*parts, text[last:]]))
    return masked, counts


def _mask_secrets(text: str, counts: Counter[str]) -> str:
    clean = redact(text)
    if clean == text:
        return text
    counts[SECRET] += len(_REDACTED.findall(clean)) - len(_REDACTED.findall(text))
    return _REDACTED.sub(f"[{SECRET}]", clean)


def _fold(value: str) -> str:
    """Return a value without case and separators, to recognize it when spelled differently."""
    return re.sub(r"[\W_]", "", value).casefold()
