"""Find secrets and personal data; examples in findings are masked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tunesmith.text import SECRET_MARKS, mask_personal_data, redact
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.detectors import CONTEXT, Detector, FindFault
from tunesmith_plugins.checks.rows.row import Row

# Each pattern starts with a set of characters, so the search can skip all others quickly. The
# look-behind that rejects preceding characters comes second.
CARD = r"\d(?<![\w.+-]\d)(?:[ -]?\d){12,18}(?![\w-])"
CARD_PREFIX = r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01])|3[47]|3(?:0[0-5]|[68])|6(?:011|5|4[4-9])|35"
CARD_LENGTHS = {"3": (14, 15, 16), "4": (16,), "5": (16,), "2": (16,), "6": (16,)}
IBAN = (
    r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
    r"(?![A-Za-z0-9])"
)
EMAIL = (
    r"(?<![\w.+-])[\w.+-]{1,64}@(?![\w.-]*\bexample\b)"
    r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{2,63}){1,4}"
)
PHONE = (
    r"[+(\d](?<![\w.+-][+(\d])(?:"
    r"(?<=\+)\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}"
    r"|(?<=\()\d{3}\)[ .-]\d{3}[.-]\d{4}|(?<=\d)\d{2}[ .-]\d{3}[.-]\d{4})(?![\w-])"
)
SOCIAL_SECURITY = r"[0-8](?<![\w.-][0-8])\d{2}(?<!000)(?<!666)-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"


def is_card_number(text: str) -> bool:
    """Return True if prefix, length and check digit (Luhn, ISO/IEC 7812-1) match a payment card."""
    digits = [int(c) for c in text if c.isdigit()]
    number = "".join(map(str, digits))
    if not re.match(CARD_PREFIX, number) or len(number) not in CARD_LENGTHS[number[0]]:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Return True if the check digits of an IBAN are valid (ISO 13616: 1 modulo 97)."""
    number = text.replace(" ", "")
    if not 15 <= len(number) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def mask(text: str) -> str:
    """Return the first and last two characters of a text, with "…" between them."""
    return f"{text[:2]}…{text[-2:]}"


def mask_address(text: str) -> str:
    """Return an e-mail address whose name is masked except for the first letter."""
    return f"{text[0]}…@{text.rpartition('@')[2]}"


def _number(pattern: str, is_valid: Callable[[str], bool] = bool) -> FindFault:
    """Return a function that finds the first valid number in a row and masks it."""
    compiled = re.compile(pattern)

    def find(row: Row) -> str | None:
        numbers = (match.group() for match in compiled.finditer(row.text))
        return next((mask(number) for number in numbers if is_valid(number)), None)

    return find


_EMAIL = re.compile(EMAIL)


def _find_email(row: Row) -> str | None:
    match = _EMAIL.search(row.text)
    return mask_address(match.group()) if match else None


def _find_secret(row: Row) -> str | None:
    if redact(row.text) == row.text:
        return None
    clean = mask_personal_data(row.text)
    start = clean.find("[redacted:")
    return clean[max(0, start - CONTEXT) : start + 2 * CONTEXT]


def _with_long_number(block: Block) -> Sequence[Row]:
    return block.with_long_number


PERSONAL_DATA = (
    Detector(
        "rows contain a key, token or password",
        _find_secret,
        "remove it from the data and revoke it: a model can reproduce its training data",
        can_be_intended=False,
        marks=SECRET_MARKS,
    ),
    Detector(
        "rows contain a payment card number",
        _number(CARD, is_card_number),
        "replace it: a model can reproduce its training data",
        can_be_intended=False,
        select=_with_long_number,
    ),
    Detector(
        "rows contain a bank account number",
        _number(IBAN, is_iban),
        "replace it: a model can reproduce its training data",
        can_be_intended=False,
        select=_with_long_number,
    ),
    Detector(
        "rows contain a social security number",
        _number(SOCIAL_SECURITY),
        "replace it: a model can reproduce its training data",
        can_be_intended=False,
        select=_with_long_number,
    ),
    Detector(
        "rows contain an e-mail address",
        _find_email,
        "replace the addresses of real people",
        level="info",
        marks=("@",),
    ),
    Detector(
        "rows contain a telephone number",
        _number(PHONE),
        "replace the numbers of real people",
        level="info",
        select=_with_long_number,
    ),
)
