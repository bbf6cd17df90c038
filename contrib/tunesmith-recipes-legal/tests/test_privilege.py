"""The check finds marks of privilege, and is quiet about ordinary clauses."""

from __future__ import annotations

import pytest

from tunesmith.records import Chat, Completion, Message
from tunesmith_recipes_legal.privilege import review

FOUND = {
    "ATTORNEY-CLIENT communication": "attorney-client",
    "Attorney–Client Privileged": "attorney-client",
    "Solicitor/client privilege applies": "attorney-client",
    "Privileged and Confidential": "attorney-client",
    "CONFIDENTIAL & PRIVILEGED": "attorney-client",
    "Attorney Work Product": "work product",
    "the attorneys’ work-product": "work product",
    "protected by the work product doctrine": "work product",
    "Memo prepared in anticipation of litigation": "work product",
    "WITHOUT PREJUDICE: our offer": "settlement",
    "For settlement purposes only": "settlement",
    "Subject to FRE Rule 408": "settlement",
    "Inadmissible under Federal Rule of Evidence 408": "settlement",
    "Confidential Settlement Offer": "settlement",
    "subject to legal professional privilege": "attorney-client",
    "Joint defense privilege": "attorney-client",
    "PRIVILEGED, CONFIDENTIAL": "attorney-client",
    "Confidential – Privileged": "attorney-client",
    "Prepared in contemplation of litigation": "work product",
    "prepared at the request of counsel": "work product",
}
QUIET = (
    "7.1 All liability is excluded.",
    "Confidential information stays secret.",
    "The client of the attorney moved.",
    "settlement of invoices within 30 days",
    "4.2 All work product of the Contractor belongs to the Customer.",
    "9.1 This right exists without prejudice to other rights.",
    "12.1 The parties first enter settlement discussions.",
    "The attorney, the client and the court agree.",
    "the legal privileges of shareholders",
    "a privileged user with the least privilege",
)


@pytest.mark.parametrize("text", FOUND)
def test_a_mark_is_found(text: str) -> None:
    rows = [Completion(source="row:1", prompt=text, completion="ok")]
    chat = Chat(source="row:2", messages=(Message("user", "hi"), Message("assistant", text)))
    for part in ([rows, [], []], [[], [], [chat]]):
        (finding,) = review(*part)
        assert FOUND[text] in finding.message and finding.level == "warning"


@pytest.mark.parametrize("text", QUIET)
def test_ordinary_text_is_not(text: str) -> None:
    assert not [*review([Completion(source="row:1", prompt=text, completion="ok")], [], [])]
