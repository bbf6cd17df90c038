"""The evaluator catches each fault of a review, and accepts sound reviews in other words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tunesmith.records import Completion
from tunesmith.testing import FakeTextModel
from tunesmith_recipes_legal.clause_review import CLAUSE_REVIEW, ClauseReviewOptions, judge

PROMPT = "7.1 All liability is excluded. 7.2 The notice period is 90 days. 7.4 Prices are fixed."
REFERENCE = "HIGH 7.1 liability; MEDIUM 7.2 notice"
IN_OTHER_WORDS = (
    "Clause 7.1: high risk, the exclusion has to go.\nClause 7.2: medium, shorten the notice.",
    "medium: 7.2; high: 7.1",
    "We see a High risk in 7.1. The notice in 7.2 is a Medium risk.",
    "HIGH 7.1 liability, MEDIUM 7.2 notice",
    "Clauses 7.1 and 7.2 are of high and medium risk.",
    "```\n§7.1 - HIGH\n§7.2 - MEDIUM\n```",
    '{"7.1": "high", "7.2": "medium"}',
    "High risk:\n- 7.1 liability\nMedium risk:\n- 7.2 notice",
    "HIGH 7.1 liability; MEDIUM 7.2 notice. Clause 7.4 is fine.",
    "HIGH 7.1 liability; MEDIUM 7.2 notice; 7.4 OK",
    '[\n{\n"clause": "7.1",\n"risk": "high"\n},\n{\n"clause": "7.2",\n"risk": "medium"\n}\n]',
    '[\n{\n"risk": "high",\n"clause": "7.1"\n},\n{\n"risk": "medium",\n"clause": "7.2"\n}\n]',
    "7.1. High risk. 7.2. Medium risk.",
    "Clause 7.1\nRisk: high\nClause 7.2\nRisk: medium",
    "HIGH 7.1 liability (at most 1.5 % of $2.5 million); MEDIUM 7.2 notice",
)
FAULTS = {
    "invented clause": (REFERENCE + "; HIGH 7.9 data", "citations-exist"),
    "missed clause": ("HIGH 7.1 liability", "citations-right"),
    "needless clause": (REFERENCE + "; MEDIUM 7.4 changes", "citations-right"),
    "wrong risk": (REFERENCE.replace("HIGH", "LOW"), "risks-right"),
    "swapped risks": ("MEDIUM 7.1 liability; HIGH 7.2 notice", "risks-right"),
    "swapped risks in one sentence": ("MEDIUM 7.1, HIGH 7.2", "risks-right"),
    "two risks of a clause": (REFERENCE + "; LOW 7.1 liability", "risks-right"),
    "swapped headings": ("Medium:\n- 7.1\nHigh:\n- 7.2", "risks-right"),
    "swapped lines": ("Clause 7.1\nRisk: medium\nClause 7.2\nRisk: high", "risks-right"),
    "one heading": ("High:\n- 7.1\n- 7.2", "risks-right"),
    "called fine": ("7.1 is fine; MEDIUM 7.2 notice", "citations-right"),
    "invented clause called fine": (REFERENCE + "; 7.9 is fine", "citations-exist"),
    "no risk": ("7.1 liability; 7.2 notice", "risks-right"),
    "nothing found": ("OK", "citations-right"),
    "empty": ("", "citations-right"),
}


def measure(
    answer: str, reference: str = REFERENCE, prompt: str = PROMPT, **options: Any
) -> dict[str, float]:
    row = Completion(source="row:1", prompt=prompt, completion=reference)
    evaluator = CLAUSE_REVIEW.build(ClauseReviewOptions(**options)).prepare([row])
    model = FakeTextModel(answers={prompt: answer})
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
    assert found[metric] == 0.0 and found["review-sound"] == 0.0, found


def test_nothing_to_find() -> None:
    assert set(measure("No clause departs from the playbook.", "OK").values()) == {1.0}
    assert measure("", "OK")["review-sound"] == 0.0, "an empty answer is no review"
    assert measure("LOW 7.4 changes", "OK")["review-sound"] == 0.0


def test_risks_of_several_words_and_letters() -> None:
    reference, risks = "very high: 7.1; mäßig: 7.2", ["high", "very high", "mäßig"]
    assert set(measure("VERY HIGH 7.1; MÄßIG 7.2", reference, risks=risks).values()) == {1.0}
    for wrong in ("high 7.1; mäßig 7.2", "very high 7.1; 7.2"):
        assert measure(wrong, reference, risks=risks)["risks-right"] == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "7.1 is high risk, whereas 7.2 is of medium risk.",
        "High risk is found in 7.1, medium risk in 7.2. Nothing to say about 7.4.",
        '{"high": ["7.1"], "medium": ["7.2"]}',
        "Clause 7.4 complies with the playbook. 7.1: high. 7.2: medium.",
        "We would accept 7.4. 7.1: high; 7.2: medium",
        "7.4 raises no objection; 7.1 carries a high risk, 7.2 a medium one",
    ],
)
def test_clauses_that_are_approved_and_risks_around_clauses(answer: str) -> None:
    assert set(measure(answer).values()) == {1.0}, measure(answer)


FOUR = "High: 7.1, 7.4. Medium: 7.2, 7.5."


@pytest.mark.parametrize(
    "answer",
    [
        "7.1 and 7.4 are high risk, whereas 7.2 and 7.5 are medium risk.",
        '{"high": ["7.1", "7.4"], "medium": ["7.2", "7.5"]}',
        "7.2 and 7.5 carry a medium risk, 7.1 and 7.4 a high one.",
        "7.1 is of high risk, as is 7.4. 7.2 is of medium risk, as is 7.5.",
    ],
)
def test_groups_of_clauses_have_one_risk(answer: str) -> None:
    assert measure(answer, FOUR)["risks-right"] == 1.0
    swapped = answer.replace("7.4", "@").replace("7.5", "7.4").replace("@", "7.5")
    assert measure(swapped, FOUR)["risks-right"] == 0.0


@pytest.mark.parametrize("answer", ["7.4 is not acceptable.", "7.4 does not comply."])
def test_a_clause_that_is_not_approved_is_a_departure(answer: str) -> None:
    assert measure(answer, "OK")["citations-right"] == 0.0


def test_a_risk_that_is_denied_is_not_stated() -> None:
    assert measure("7.1 is not high; 7.2 medium")["risks-right"] == 0.0


LABELS = (
    "Article 5. Supplier may change prices (a) at any time, (b) without consent. Article 6. Payment"
    " is due within 10 days. Article 7. Law of Norway. Schedule 2 lists the fees.",
    "MEDIUM Article 5(a) changes; MEDIUM Article 6 payment; HIGH Schedule 2 fees",
)
NESTED = (
    "12(a)(i) All liability is excluded. 12(b) Notice is 90 days. 12.3(a) The customer waives 1.5 "
    "million EUR. 12.3(b) Prices. § 13 Law.",
    "HIGH 12(a)(i) liability; MEDIUM 12.3(a) waiver",
)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (LABELS, "Art. 5 (a): medium. Art. 6: medium. Schedule 2: high."),
        (LABELS, "Of medium risk: Articles 5(a) and 6. Of high risk: Schedule 2."),
        (LABELS, "§ 5(a) medium, § 6 medium (10 days), Schedule 2 high; Article 7 is fine"),
        (LABELS, "Schedule 2 high; 5(a) medium; clause 6 medium, a notice clause 10 days long"),
        (NESTED, "Sec. 12 (a)(i): high. Clause 12.3 (a): medium. § 13: none"),
        (NESTED, "12(a)(i) (high); 12.3(a) (medium, EUR 1.5 million)"),
    ],
)
def test_citations_of_other_forms_are_read(row: tuple[str, str], answer: str) -> None:
    found = measure(answer, row[1], prompt=row[0])
    assert set(found.values()) == {1.0}, found


@pytest.mark.parametrize(
    ("row", "old", "new", "metric"),
    [
        (LABELS, "5(a)", "5(c)", "citations-exist"),
        (LABELS, "5(a)", "5(b)", "citations-right"),
        (LABELS, "5(a)", "5", "citations-right"),
        (LABELS, "Article 6", "Article 8", "citations-exist"),
        (LABELS, "Schedule 2", "Schedule 3", "citations-exist"),
        (LABELS, "Schedule 2", "Annex B", "citations-exist"),
        (LABELS, "changes", "changes, § 307 BGB", "citations-exist"),
        (LABELS, "HIGH Schedule", "LOW Schedule", "risks-right"),
        (NESTED, "12(a)(i)", "12(a)(ii)", "citations-exist"),
        (NESTED, "12(a)(i)", "12(b)", "citations-right"),
        (NESTED, "12(a)(i)", "12", "citations-right"),
        (NESTED, "12.3(a)", "12.3(z)", "citations-exist"),
        (NESTED, "12.3(a)", "12.3(b)", "citations-right"),
        (NESTED, "HIGH 12", "hardly high 12", "risks-right"),
        (NESTED, "HIGH 12(a)(i) liability", "I cannot accept 12(a)(i)", "risks-right"),
    ],
)
def test_a_wrong_citation_of_another_form_is_found(
    row: tuple[str, str], old: str, new: str, metric: str
) -> None:
    answer = row[1].replace(old, new)
    found = measure(answer, row[1], prompt=row[0])
    assert answer != row[1] and found[metric] == 0.0, found
    assert set(measure(row[1], row[1], prompt=row[0]).values()) == {1.0}


def test_a_clause_that_is_cited_by_its_number_alone_is_no_silent_ok() -> None:
    assert measure("Clause 9 carries a high risk.", "OK")["review-sound"] == 0.0


@pytest.mark.parametrize("text", ["1.", "7.1(a)", "§ 7, ", "not "])
def test_an_answer_that_repeats_itself_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    long = text * (60_000 // len(text))
    judge(ClauseReviewOptions(), long, long, REFERENCE)
    assert time.process_time() - started < 5
