"""Values are found by form, check digits and names; other numbers are not."""

from __future__ import annotations

import pytest
from injected import KINDS as INJECTED
from injected import make_rows, score

from tunesmith_data.personal_data import mask_row
from tunesmith_presidio.analyze import find_spans

FOUND = {
    "Mail anna@firma-meier.de today": "Mail [EMAIL] today",
    "call 030 901820": "call [PHONE]",
    "Telefon 030901820": "Telefon [PHONE]",
    "MRN: 00123456": "MRN: [RECORD NUMBER]",
    "DOB 1980-05-03": "DOB [DATE OF BIRTH]",
    "PESEL 44051401359": "PESEL [ID]",
    "PESEL: 72120881072": "PESEL: [ID]",  # also the form of a German tax id
    "hetu 131052-308T": "hetu [ID]",
    "NHS number 943 476 5919": "NHS number [ID]",
    "NIR 255081416802538": "NIR [ID]",
    "the request of 203.0.113.9": "the request of [IP ADDRESS]",
    "passport 123456789": "passport [PASSPORT]",
    "key hf_aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b": "key [SECRET]",
}
QUIET = (
    "The contract was signed on 1980-05-03.",
    "Order 4096203151 and order 2491227677 have shipped.",
    "The serial number is TAB28661959.",
    "The test card 4953728885954694 is not valid.",
    "The customer paid 1,234.50 in 2019/2020.",
    "find . -size +100000 -print",
)


@pytest.mark.parametrize("text", FOUND)
def test_a_value_is_masked(text: str) -> None:
    assert mask_row([text], find_spans)[0] == [FOUND[text]]


@pytest.mark.parametrize("text", QUIET)
def test_other_numbers_stay(text: str) -> None:
    assert find_spans(text) == []


def test_equal_values_of_a_row_get_equal_placeholders() -> None:
    texts = mask_row(["203.0.113.9 asks 203.0.113.8", "203.0.113.9 waits"], find_spans)[0]
    assert texts == ["[IP ADDRESS 1] asks [IP ADDRESS 2]", "[IP ADDRESS 1] waits"]


def test_values_that_overlap_are_masked_whole() -> None:
    text = "patient id 123-45-6789/22 or MRN 00123456"
    masked = mask_row([text], find_spans)[0][0]
    assert masked == "patient id [RECORD NUMBER 1] or MRN [RECORD NUMBER 2]"


def test_long_texts_are_read() -> None:
    text = "word " * 250_000 + "DOB 1980-05-03"
    (span,) = find_spans(text)
    assert text[span.start : span.end] == "1980-05-03"


def test_injected_items_are_found_and_little_else() -> None:
    rows = make_rows(170, seed=1)
    found, others = score(rows, find_spans)
    items = sum(bool(row.kind) for row in rows)
    assert {row.kind for row in rows if row.kind} == {*INJECTED}
    assert sum(found.values()) > 0.95 * items and others < 0.05 * items
