"""The evaluator catches each dangerous fault, and accepts correct orders in other words."""

from __future__ import annotations

import time

import pytest

from tunesmith.records import Completion
from tunesmith.testing import FakeTextModel
from tunesmith_recipes_health.medication import MEDICATION, MedicationOptions, judge

PROMPT = (
    "Start metoprolol 25 mg by mouth twice a day, digoxin 0.125 milligrams daily. "
    "Hold the warfarin. Give some sertraline at night."
)
REFERENCE = (
    "START metoprolol 25 mg PO 2x/d; START digoxin 125 mcg PO 1x/d; HOLD warfarin; "
    "ASK dose of sertraline"
)
GIVEN = "Metoprolol 25 mg PO BID. Digoxin 125 mcg PO daily. "
IN_OTHER_WORDS = (
    GIVEN + "Warfarin: none for now. Please specify the sertraline dose.",
    GIVEN + "Do not administer warfarin; need a dose for sertraline.",
    GIVEN + "Warfarin is to be withheld. The dose of sertraline was not given.",
    GIVEN + "D/C warfarin. Sertraline: dose not specified.",
    GIVEN + "Interrupt warfarin. Sertraline without a dose: please state it.",
    GIVEN + "Leave out warfarin. Sertraline dose to be determined.",
    GIVEN + "Warfarin on pause. Sertraline (dose TBC).",
    "1) Metoprolol 25 mg (1 tablet) 2) Digoxin 125 mcg 3) Warfarin: hold 4) Sertraline: ask dose",
    "Metoprolol 1 tablet of 25 mg; digoxin 125 mcg; stop giving warfarin; sertraline: dose needed",
    "Metoprolol 25 milligrams orally twice daily; digoxin 0.125 mg once a day. Do not give "
    "warfarin. What dose of sertraline?",
    "- HOLD warfarin\n- START digoxin 125 micrograms\n- START metoprolol 25 mg\n- clarify the dose "
    "of sertraline",
    "start Metoprolol 0.025 g PO and start Digoxin 125mcg; withhold Warfarin; "
    "sertraline dose unclear",
    REFERENCE.upper().replace("; ", " AND "),
    f"```\n{REFERENCE}\n```",
    "What dose of sertraline? Don’t give warfarin. Metoprolol 25,0 mg and digoxin 0,125 mg.",
    "1. metoprolol: 25-mg tablet\n2. digoxin: 125 µg (0.125 mg)\n3. warfarin paused\n"
    "4. sertraline: dose missing",
    '[{"drug": "metoprolol", "dose": "25 mg/day"}, {"drug": "digoxin", "dose": "125 μg"}, '
    '{"drug": "warfarin", "action": "withheld"}, {"drug": "sertraline", "action": "ask"}]',
)
FAULTS = {
    "tenfold dose": (REFERENCE.replace("25 mg PO 2x", "250 mg PO 2x"), "doses-preserved"),
    "wrong unit": (REFERENCE.replace("125 mcg", "125 mg"), "doses-preserved"),
    "decimal comma": (REFERENCE.replace("25 mg", "2,5 mg"), "doses-preserved"),
    "range": (REFERENCE.replace("25 mg", "12.5-25 mg"), "doses-preserved"),
    "range in words": (REFERENCE.replace("25 mg", "12.5 to 25 mg"), "doses-preserved"),
    "two tablets": (REFERENCE.replace("25 mg", "2 tablets of 25 mg"), "doses-preserved"),
    "withheld instead of asked": (
        REFERENCE.replace("ASK dose of sertraline", "sertraline not given"),
        "questions-preserved",
    ),
    "dose when needed": (
        REFERENCE.replace("ASK dose of sertraline", "sertraline as needed"),
        "questions-preserved",
    ),
    "multiple": (REFERENCE.replace("25 mg", "2 x 25 mg"), "doses-preserved"),
    "by weight": (REFERENCE.replace("25 mg", "25 mg/kg"), "doses-preserved"),
    "repeated order": (f"{REFERENCE}; START metoprolol 25 mg", "doses-preserved"),
    "missing drug": (REFERENCE.replace("START digoxin 125 mcg PO 1x/d; ", ""), "doses-preserved"),
    "swapped doses": (
        REFERENCE.replace("25 mg", "@").replace("125 mcg", "25 mg").replace("@", "125 mcg"),
        "doses-preserved",
    ),
    "additional drug": (REFERENCE + "; START zolpidem 10 mg PO night", "doses-preserved"),
    "additional drug with the same dose": (
        REFERENCE.replace("25 mg PO 2x/d;", "25 mg PO 2x/d; START zolpidem 25 mg;"),
        "doses-preserved",
    ),
    "lost negation": (REFERENCE.replace("HOLD warfarin", "START warfarin"), "negations-preserved"),
    "negation of another drug": (
        REFERENCE.replace("HOLD warfarin", "HOLD digoxin"),
        "negations-preserved",
    ),
    "double negation": (REFERENCE.replace("HOLD", "do not stop"), "negations-preserved"),
    "invented dose": (
        REFERENCE.replace("ASK dose of sertraline", "START sertraline 50 mg PO night"),
        "questions-preserved",
    ),
    "no question": (REFERENCE.replace("; ASK dose of sertraline", ""), "questions-preserved"),
    "empty": ("", "doses-preserved"),
}


