"""Generate this recipe's documents and rows: ``python generate.py``.

The formulary of an invented hospital lists invented drugs. Training, validation and test rows ask
about different drugs, because a formulary changes: what matters is the answer for a drug that was
added after the training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 5
PARTS = {"train": 22, "validation": 8, "test": 20}
"""Number of drugs that the rows of each part ask about."""
CLASSES = {
    "Blood pressure": "Velodipine Tamoril Castopril Nebrasol Orvasartan",
    "Pain": "Dolmetan Pyrexol Analdine Morvacet Ibutrel",
    "Infections": "Cefloran Amprox Vancilid Tetrason Zolmycin",
    "Diabetes": "Glucorin Metavance Insulara Sitaprel Glipovan",
    "Asthma": "Respiron Bronchelle Formavent Budesal Airolast",
    "Stomach": "Gastrilan Pantavor Omezil Raniprol Motilex",
    "Sleep and mood": "Somnelle Seratine Citavor Mirtavan Zopirest",
    "Blood": "Coaguron Heparal Apixone Ferrovit Clopidan",
    "Epilepsy": "Levetral Valproxan Lamorine Gabatrel Topiran",
    "Eyes and skin": "Latanelle Timoptol Dermacort Clobeson Retivane",
}
LIMIT = (
    "The maximum daily dose of {drug} is {value}.",
    "Do not exceed {value} of {drug} per day.",
    "Adults get at most {value} of {drug} in 24 hours.",
)
STORAGE = (
    "Store {drug} {value}.",
    "Keep {drug} {value}.",
    "{drug} has to be kept {value}.",
)
PRESCRIBER = (
    "{drug} may be prescribed by {value}.",
    "Prescriptions of {drug} need the signature of {value}.",
    "Only {value} can order {drug}.",
)
PLACES = ("in the fridge", "at room temperature", "in the locked cabinet", "in a dark place")
PEOPLE = ("any doctor", "a consultant", "the pain team", "the duty pharmacist", "a ward nurse")
QUESTIONS = {
    "limit": (
        "What is the maximum dose of {drug} per day?",
        "How much {drug} can a patient get in a day?",
        "The daily limit for {drug}?",
    ),
    "storage": (
        "Where do we keep {drug}?",
        "How is {drug} stored?",
        "Where does {drug} go after delivery?",
    ),
    "prescriber": (
        "Who may prescribe {drug}?",
        "Who has to sign for {drug}?",
        "Whom do I ask for an order of {drug}?",
    ),
}


def main() -> None:
    """Write the documents and the rows next to this file."""
    rng, here = random.Random(SEED), Path(__file__).parent
    (here / "formulary").mkdir(exist_ok=True)
    facts: dict[str, dict[str, str]] = {}
    for title, names in CLASSES.items():
        sections = []
        for drug in names.split():
            facts[drug] = {
                "limit": f"{rng.choice((5, 8, 12, 15, 20, 25, 40, 60, 80, 120, 150, 240, 300))} mg",
                "storage": rng.choice(PLACES),
                "prescriber": rng.choice(PEOPLE),
            }
            forms = {"limit": LIMIT, "storage": STORAGE, "prescriber": PRESCRIBER}
            said = [
                rng.choice(forms[kind]).format(drug=drug, value=value)
                for kind, value in rng.sample([*facts[drug].items()], 3)
            ]
            sections.append(f"## {drug}\n\n" + "\n\n".join(said))
        name = title.casefold().replace(" ", "-")
        page = f"# {title}\n\n" + "\n\n".join(sections) + "\n"
        (here / "formulary" / f"{name}.md").write_text(page, encoding="utf-8")
    drugs = rng.sample([*facts], len(facts))
    for part, count in PARTS.items():
        chosen, drugs = drugs[:count], drugs[count:]
        rows = [
            {"prompt": rng.choice(QUESTIONS[kind]).format(drug=drug), "completion": answer}
            for drug in chosen
            for kind, answer in facts[drug].items()
        ]
        rng.shuffle(rows)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (here / f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
