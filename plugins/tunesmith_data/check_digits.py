"""Check digits of payment cards, bank accounts and national identity numbers."""

from __future__ import annotations

import re
from collections import Counter

__all__ = [
    "is_brazilian_cpf",
    "is_british_nino",
    "is_card_number",
    "is_french_nir",
    "is_german_tax_id",
    "is_iban",
    "is_indian_aadhaar",
    "is_italian_codice_fiscale",
    "is_spanish_id",
]

_CARD_PREFIX = r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01])|3[47]|3(?:0[0-5]|[68])|6(?:011|5|4[4-9])|35"
_CARD_LENGTHS = {"3": (14, 15, 16), "4": (16,), "5": (16,), "2": (16,), "6": (16,)}
_SPANISH_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_ITALIAN_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3,
         6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip
"""Values of the characters at odd positions of a codice fiscale."""
_UNUSED_NINO_PREFIXES = frozenset({"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"})
_VERHOEFF_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def is_card_number(text: str) -> bool:
    """Return True if prefix, length and check digit (Luhn, ISO/IEC 7812-1) are those of a card."""
    number = _digits(text)
    if not re.match(_CARD_PREFIX, number) or len(number) not in _CARD_LENGTHS[number[0]]:
        return False
    digits = [int(digit) for digit in number]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Return True if the check digits of an IBAN are right (ISO 13616: 1 modulo 97)."""
    number = text.replace(" ", "")
    if not 15 <= len(number) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def is_german_tax_id(text: str) -> bool:
    """Return True for a valid Steuer-ID: one digit repeated in the first ten, ISO 7064 check."""
    number = _digits(text)
    if len(number) != 11 or number[0] == "0":
        return False
    repeated = [count for count in Counter(number[:10]).values() if count > 1]
    if repeated not in ([2], [3]):
        return False
    product = 10
    for digit in number[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[10])


def is_spanish_id(text: str) -> bool:
    """Return True for a valid DNI or NIE: the letter is the number modulo 23."""
    number = text.replace("-", "").replace(" ", "")
    number = str("XYZ".find(number[0])) + number[1:] if number[0] in "XYZ" else number
    return _SPANISH_LETTERS[int(number[:-1]) % 23] == number[-1]


def is_french_nir(text: str) -> bool:
    """Return True for a valid NIR: its last two digits are 97 minus the number modulo 97."""
    number = text.replace(" ", "").replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number[:-2]) % 97 == int(number[-2:])


def is_british_nino(text: str) -> bool:
    """Return True if a National Insurance number has a prefix and suffix that are issued."""
    first, second = text[0], text[1]
    return (
        first not in "DFIQUV"
        and second not in "DFIQUVO"
        and text[:2] not in _UNUSED_NINO_PREFIXES
        and text[-1] in "ABCD"
    )


def is_italian_codice_fiscale(text: str) -> bool:
    """Return True if the last letter of a codice fiscale is right."""
    odd = sum(_ITALIAN_ODD[c] for c in text[:-1:2])
    even = sum(int(c, 36) - 10 if c.isalpha() else int(c) for c in text[1:-1:2])
    return chr(ord("A") + (odd + even) % 26) == text[-1]


def is_brazilian_cpf(text: str) -> bool:
    """Return True if both check digits of a CPF are right, and its digits are not all equal."""
    digits = [int(digit) for digit in _digits(text)]
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for length in (9, 10):
        weights = range(length + 1, 1, -1)
        total = sum(a * b for a, b in zip(digits, weights, strict=False))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return True


def is_indian_aadhaar(text: str) -> bool:
    """Return True if the check digit of an Aadhaar number is right (Verhoeff)."""
    check = 0
    for position, digit in enumerate(reversed(_digits(text))):
        value = int(digit)
        for _ in range(position % 8):
            value = _VERHOEFF_PERMUTATION[value]
        check = _multiply_in_d5(check, value)
    return check == 0


def _multiply_in_d5(a: int, b: int) -> int:
    """Multiply two elements of the dihedral group of order ten."""
    turn = (a + b) % 5 if a < 5 else (a - b) % 5
    return turn + 5 * ((a < 5) != (b < 5))


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())
