"""The check finds what identifies a patient, and is quiet about ordinary orders."""

from __future__ import annotations

import pytest

from tunesmith.records import Chat, Completion, Message
from tunesmith_recipes_health.patient_data import review

FOUND = {
    "Mrs Okafor has a fever": "name",
    "Pt. Miller was moved to bed four": "name",
    "Mr O’Brien sleeps": "name",
    "seen by Ms Müller and Mr Li": "name",
    "Patient: J. Özdemir": "name",
    "Patient name: Ada Miller": "name",
    "a 93-year-old man with a cough": "age",
    "104 y/o, short of breath": "age",
    "aged 95, lives alone": "age",
    "91 years of age": "age",
    "She was admitted on 03/04/2026 with pain": "date",
    "Discharge date: 2026-05-01": "date",
    "Date of death: 1 May 2026": "date",
    "admitted on March 3 with pain": "date",
    "On 03/04/2026 she was admitted": "date",
    "Ms. van der Berg coughs": "name",
    "MR SMITH complains of pain": "name",
    "Herr Müller, bed two": "name",
    "Pt: Miller": "name",
    "the patient's name is John": "name",
    "a 95 y.o. woman": "age",
    "97 years-old": "age",
    "aged ninety-two": "age",
    "discharged on the 3rd of May": "date",
    "Discharged May 3rd": "date",
    "DOD: 1/2/2024": "date",
}
QUIET = (
    "Start metoprolol 25 mg by mouth twice a day.",
    "a 63-year-old woman",
    "keep for 95 days",
    "patient feels better, 93 % saturation",
    "version 2026-05-01 of the guideline",
    "Patient Information and History",
    "Pt. Denies pain, the patient Reports nausea",
    "a baby aged 90 days; page 95; a dosage 95 mg",
    "MR imaging in MS",
    "3 marked lesions at discharge, in 5 separate doses",
    "discharge may take 2 days",
    "MR IMAGING OF THE HEAD",
    "99 yrs of data, incubated and aged 95 minutes",
    "Patient: Female. Pt Female. Patient Reported outcomes.",
)


@pytest.mark.parametrize("text", FOUND)
def test_an_identifier_is_found(text: str) -> None:
    rows = [Completion(source="row:1", prompt=text, completion="ok")]
    chat = Chat(source="row:2", messages=(Message("user", "hi"), Message("assistant", text)))
    for part in ([rows, [], []], [[], [], [chat]]):
        (finding,) = review(*part)
        assert FOUND[text] in finding.message and finding.level == "warning"
        assert text not in str(finding), "a finding must not repeat the identifier"


@pytest.mark.parametrize("text", QUIET)
def test_ordinary_text_is_not(text: str) -> None:
    assert not [*review([Completion(source="row:1", prompt=text, completion="ok")], [], [])]
