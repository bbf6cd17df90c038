"""Personal data: found by form, check digits and names, and masked."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tunesmith_data import check_digits
from tunesmith_data.personal_data import find_personal_data, mask_row

RNG = random.Random(7)


def digits(count: int) -> str:
    return "".join(RNG.choices("0123456789", k=count))


def make_german() -> str:
    """Build the check digit by trying all ten, unlike the code under test."""
    ten = RNG.sample("123456789", 9)
    return complete("".join([*ten, RNG.choice(ten)]), check_digits.is_german_tax_id)


def complete(start: str, is_valid: Callable[[str], bool]) -> str:
    (found,) = [start + last for last in "0123456789" if is_valid(start + last)]
    return found


def make_french() -> str:
    number = "1" + digits(2) + "07" + "75" + digits(6)
    return f"{number}{97 - int(number) % 97:02}"


def make_aadhaar() -> str:
    number = complete("5" + digits(10), check_digits.is_indian_aadhaar)
    return " ".join((number[:4], number[4:8], number[8:]))


def make_cpf() -> str:
    base = digits(9)
    (number,) = [
        f"{base}{n:02}" for n in range(100) if check_digits.is_brazilian_cpf(f"{base}{n:02}")
    ]
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def make_dni() -> str:
    number = int(digits(8))
    return f"{number:08}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("86095742719", check_digits.is_german_tax_id),
        ("12345678Z", check_digits.is_spanish_id),
        ("X1234567L", check_digits.is_spanish_id),
        ("255081416802538", check_digits.is_french_nir),
        ("RSSMRA85T10A562S", check_digits.is_italian_codice_fiscale),
        ("111.444.777-35", check_digits.is_brazilian_cpf),
        ("2363", check_digits.is_indian_aadhaar),  # the example of Verhoeff's algorithm
        ("4111 1111 1111 1111", check_digits.is_card_number),
        ("GB82 WEST 1234 5698 7654 32", check_digits.is_iban),
    ],
)
def test_published_examples_are_valid_and_a_changed_character_is_not(
    text: str, is_valid: Callable[[str], bool]
) -> None:
    assert is_valid(text)
    last = len(text) - 1 - next(n for n, c in enumerate(reversed(text)) if c.isdigit())
    changed = text[:last] + str((int(text[last]) + 1) % 10) + text[last + 1 :]
    assert not is_valid(changed)


@pytest.mark.parametrize(
    ("make", "most"),
    [(make_german, 0), (make_french, 0), (make_aadhaar, 0), (make_cpf, 1), (make_dni, 0)],
)
def test_generated_numbers_are_found_and_those_with_a_wrong_digit_are_not(
    make: Callable[[], str], most: int
) -> None:
    missed = 0
    for _ in range(50):
        number = make()
        assert [kind.placeholder for kind, _ in find_personal_data(f"her number is {number}.")] == [
            "ID"
        ], number
        place = RNG.choice([n for n, c in enumerate(number) if c.isdigit() and n > 2])
        wrong = number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
        missed += any(kind.placeholder == "ID" for kind, _ in find_personal_data(wrong))
    assert missed <= most


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "MRN: 00123456, patient no. 88231",
            "MRN: [RECORD NUMBER 1], patient no. [RECORD NUMBER 2]",
        ),
        ("Aktenzeichen 4 O 123/22", "Aktenzeichen [RECORD NUMBER]"),
        ('{"customer_id": "A-12345"}', '{"customer_id": "[RECORD NUMBER]"}'),
        ("Kundennummer lautet 882310", "Kundennummer lautet [RECORD NUMBER]"),
        ("born on May 3rd, 1980", "born on [DATE OF BIRTH]"),
        ("geb. am 3. März 1980", "geb. am [DATE OF BIRTH]"),
        ("DOB: 1980-05-03", "DOB: [DATE OF BIRTH]"),
        ("née le 3 mai 1980", "née le [DATE OF BIRTH]"),
        ("NI number AB 12 34 56 C", "NI number [ID]"),
        ("call (555) 123-4567", "call [PHONE]"),
        ("HF_TOKEN=abcdefgh12345678", "HF_TOKEN=[SECRET]"),
    ],
)
def test_values_are_found_by_their_names(text: str, masked: str) -> None:
    assert mask_row([text])[0] == [masked]


@pytest.mark.parametrize(
    "text",
    [
        "The contract was signed on 1980-05-03.",
        "patient number 3 of 5",
        "in case 2020 was better",
        "find . -size +100000 -print",
        "order 12345678901 of 2024-01-02",
        "QQ123456C is an example that was never issued",
        "write to me@example.com",
        "version 1.2.3.4, 10.0.0.1",
        "The customer paid 1,234.50 in 2019/2020",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert mask_row([text])[0] == [text]


def test_equal_values_in_a_row_get_equal_placeholders() -> None:
    texts, counts = mask_row(["a@b.org asks c@d.org", "A@B.org answers", "DOB 1980-05-03"])
    assert texts == ["[EMAIL 1] asks [EMAIL 2]", "[EMAIL 1] answers", "DOB [DATE OF BIRTH]"]
    assert counts == {"EMAIL": 3, "DATE OF BIRTH": 1}