def measure(answer: str, prompt: str = PROMPT, reference: str = REFERENCE) -> dict[str, float]:
    row = Completion(source="row:1", prompt=prompt, completion=reference)
    model = FakeTextModel(answers={prompt: answer})
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


INSULIN = ("Insulin glargine 5,000 units.", "START insulin glargine 5000 units SC")
HELD = ("Hold the warfarin. Do not give naproxen today.", "HOLD warfarin; HOLD naproxen")


@pytest.mark.parametrize(
    ("row", "answer", "is_right"),
    [
        (INSULIN, "glargine insulin: 5 000 IU", True),
        (INSULIN, "START insulin lispro 5000 units SC", False),
        (INSULIN, "START insulin glargine 5000 ml SC", False),
        (INSULIN, "START insulin glargine 5 units SC", False),
        (HELD, "Hold warfarin and naproxen.", True),
        (HELD, "HOLD: warfarin, naproxen", True),
        (HELD, "Hold warfarin and continue naproxen.", False),
        (HELD, "Hold warfarin. Naproxen, 250 mg.", False),
    ],
)
def test_names_of_two_words_and_lists(row: tuple[str, str], answer: str, is_right: bool) -> None:
    assert measure(row[1], *row)["orders-safe"] == 1.0
    assert measure(answer, *row)["orders-safe"] == is_right


THREE = (
    "Pause naproxen for now. Doxycycline as before, at bedtime. We can end the gentamicin.",
    "HOLD naproxen; ASK dose of doxycycline; STOP gentamicin",
)
TWO_HELD = (
    "No dalteparin until tomorrow. No buprenorphine until tomorrow. Start losartan 50 mg po.",
    "HOLD dalteparin; HOLD buprenorphine; START losartan 50 mg PO",
)
ONE_GIVEN = ("Let us put this patient on citalopram 25 milligrams.", "START citalopram 25 mg")
ONE_ASKED = ("Give some pantoprazole morning and evening.", "ASK dose of pantoprazole")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (THREE, "Naproxen: on hold. Gentamicin: finished. Doxycycline: dose not documented."),
        (THREE, "naproxen: paused / gentamicin: stopped / doxycycline: strength?"),
        (THREE, "Hold naproxen, take her off gentamicin. I need the doxycycline dose."),
        (THREE, "No naproxen. Gentamicin is terminated. Doxycycline: amount not known."),
        (TWO_HELD, "Losartan 50 mg; dalteparin and buprenorphine not until tomorrow."),
        (TWO_HELD, "Both dalteparin and buprenorphine are withheld, losartan 50 mg is started."),
        (TWO_HELD, "Neither dalteparin nor buprenorphine today. Losartan 50 mg."),
        (TWO_HELD, "Dalteparin and buprenorphine must wait. Losartan, fifty mg."),
        (ONE_GIVEN, "Citalopram at a dose of twenty-five milligrams"),
        (ONE_ASKED, "Pantoprazole twice daily, but the order lacks a dose."),
        (ONE_ASKED, "Cannot start pantoprazole: the dose is absent from the order."),
        (ONE_ASKED, "The pantoprazole order has no dose. Please provide one."),
    ],
)
def test_structures_of_other_answers_are_right(row: tuple[str, str], answer: str) -> None:
    assert set(measure(answer, *row).values()) == {1.0}, measure(answer, *row)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (THREE, "Naproxen is no longer on hold. Doxycycline dose? Gentamicin stopped."),
        (THREE, "Hold naproxen. Doxycycline at the usual dose. Stop gentamicin."),
        (TWO_HELD, "Dalteparin and losartan 50 mg are given, buprenorphine is held."),
        (TWO_HELD, "Dalteparin as before and buprenorphine is held. Losartan 50 mg."),
        (ONE_GIVEN, "Citalopram at a dose of twenty milligrams"),
        (ONE_ASKED, "Pantoprazole: do not give any dose."),
    ],
)
def test_structures_of_wrong_answers_are_not(row: tuple[str, str], answer: str) -> None:
    assert measure(answer, *row)["orders-safe"] == 0.0


