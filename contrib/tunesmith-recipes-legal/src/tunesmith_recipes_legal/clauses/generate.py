"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is a clause of an invented contract and its type. Test clauses differ from
training clauses, with other parties.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 19
ROWS = {"train": 25, "test": 20}
"""Rows of each type."""
PARTIES = {
    "train": ("the Supplier", "the Vendor", "the Contractor", "Alder Ltd", "Brook GmbH"),
    "test": ("the Licensor", "the Consultant", "Cedar Inc", "Dune BV"),
}
CLAUSES = {
    "confidentiality": {
        "train": (
            "{party} keeps all information received from the Customer secret.",
            "Neither party discloses the terms of this agreement to anyone.",
            "Confidential information may only be shown to staff who need it.",
            "{party} returns or destroys all confidential documents on request.",
            "The duty of secrecy lasts five years beyond the end of this agreement.",
        ),
        "test": (
            "What {party} learns about the Customer's business stays between the parties.",
            "{party} protects trade secrets with the care that it uses for its own.",
            "Publishing any part of the exchanged know-how is forbidden to {party}.",
            "Employees of {party} sign a secrecy undertaking.",
        ),
    },
    "payment": {
        "train": (
            "The Customer pays invoices of {party} within thirty days.",
            "Late payments bear interest of five percent.",
            "All fees are stated without value added tax.",
            "{party} sends an invoice at the end of each month.",
            "The price is due in two equal instalments.",
        ),
        "test": (
            "The remuneration of {party} is transferred at the beginning of a quarter.",
            "Travel costs of {party} are reimbursed against receipts.",
            "If the Customer is in arrears, {party} may charge a reminder fee.",
            "A deposit of twenty percent is owed to {party} on signing.",
        ),
    },
    "termination": {
        "train": (
            "Either party may terminate this agreement with three months' notice.",
            "{party} may end the agreement if the Customer is insolvent.",
            "Termination needs the written form.",
            "The right to terminate for good cause remains unaffected.",
            "This agreement ends without notice after two years.",
        ),
        "test": (
            "The contract can be canceled by {party} at the end of a calendar year.",
            "In case of a serious breach {party} can end it at once.",
            "On expiry, {party} hands over all running work.",
            "Giving notice before the first anniversary is excluded for {party}.",
        ),
    },
    "liability": {
        "train": (
            "{party} is liable for intent and gross negligence.",
            "Liability for lost profit is excluded.",
            "The total liability of {party} is limited to the annual fees.",
            "Claims for damages expire after one year.",
            "{party} indemnifies the Customer against claims of third parties.",
        ),
        "test": (
            "{party} compensates harm only up to the insured sum.",
            "For slight carelessness {party} does not have to answer.",
            "{party} holds the Customer harmless if somebody else sues.",
            "Consequential losses are not made good by {party}.",
        ),
    },
    "intellectual property": {
        "train": (
            "All rights in the software remain with {party}.",
            "The Customer receives a simple, unlimited licence to the results.",
            "Inventions made during the project belong to the Customer.",
            "{party} may not use the Customer's trade marks.",
            "The source code is handed over together with all rights of use.",
        ),
        "test": (
            "{party} grants the exclusive right to copy and edit the works.",
            "Patents that {party} obtains for the product are assigned to the Customer.",
            "The copyright in the designs of {party} is not transferred.",
            "{party} warrants that no rights of authors are infringed.",
        ),
    },
    "data protection": {
        "train": (
            "{party} processes personal data only on documented instructions.",
            "Personal data is stored within the European Union.",
            "{party} reports a breach of personal data within 48 hours.",
            "Data subjects' requests are passed on to the Customer.",
            "{party} deletes all personal data when the agreement ends.",
        ),
        "test": (
            "{party} names a data protection officer.",
            "Sub-processors of {party} need the approval of the controller.",
            "{party} keeps a record of its processing of customer records.",
            "The privacy of the persons concerned is safeguarded by {party}.",
        ),
    },
    "force majeure": {
        "train": (
            "Neither party answers for delays caused by war, flood or strikes.",
            "{party} is released from its duties as long as the event lasts.",
            "Events beyond the control of {party} extend all deadlines.",
            "If a natural disaster lasts over sixty days, both may withdraw.",
            "Epidemics and embargoes count as force majeure.",
        ),
        "test": (
            "Earthquakes and riots suspend the obligations of {party}.",
            "{party} informs the Customer at once of an unforeseeable obstacle.",
            "Power cuts that {party} could not prevent excuse non-performance.",
            "Acts of God relieve {party} of its promises.",
        ),
    },
    "governing law": {
        "train": (
            "This agreement is governed by the laws of Norway.",
            "The courts of Zurich have exclusive jurisdiction.",
            "The United Nations sales convention does not apply.",
            "Disputes with {party} are settled by arbitration in Vienna.",
            "The place of jurisdiction is the seat of {party}.",
        ),
        "test": (
            "Irish law applies to all claims of {party}.",
            "An arbitral tribunal in Singapore decides quarrels with {party}.",
            "The competent court is the one where {party} is registered.",
            "Conflict-of-law rules are excluded between the Customer and {party}.",
        ),
    },
}
PREFIXES = ("", "{n}.1 ", "§ {n} ", "({n}) ", "Section {n}: ", "{n}. ")


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    for part, count in ROWS.items():
        rows: dict[str, dict[str, str]] = {}
        for kind, clauses in CLAUSES.items():
            wanted = len(rows) + count
            while len(rows) < wanted:
                text = rng.choice(clauses[part]).format(party=rng.choice(PARTIES[part]))
                prefix = rng.choice(PREFIXES).format(n=rng.randrange(2, 25))
                prompt = f"{prefix}{text[0].upper()}{text[1:]}"
                rows.setdefault(prompt, {"prompt": prompt, "completion": kind})
        chosen = [*rows.values()]
        rng.shuffle(chosen)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        Path(__file__).with_name(f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
