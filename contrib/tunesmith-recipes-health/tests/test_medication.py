"""The evaluator catches each dangerous fault, and accepts correct orders in other words."""

from __future__ import annotations

import pytest

from tunesmith.records import Completion
from tunesmith.testing import FakeTextModel
from tunesmith_recipes_health.medication import MEDICATION, MedicationOptions

PROMPT = (
    "Start metoprolol 25 mg by mouth twice a day, digoxin 0.125 milligrams daily. "
    "Hold the warfarin. Give some sertraline at night."
)
REFERENCE = (
    "START metoprolol 25 mg PO 2x/d; START digoxin 125 mcg PO 1x/d; HOLD warfarin; "
    "ASK dose of sertraline"
)
IN_OTHER_WORDS = (
    "Metoprolol 25 milligrams orally twice daily; digoxin 0.125 mg once a day. Do not give "
    "warfarin. What dose of sertraline?",
    "- HOLD warfarin\n- START digoxin 125 micrograms\n- START metoprolol 25 mg\n- clarify the dose "
    "of sertraline",
    "start Metoprolol 0.025 g PO and start Digoxin 125mcg; withhold Warfarin; "
    "sertraline dose unclear",
)
FAULTS = {
    "tenfold dose": (REFERENCE.replace("25 mg PO 2x", "250 mg PO 2x"), "doses-preserved"),
    "wrong unit": (REFERENCE.replace("125 mcg", "125 mg"), "doses-preserved"),
    "missing drug": (REFERENCE.replace("START digoxin 125 mcg PO 1x/d; ", ""), "doses-preserved"),
    "swapped doses": (
        REFERENCE.replace("25 mg", "@").replace("125 mcg", "25 mg").replace("@", "125 mcg"),
        "doses-preserved",
    ),
    "additional drug": (REFERENCE + "; START zolpidem 10 mg PO night", "doses-preserved"),
    "lost negation": (REFERENCE.replace("HOLD warfarin", "START warfarin"), "negations-preserved"),
    "negation of another drug": (
        REFERENCE.replace("HOLD warfarin", "HOLD digoxin"),
        "negations-preserved",
    ),
    "invented dose": (
        REFERENCE.replace("ASK dose of sertraline", "START sertraline 50 mg PO night"),
        "questions-preserved",
    ),
    "no question": (REFERENCE.replace("; ASK dose of sertraline", ""), "questions-preserved"),
    "empty": ("", "doses-preserved"),
}


def measure(answer: str) -> dict[str, float]:
    row = Completion(source="row:1", prompt=PROMPT, completion=REFERENCE)
    model = FakeTextModel(answers={PROMPT: answer})
    evaluator = MEDICATION.build(MedicationOptions()).prepare([row])
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
    assert found[metric] == 0.0 and found["orders-safe"] == 0.0, found


def test_rows_do_not_depend_on_each_other() -> None:
    rows = [
        Completion(source=f"row:{n}", prompt=f"{n}. {PROMPT}", completion=REFERENCE)
        for n in range(3)
    ]
    answers = {
        row.prompt: answer for row, answer in zip(rows, (REFERENCE, "", REFERENCE), strict=True)
    }
    evaluator = MEDICATION.build(MedicationOptions()).prepare(rows)
    values = evaluator.measure(FakeTextModel(answers=answers), rows)[0].values
    assert values == (1.0, 0.0, 1.0)