METOPROLOL = ("Start metoprolol 25 mg by mouth twice a day.", "START metoprolol 25 mg PO 2x/d")
WARFARIN = ("Hold the warfarin.", "HOLD warfarin")
SERTRALINE = ("Give some sertraline at night.", "ASK dose of sertraline")
HEPARIN = ("Heparin 5000 units under the skin.", "START heparin 5000 units SC")
NOREPINEPHRINE = ("Norepinephrine 4 mcg per minute.", "START norepinephrine 4 mcg/min IV")
GENTAMICIN = ("Gentamicin 5 mg/kg into the vein.", "START gentamicin 5 mg/kg IV")
POTASSIUM = ("Potassium chloride 20 mmol daily.", "START potassium 20 mmol PO 1x/d")
PREDNISOLONE = ("Prednisolone two tablets of 5 mg.", "START prednisolone 10 mg PO")
RAMIPRIL = ("Increase ramipril to 10 mg.", "START ramipril 10 mg PO 1x/d")
TWO_STOPPED = (
    "Stop the ramipril and the ibuprofen. Continue aspirin 100 mg.",
    "STOP ramipril; STOP ibuprofen; START aspirin 100 mg",
)
RIGHT_DOSES = [
    (METOPROLOL, "Metoprolol 25 mg BID (total daily dose 50 mg)"),
    (METOPROLOL, "Metoprolol: 25 mg PO in the morning and 25 mg PO in the evening"),
    (METOPROLOL, "metoprolol 2 tablets of 12.5 mg"),
    (METOPROLOL, "Metoprolol 12.5 mg x 2 tablets"),
    (METOPROLOL, "| drug | dose |\n|---|---|\n| metoprolol | 25 mg |"),
    (HEPARIN, "Heparin 5000 I.U. SC"),
    (HEPARIN, "heparin five thousand international units"),
    (NOREPINEPHRINE, "norepinephrine 0.24 mg/h"),
    (NOREPINEPHRINE, "Norepinephrine 4 micrograms per minute"),
    (GENTAMICIN, "gentamicin 5mg / kg"),
    (GENTAMICIN, "Gentamicin 5 mg per kilogram"),
    (POTASSIUM, "potassium 20 millimoles"),
    (PREDNISOLONE, "Prednisolone 10 mg as two 5 mg tablets"),
    (PREDNISOLONE, "Prednisolone 10 mg, i.e. 2 tablets of 5 mg"),
    (RAMIPRIL, "Increase ramipril from 5 mg to 10 mg"),
]
WRONG_DOSES = [
    (METOPROLOL, "metoprolol half a tablet of 25 mg"),
    (METOPROLOL, "metoprolol two 25 mg tablets"),
    (METOPROLOL, "Metoprolol one hundred twenty-five mg"),
    (METOPROLOL, "Metoprolol at most 25 mg"),
    (METOPROLOL, "Metoprolol 25 mg/h"),
    (METOPROLOL, "Metoprolol 25 mg/m²"),
    (METOPROLOL, "Metoprolol 25 mg/5 ml"),
    (HEPARIN, "Heparin 5000 units per hour"),
    (HEPARIN, "heparin fifty thousand units"),
    (NOREPINEPHRINE, "norepinephrine 4 mcg"),
    (NOREPINEPHRINE, "norepinephrine 4 mcg/h"),
    (GENTAMICIN, "gentamicin 5 mg/kg/h"),
    (POTASSIUM, "Potassium 200 mmol"),
    (POTASSIUM, "Potassium"),
    (PREDNISOLONE, "Prednisolone 2 tablets"),
    (RAMIPRIL, "Reduce ramipril from 10 mg to 5 mg"),
]
RIGHT_ORDERS = [
    (METOPROLOL, "Metoprolol 25 mg twice a day. Do not crush."),
    (METOPROLOL, "Metoprolol 25 mg twice a day, not to be taken with grapefruit"),
    (METOPROLOL, "Metoprolol 25 mg BID, no known allergies"),
    (METOPROLOL, "Metoprolol 25 mg by mouth, not more often than every 12 hours"),
    (METOPROLOL, "Metoprolol 25 mg BID; stop after 7 days. Finish the course."),
    (METOPROLOL, "Metoprolol 25 mg BID - no dose change needed"),
    (METOPROLOL, "Metoprolol 25 mg BID. Monitor heart rate; hold if HR < 50."),
    (WARFARIN, "Warfarin shouldn't be administered"),
    (WARFARIN, "Warfarin cannot be given"),
    (WARFARIN, "Refrain from giving warfarin"),
    (WARFARIN, "Warfarin dc'd"),
    (WARFARIN, "Hold off on warfarin"),
    (WARFARIN, "Please don't forget to hold warfarin"),
    (WARFARIN, "Warfarin: hold until the bleeding has stopped"),
    (TWO_STOPPED, "Stopped:\n- ramipril\n- ibuprofen\n\nStarted:\n- aspirin 100 mg"),
    (TWO_STOPPED, "| ramipril | stop |\n| ibuprofen | stop |\n| aspirin | 100 mg |"),
    (TWO_STOPPED, "Stop ramipril and also ibuprofen today. Aspirin 100 mg."),
    (SERTRALINE, "Sertraline dose isn't given"),
    (SERTRALINE, "Sertraline: dose unspecified"),
    (SERTRALINE, "Check dose of sertraline with the doctor"),
    (SERTRALINE, "Sertraline ____ mg"),
]
WRONG_ORDERS = [
    (METOPROLOL, "Metoprolol 25 mg is contraindicated"),
    (WARFARIN, "Warfarin isn't held"),
    (WARFARIN, "There is no reason to hold warfarin"),
    (WARFARIN, "Warfarin does not need to be stopped"),
    (WARFARIN, "Do not under any circumstances hold warfarin"),
    (WARFARIN, "Continue warfarin without interruption"),
    (WARFARIN, "Lift the hold on warfarin"),
    (WARFARIN, "Stop holding warfarin"),
    (WARFARIN, "Hold warfarin if the INR is above 4"),
    (WARFARIN, "No change to warfarin"),
    (WARFARIN, "Warfarin is not forbidden"),
    (TWO_STOPPED, "Stop ramipril but not ibuprofen. Aspirin 100 mg."),
    (TWO_STOPPED, "Stop ramipril instead of ibuprofen; aspirin 100 mg"),
    (TWO_STOPPED, "Stopped:\n- ramipril\nContinued:\n- ibuprofen\n- aspirin 100 mg"),
    (SERTRALINE, "No need to ask the dose of sertraline"),
]


@pytest.mark.parametrize(("row", "answer"), RIGHT_DOSES + RIGHT_ORDERS)
def test_more_right_answers(row: tuple[str, str], answer: str) -> None:
    assert set(measure(answer, *row).values()) == {1.0}, measure(answer, *row)


@pytest.mark.parametrize(("row", "answer"), WRONG_DOSES)
def test_a_dose_that_only_looks_right(row: tuple[str, str], answer: str) -> None:
    assert measure(row[1], *row)["orders-safe"] == 1.0
    assert measure(answer, *row)["doses-preserved"] == 0.0


@pytest.mark.parametrize(("row", "answer"), WRONG_ORDERS)
def test_an_order_that_only_looks_right(row: tuple[str, str], answer: str) -> None:
    assert measure(row[1], *row)["orders-safe"] == 1.0
    found = measure(answer, *row)
    assert found["negations-preserved"] == 0.0 or found["questions-preserved"] == 0.0, found


@pytest.mark.parametrize("text", ["one hundred and ", "the total ", "no need to ", "1 000 "])
def test_an_answer_that_repeats_itself_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    judge(MedicationOptions(), METOPROLOL[0], text * (60_000 // len(text)), METOPROLOL[1])
    assert time.process_time() - started < 5
