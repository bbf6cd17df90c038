"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is an excerpt of an invented contract, and the note of a lawyer who compares it with the
playbook of an invented buyer. The playbook is in no prompt. Test rows have other parties, and a
third of their deviating clauses have a wording that no training clause has.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRAIN_ROWS, TEST_ROWS = 320, 120
SEED = 17
PARTIES = {
    "train": ("the Supplier", "the Vendor", "Provider", "the Contractor"),
    "test": ("the Licensor", "the Consultant"),
}


@dataclass(frozen=True)
class Subject:
    """A subject that the playbook covers, with clauses that keep to it and that depart from it."""

    name: str
    risk: str
    kept: Sequence[str]
    departs: Sequence[str]
    """The last one is only used in test rows."""


SUBJECTS = (
    Subject(
        "liability",
        "HIGH",
        ("{party}'s liability is limited to the fees of twelve months.",
         "Liability is capped at the annual fees, except for intent."),
        ("{party} accepts no liability whatsoever.",
         "All liability of {party} is excluded.",
         "Customer waives every claim for damages against {party}."),
    ),
    Subject(
        "notice",
        "MEDIUM",
        ("Either party may terminate with {short} days' notice.",
         "The notice period is {short} days."),
        ("Customer may terminate with {long} days' notice.",
         "The notice period is {long} days.",
         "Termination takes effect {long} days after it was received."),
    ),
    Subject(
        "payment",
        "MEDIUM",
        ("Invoices are due within {long} days.",
         "Customer pays within {long} days of the invoice."),
        ("Invoices are due within {few} days.",
         "Customer pays within {few} days of the invoice.",
         "Fees have to reach {party} {few} days after invoicing."),
    ),
    Subject(
        "renewal",
        "MEDIUM",
        ("The agreement ends after one year.",
         "A renewal needs the written consent of both parties."),
        ("The agreement renews itself for three years.",
         "The term is extended automatically by two years.",
         "Unless canceled, a new term of four years begins."),
    ),
    Subject(
        "law",
        "HIGH",
        ("This agreement is governed by the law of the Customer's seat.",
         "The courts at the Customer's seat have jurisdiction."),
        ("This agreement is governed by the law of a country that {party} chooses.",
         "The courts at the seat of {party} have jurisdiction.",
         "Disputes are decided where {party} resides."),
    ),
    Subject(
        "data",
        "HIGH",
        ("{party} processes personal data only on instruction.",
         "Personal data is deleted when the agreement ends."),
        ("{party} may share personal data with its partners.",
         "{party} may use the Customer's data for its own purposes.",
         "Data of the Customer may be passed on to third parties."),
    ),
    Subject(
        "exclusivity",
        "HIGH",
        ("Customer may buy similar services elsewhere.",
         "The agreement is not exclusive."),
        ("Customer buys all such services from {party} alone.",
         "The agreement is exclusive for the Customer.",
         "Customer must not engage another provider."),
    ),
    Subject(
        "changes",
        "MEDIUM",
        ("Changes need the signature of both parties.",
         "Prices are fixed for the whole term."),
        ("{party} may change prices at any time.",
         "{party} may amend these terms by a note on its website.",
         "Fees can be raised by {party} without consent."),
    ),
)  # fmt: skip


def make_row(part: str, rng: random.Random) -> dict[str, str]:
    """Return an excerpt of two to four clauses with its note."""
    article = rng.randrange(2, 16)
    number = rng.randrange(1, 5)
    clauses, notes = [], []
    for subject in rng.sample(SUBJECTS, rng.choice((2, 3, 3, 4))):
        departs = rng.random() < 0.5
        forms = subject.departs if departs else subject.kept
        if departs and part == "train":
            forms = forms[:-1]
        values = {
            "party": rng.choice(PARTIES[part]),
            "short": rng.choice((14, 20, 30)),
            "long": rng.choice((60, 75, 90, 120)),
            "few": rng.choice((5, 7, 10)),
        }
        text = rng.choice(forms).format(**values)
        clauses.append(f"{article}.{number} {text[0].upper()}{text[1:]}")
        if departs:
            notes.append(f"{subject.risk} {article}.{number} {subject.name}")
        number += rng.choice((1, 1, 2))
    return {"prompt": " ".join(clauses), "completion": "; ".join(notes) or "OK"}


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    for part, count in {"train": TRAIN_ROWS, "test": TEST_ROWS}.items():
        rows: dict[str, dict[str, str]] = {}
        while len(rows) < count:
            row = make_row(part, rng)
            rows.setdefault(row["prompt"], row)
        text = "".join(json.dumps(row) + "\n" for row in rows.values())
        Path(__file__).with_name(f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
