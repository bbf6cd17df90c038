"""The evaluator catches each fault of a reply, and accepts good replies in other words."""

from __future__ import annotations

import time

import pytest

from tunesmith.records import Completion
from tunesmith.testing import FakeTextModel
from tunesmith_recipes_service.service_reply import SERVICE_REPLY, ServiceReplyOptions, judge

PROMPT = "My lamp for 40 EUR is broken."
REFERENCE = "Hi, we refund 40 EUR for the lamp within 5 days. Your Hygge Home team"
OPTIONS = ServiceReplyOptions(
    actions={"refund": ["refund", "money back"], "credit": ["credit"], "exchange": ["exchange"]},
    escalation=["supervisor"],
    brand=["Hygge Home"],
    banned=["unfortunately"],
)
IN_OTHER_WORDS = (
    "Sorry! You get your money back: 40.00 EUR in 5 days. Hygge Home",
    "Hygge Home refunds the lamp. The 40 EUR are with you in at most 5 days.",
    "We are refunding 40 EUR (5 days). Best wishes from Hygge Home!",
    "```\nRefund: €40,00, 5-day wait.\nYour Hygge\nHome team\n```",
    "The 40 EUR come back as a refund within five days. Hygge Home",
    "We refund 40 EUR, allow 5 calendar days. You need not exchange it. Hygge Home, here 24/7",
    "REFUND OF EUR40 OR 40EUR AFTER 5 WORKING DAYS, Hygge Home",
)
FAULTS = {
    "other action": (REFERENCE.replace("refund", "exchange"), "policy-kept"),
    "additional action": (REFERENCE.replace("days.", "days, and a credit."), "policy-kept"),
    "negated action": (REFERENCE.replace("we refund", "we do not refund"), "policy-kept"),
    "denied action": (REFERENCE.replace("we refund", "there is no refund of"), "policy-kept"),
    "other deadline in words": (REFERENCE.replace("5 days", "fifteen days"), "policy-kept"),
    "other amount": (REFERENCE.replace("40", "400"), "policy-kept"),
    "swapped numbers": (
        REFERENCE.replace("40", "#").replace("5 d", "40 d").replace("#", "5"),
        "policy-kept",
    ),
    "other deadline": (REFERENCE.replace("5 days", "15 days"), "policy-kept"),
    "needless escalation": (REFERENCE + ". A supervisor calls you.", "escalation-right"),
    "misspelled brand": (REFERENCE.replace("Hygge Home", "Hygge home"), "brand-kept"),
    "no brand": (REFERENCE.replace("Your Hygge Home team", ""), "brand-kept"),
    "banned phrase": (REFERENCE.replace("Hi,", "Unfortunately,"), "brand-kept"),
    "empty": ("", "policy-kept"),
}


def measure(answer: str, reference: str = REFERENCE) -> dict[str, float]:
    row = Completion(source="row:1", prompt=PROMPT, completion=reference)
    evaluator = SERVICE_REPLY.build(OPTIONS).prepare([row])
    model = FakeTextModel(answers={PROMPT: answer})
    return {m.metric: m.values[0] for m in evaluator.measure(model, [row])}


def test_the_reference_is_right() -> None:
    assert set(measure(REFERENCE).values()) == {1.0}


@pytest.mark.parametrize("answer", IN_OTHER_WORDS)
def test_other_words_are_right(answer: str) -> None:
    assert set(measure(answer).values()) == {1.0}, measure(answer)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    answer, metric = FAULTS[fault]
    found = measure(answer)
    assert found[metric] == 0.0 and found["reply-acceptable"] == 0.0, found


def test_a_missing_escalation_is_found() -> None:
    reference = "A supervisor calls you today. Hygge Home"
    assert measure("We refund everything. Hygge Home", reference)["escalation-right"] == 0.0
    assert set(measure("Our supervisor will call today. Hygge Home", reference).values()) == {1.0}


@pytest.mark.parametrize("amount", ["1,000 EUR", "1 000 EUR", "1000.00 EUR", "EUR 1,000.00"])
def test_large_amounts(amount: str) -> None:
    reference = "We refund 1,000 EUR. Hygge Home"
    assert set(measure(f"We refund {amount}. Hygge Home", reference).values()) == {1.0}
    for wrong in ("1 EUR", "9,000.00 EUR", "9,999,999.00 EUR"):
        assert measure(f"We refund {wrong}. Hygge Home", reference)["policy-kept"] == 0.0, wrong


