"""Convert a copied span to the format of a field's values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith_plugins.baselines.fields.dates import FORMATS, read_date, read_time
from tunesmith_plugins.baselines.fields.numbers import read_number

Convert = Callable[[str], str | None]
MIN_TEMPLATE_VALUES = 3
MAX_TEMPLATE = 40


@dataclass(frozen=True, slots=True)
class Conversion:
    """A named function that converts a span's text to a value, or returns None if it cannot."""

    name: str
    convert: Convert
    kinds: frozenset[str] | None = None
    """The kinds of spans that it applies to, or None for all kinds."""
    keeps_signs: bool = False
    """True if the value keeps all letters and digits of the span in order, ignoring case."""
    gives_digits: bool = False
    """True if the value always contains a digit."""


def normalize_key(text: str) -> str:
    """Return only the letters and digits of a text, case-folded."""
    # Upper case first: two lower-case letters, such as i and dotless ı, can have the same
    # capital.
    return "".join(filter(str.isalnum, text.upper().casefold()))


def _join_words(separator: str) -> Convert:
    return lambda text: separator.join(re.findall(r"\w+", text.lower()))


def _with_initial(form: str) -> Convert:
    """Return a function that formats a name using ``{last}`` and ``{initial}``."""

    def convert(text: str) -> str | None:
        first, _, last = text.strip().rpartition(" ")
        return form.format(last=last, initial=first[0]) if first else None

    return convert


def _plain(text: str) -> str | None:
    number = read_number(text)
    if number is None:
        return None
    return f"{number.normalize():f}"


def _decimals(places: int) -> Convert:
    def convert(text: str) -> str | None:
        number = read_number(text)
        return None if number is None else f"{number:.{places}f}"

    return convert


def _float(text: str) -> str | None:
    number = read_number(text)
    return None if number is None else repr(float(number))


def _scaled(factor: int) -> Convert:
    def convert(text: str) -> str | None:
        number = read_number(text)
        return None if number is None else f"{(number * factor).normalize():f}"

    return convert


_PARTS = {
    "last name first": lambda text: ", ".join(reversed(text.rsplit(" ", 1))),
    "last name and initial": _with_initial("{last}, {initial}."),
    "initial and last name": _with_initial("{initial}. {last}"),
    "last word": lambda text: text.split()[-1],
    "first word": lambda text: text.split()[0],
}
"""Conversions that extract part of the text or reorder its words."""
TEXT: tuple[Conversion, ...] = tuple(
    Conversion(name, convert, keeps_signs=name not in _PARTS)
    for name, convert in {
        "as it is": lambda text: text,
        "one space": lambda text: " ".join(text.split()),
        "lower": str.lower,
        "upper": str.upper,
        "title": lambda text: " ".join(w[:1].upper() + w[1:].lower() for w in text.split()),
        "capital": lambda text: text[:1].upper() + text[1:],
        "small": lambda text: text[:1].lower() + text[1:],
        "underscores": _join_words("_"),
        "hyphens": _join_words("-"),
        "joined": _join_words(""),
        "sentence": lambda text: f"{text[:1].upper()}{text[1:].rstrip('.')}.",
        **_PARTS,
    }.items()
)
_DATES, _TIMES = frozenset({"date", "after a key"}), frozenset({"time", "after a key"})
_NUMBERS = frozenset({"number", "id", "digits", "letters and digits", "after a key", "in brackets"})
NUMBER: tuple[Conversion, ...] = tuple(
    Conversion(name, convert, _NUMBERS, gives_digits=name != "letters and digits")
    for name, convert in {
        "number": _plain,
        "one decimal": _decimals(1),
        "two decimals": _decimals(2),
        "float": _float,
        "whole": _decimals(0),
        "hundredfold": _scaled(100),
        "sixtyfold": _scaled(60),
        "digits": lambda text: re.sub(r"\D", "", text) or None,
        "without zeros": lambda text: re.sub(r"\D", "", text).lstrip("0") or None,
        "letters and digits": lambda text: re.sub(r"[\W_]", "", text).upper() or None,
    }.items()
)


def _dates(values: Sequence[str]) -> Iterator[Conversion]:
    years = Counter(year for value in values for year in re.findall(r"\b(?:19|20)\d\d", value))
    year = int(min(years, key=lambda y: (-years[y], y))) if years else 2000
    for form in FORMATS:
        for day_first in (True, False):

            def convert(text: str, form: str = form, day_first: bool = day_first) -> str | None:
                date = read_date(text, day_first=day_first, year=year)
                return None if date is None else date.strftime(form)

            name = f"date {form} {'day' if day_first else 'month'} first"
            yield Conversion(name, convert, _DATES, gives_digits=True)
    yield Conversion("time", read_time, _TIMES, gives_digits=True)


def list_conversions(values: Sequence[str]) -> list[Conversion]:
    """Return the conversions to try for values like these, the simplest first."""
    return [*TEXT, *NUMBER, *_dates(values), *find_templates(values)]


# --------------------------------------------------------------------------- templates


def find_templates(values: Sequence[str]) -> list[Conversion]:
    """Return a conversion for each of the five most frequent forms, such as ``ORD-99999``.

    At least three values must have the form. Characters that are equal in all of them are fixed, so
    the span ``48213`` becomes ``ORD-48213``. For the form ``AA-999``, ``ab 123`` becomes
    ``AB-123``.
    """
    by_form: dict[str, list[str]] = {}
    for value in sorted(set(values)):
        if any(c.isdigit() for c in value) and len(value) <= MAX_TEMPLATE:
            by_form.setdefault(_form(value), []).append(value)
    found = []
    for form in sorted(by_form, key=lambda f: (-len(by_form[f]), f)):
        members = by_form[form]
        columns = [*zip(*members, strict=True)]
        fixed = "".join(c[0] if len(set(c)) == 1 and len(members) > 2 else " " for c in columns)
        if len(members) >= MIN_TEMPLATE_VALUES and not all(c.isdigit() for c in form):
            found.append(Conversion(f"like {form}", _fill(form, fixed), gives_digits=True))
    return found[:5]


def _form(value: str) -> str:
    """Replace digits with ``9`` and letters with ``A`` or ``a``; keep all other characters."""
    letters = re.sub(r"[^\W\d_]", lambda m: "A" if m[0].isupper() else "a", value)
    return re.sub(r"\d", "9", letters)


def _fill(form: str, fixed: str) -> Convert:
    """Return a function that puts the letters and digits of a span into the slots of a form."""
    places = [i for i, sign in enumerate(form) if sign in "9Aa"]
    digits = [i for i in places if form[i] == "9"]
    choices = [
        chosen
        for chosen in (places, [i for i in places if fixed[i] == " "], digits)
        if chosen and all(fixed[i] != " " for i in places if i not in chosen)
    ]

    def convert(text: str) -> str | None:
        signs = re.sub(r"[\W_]", "", text)
        for chosen in choices:
            if len(signs) != len(chosen) or not all(
                sign.isdigit() == (form[i] == "9") for i, sign in zip(chosen, signs, strict=True)
            ):
                continue
            value = [fixed[i] if i in places else form[i] for i in range(len(form))]
            for i, sign in zip(chosen, signs, strict=True):
                value[i] = sign.upper() if form[i] == "A" else sign.lower()
            return "".join(value)
        return None

    return convert
