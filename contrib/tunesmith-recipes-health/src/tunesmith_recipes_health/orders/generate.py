"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is what a doctor dictates on a round, and the orders that the ward writes down. No drug of the
test rows occurs in the training rows. The doses are usual ones, but the rows are invented: nothing
here is medical advice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

TRAIN_ROWS, TEST_ROWS = 320, 120
SEED = 3

TRAIN_DRUGS: Mapping[str, Sequence[str]] = {
    "PO": (
        "metoprolol 25 mg", "lisinopril 10 mg", "amlodipine 5 mg", "atorvastatin 40 mg",
        "furosemide 20 mg", "spironolactone 50 mg", "warfarin 2.5 mg", "digoxin 125 mcg",
        "levothyroxine 75 mcg", "prednisone 7.5 mg", "metformin 500 mg", "omeprazole 20 mg",
        "sertraline 50 mg", "gabapentin 300 mg", "allopurinol 100 mg", "amoxicillin 1 g",
        "ibuprofen 400 mg", "ramipril 1.25 mg", "clonidine 75 mcg", "colchicine 500 mcg",
    ),
    "SC": ("enoxaparin 40 mg", "insulin glargine 12 units", "heparin 5000 units"),
    "IV": ("ceftriaxone 2 g", "vancomycin 750 mg", "morphine 2.5 mg", "ondansetron 4 mg"),
    "INH": ("salbutamol 2 puffs", "budesonide 1 puff"),
    "SL": ("nitroglycerin 400 mcg",),
}  # fmt: skip
"""Drugs with a usual dose, by route."""
TEST_DRUGS: Mapping[str, Sequence[str]] = {
    "PO": (
        "bisoprolol 2.5 mg", "losartan 50 mg", "candesartan 8 mg", "rosuvastatin 20 mg",
        "torasemide 10 mg", "apixaban 5 mg", "pantoprazole 40 mg", "citalopram 20 mg",
        "pregabalin 75 mg", "cefuroxime 500 mg", "naproxen 250 mg", "fludrocortisone 100 mcg",
        "liothyronine 25 mcg", "doxycycline 100 mg",
    ),
    "SC": ("dalteparin 5000 units", "insulin lispro 6 units"),
    "IV": ("meropenem 1 g", "gentamicin 240 mg"),
    "INH": ("formoterol 2 puffs",),
    "SL": ("buprenorphine 200 mcg",),
}  # fmt: skip
ROUTES = {
    "PO": ("by mouth", "orally", "po"),
    "SC": ("under the skin", "subcutaneously"),
    "IV": ("into the vein", "intravenously"),
    "INH": ("inhaled", "by inhaler"),
    "SL": ("under the tongue",),
}
FREQUENCIES = {
    "1x/d": ("once a day", "daily", "every morning"),
    "2x/d": ("twice a day", "morning and evening", "twice daily"),
    "3x/d": ("three times a day", "with each meal"),
    "q6h": ("every six hours", "every 6 hours"),
    "night": ("at night", "at bedtime"),
    "prn": ("as needed", "when he asks for it", "if needed"),
}
UNITS = {
    "mg": ("mg", "milligrams", "milligram"),
    "mcg": ("micrograms", "mcg"),
    "g": ("g", "grams"),
    "units": ("units",),
    "puffs": ("puffs",),
    "puff": ("puff",),
}
STARTS = (
    "start {drug} {dose} {route} {often}",
    "please give {drug}, {dose} {route}, {often}",
    "let us put this patient on {drug} {dose} {route} {often}",
    "{drug} {dose} {often}, {route}",
    "add {drug} {route}, {dose} {often}",
)
STOPS = (
    "stop the {drug}",
    "no more {drug}",
    "discontinue {drug} for good",
    "we can end the {drug}",
)
HOLDS = (
    "hold the {drug} until the labs are back",
    "pause {drug} for now",
    "do not give {drug} today",
    "no {drug} until tomorrow",
)
UNCLEAR = (
    "start {drug} {route} {often}",
    "give some {drug} {often}",
    "{drug} as before, {often}",
)
OPENINGS = (
    "Bed four.",
    "Next one.",
    "The lady by the window.",
    "Potassium is fine.",
    "Looks better.",
)


def dictate_dose(dose: str, rng: random.Random) -> str:
    """Return a dose as it may be dictated, also in another unit."""
    number, unit = dose.split()
    if unit == "mcg" and rng.random() < 0.5:
        number, unit = f"{int(number) / 1000:g}", "mg"  # the ward writes micrograms
    elif unit == "mg" and number == "500" and rng.random() < 0.5:
        return "half a gram"
    elif unit == "units" and int(number) >= 1000 and rng.random() < 0.5:
        number = f"{int(number):,}"
    return f"{number} {rng.choice(UNITS[unit])}"


def make_row(drugs: Mapping[str, Sequence[str]], rng: random.Random) -> dict[str, str]:
    """Return a dictation of one to three orders, with the orders in the ward's notation."""
    entries = [(route, entry) for route, listed in drugs.items() for entry in listed]
    said, written = [], []
    for route, entry in rng.sample(entries, rng.choice((1, 2, 2, 3))):
        *name, number, unit = entry.split()
        drug, dose = " ".join(name), f"{number} {unit}"
        code, often = rng.choice([*FREQUENCIES.items()])
        words = {
            "drug": drug,
            "dose": dictate_dose(dose, rng),
            "route": rng.choice(ROUTES[route]),
            "often": rng.choice(often),
        }
        kind = rng.choices(("start", "stop", "hold", "unclear"), (5, 2, 2, 1))[0]
        forms = {"start": STARTS, "stop": STOPS, "hold": HOLDS, "unclear": UNCLEAR}[kind]
        said.append(rng.choice(forms).format(**words))
        orders = {
            "start": f"START {drug} {dose} {route} {code}",
            "stop": f"STOP {drug}",
            "hold": f"HOLD {drug}",
            "unclear": f"ASK dose of {drug}",
        }
        written.append(orders[kind])
    text = ". ".join(sentence[0].upper() + sentence[1:] for sentence in said) + "."
    if rng.random() < 0.4:
        text = f"{rng.choice(OPENINGS)} {text}"
    return {"prompt": text, "completion": "; ".join(written)}


def make_rows(
    drugs: Mapping[str, Sequence[str]], count: int, rng: random.Random
) -> list[dict[str, str]]:
    """Return rows with different prompts."""
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        row = make_row(drugs, rng)
        rows.setdefault(row["prompt"], row)
    return [*rows.values()]


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    parts = {"train": (TRAIN_DRUGS, TRAIN_ROWS), "test": (TEST_DRUGS, TEST_ROWS)}
    for name, (drugs, count) in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in make_rows(drugs, count, rng))
        Path(__file__).with_name(f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