@pytest.mark.parametrize(
    "answer",
    [
        "You don't need to bother about an exchange: we refund 40 EUR in 5 days. Hygge Home",
        "Rather than exchange the lamp, we refund 40 EUR within 5 days. Hygge Home",
        "Instead of a credit we refund the full 40 EUR in 5 days. Hygge Home",
        "You get back your money, 40 EUR, within 5 days. Hygge Home",
        "We refund the lamp that did not survive: 40 EUR within 5 days. Hygge Home",
        "We refund 40 EUR at no cost, no later than in 5 days. Hygge Home",
    ],
)
def test_clauses_that_deny_something_else(answer: str) -> None:
    assert set(measure(answer).values()) == {1.0}, measure(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "A refund of 40 EUR within 5 days is not possible. Hygge Home",
        "Instead of a refund of 40 EUR, you wait 5 days. Hygge Home",
        "Rather than refund 40 EUR within 5 days, we do nothing. Hygge Home",
        "Nothing is refunded, neither 40 EUR nor within 5 days. Hygge Home",
        "Refunds are not given, such as 40 EUR within 5 days. Hygge Home",
    ],
)
def test_offers_that_are_denied_later(answer: str) -> None:
    assert measure(answer)["policy-kept"] == 0.0


def test_words_with_other_endings_and_in_another_order() -> None:
    reference = "We exchange it. Hygge Home"
    assert set(measure("We are exchanging the lamp. Hygge Home", reference).values()) == {1.0}
    assert measure("A supervisor is not available. Hygge Home")["escalation-right"] == 1.0


WITH_FEE = "We refund 1,250.50 EUR minus 10 % within 48 hours. Hygge Home"


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (REFERENCE, "A refund of forty euros reaches you in five days. Hygge Home"),
        (REFERENCE, "We refund 40 EUR. Please allow five (5) days. Hygge Home"),
        (REFERENCE, "We do not hesitate to refund 40 EUR within 5 days. Hygge Home"),
        (REFERENCE, "1. Refund: 40 EUR\n2. Within 5 days\n\nHygge Home"),
        (REFERENCE, "Order no. 4711: we refund 40 EUR within 120 hours. Hygge Home"),
        (REFERENCE, "The 40 are refunded within 5 days. Hygge Home, www.hyggehome.com"),
        (REFERENCE, "We refund 40 EUR in 5 days, no need for a supervisor. Hygge Home"),
        (WITH_FEE, "Refund: € 1.250,50, less 10 percent, in 2 days. Hygge Home"),
        (WITH_FEE, "1'250.50 euros less 10% are refunded in 48 h. Hygge Home"),
        ("Return it within 2 weeks. Hygge Home", "You have fourteen days. Hygge Home"),
    ],
)
def test_amounts_and_denials_of_other_forms_are_right(reference: str, answer: str) -> None:
    assert set(measure(answer, reference).values()) == {1.0}, measure(answer, reference)


@pytest.mark.parametrize(
    "wrong",
    [
        "40 USD within 5 days", "$40 within 5 days", "£40 within 5 days", "40 % within 5 days",
        "40k EUR within 5 days", "forty-five EUR within 5 days", "40 EUR within a month",
        "40 EUR within 5 hours", "40 EUR within 5-7 days",
    ],
)  # fmt: skip
def test_amounts_of_other_units_are_wrong(wrong: str) -> None:
    assert measure(f"We refund {wrong}. Hygge Home")["policy-kept"] == 0.0


def test_a_month_is_not_thirty_days() -> None:
    reference = "We refund within 30 days. Hygge Home"
    for wrong in ("a month", "one month", "30 months", "four weeks"):
        assert measure(f"We refund within {wrong}. Hygge Home", reference)["policy-kept"] == 0.0
    for other in ("thirty days", "720 hours", "43,200 minutes"):
        assert measure(f"We refund within {other}. Hygge Home", reference)["policy-kept"] == 1.0


@pytest.mark.parametrize(
    "refused",
    [
        "We refuse to refund", "We are unable to refund", "It is impossible to refund",
        "Nobody will refund", "We had to decline the refund of", "Non-refundable:",
    ],
)  # fmt: skip
def test_a_refused_action_is_not_offered(refused: str) -> None:
    assert measure(f"{refused} 40 EUR within 5 days. Hygge Home")["policy-kept"] == 0.0


@pytest.mark.parametrize("name", ["HyggeHome", "hygge-home", "Hygge Homes", "HYGGE HOME"])
def test_a_brand_is_misspelled_beside_its_right_spelling(name: str) -> None:
    assert measure(f"{REFERENCE}. {name}!")["brand-kept"] == 0.0
    assert measure(f"{REFERENCE}. Hygge Home's shop: info@hyggehome.com")["brand-kept"] == 1.0


@pytest.mark.parametrize("name", ["Nord-Licht", "Nord Licht", "Nordlicht", "NordLichts"])
def test_a_brand_of_one_word_is_not_divided(name: str) -> None:
    options = ServiceReplyOptions(brand=["NordLicht"])
    assert judge(options, "", f"NordLicht and {name}", "NordLicht") == (True, True, False)
    assert judge(options, "", "NordLicht's team", "NordLicht") == (True, True, True)


@pytest.mark.parametrize(
    "text", ["2 x ", "no need to ", "one hundred and ", "_ ", "not refuse ", "\n\n"]
)
def test_an_answer_that_repeats_itself_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    judge(OPTIONS, PROMPT, text * (20_000 // len(text)), REFERENCE)
    assert time.process_time() - started < 5
