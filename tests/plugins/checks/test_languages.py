"""Languages: prompts in another one than most, and answers in another one than their prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clean_rows import clean_rows, label_rows, show

from tunesmith.install import install_extra
from tunesmith.records import Completion, Text
from tunesmith_plugins.checks import languages as module
from tunesmith_plugins.checks.languages import review
from tunesmith_plugins.checks.languages.identify import identify_language, identify_languages

GERMAN = "Wo ist das Paket, das ich am Montag in München bestellt habe?"
FRENCH = "Votre colis est parti lundi matin et il arrivera dans deux jours ouvrables."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        (FRENCH, "fr"),
        ("Where is the parcel that I ordered in Leeds on Monday?", "en"),
        ("她周一去了学校但是却发现没有其他的同学", "zh"),
        ("Где находится посылка, которую я заказал в понедельник?", "ru"),
        ("Wo?", ""),
        ("", ""),
        ("4532 1245 7785 1123 5527 9942 1 2 3", ""),
        ("find . -name '*.tmp' -exec rm {} +", ""),
        ("\ud800" * 30, ""),
    ],
)
def test_the_language_of_a_text(text: str, language: str) -> None:
    assert identify_language(text) == language


@pytest.mark.parametrize("rows", [[], clean_rows(), label_rows()])
def test_rows_of_one_language_have_no_findings(rows: list[Completion]) -> None:
    assert review(rows) == []


PIDGIN = "Di man wey dey work for di office don go house."
LOOKS_LIKE_PIDGIN = (
    "check invoice from September",
    "set in Nigeria and starring Colin Firth",
    "South Korea on September 12",
    "one on 30 September and the other on 2 October",
)


def test_short_texts_could_be_in_a_related_language() -> None:
    rows = [replace(row, prompt=LOOKS_LIKE_PIDGIN[n % 4]) for n, row in enumerate(clean_rows())]
    assert {identify_language(text) for text in LOOKS_LIKE_PIDGIN} == {"pcm"}
    assert all("en" in identify_languages(text) for text in LOOKS_LIKE_PIDGIN)
    assert review([*clean_rows(), *rows[:20]]) == []
    assert identify_languages(GERMAN) == ("de",) and identify_languages("Wo?") == ()
    (rare,) = review([*clean_rows(), replace(clean_rows()[0], prompt=PIDGIN)])
    assert rare.message.endswith("in the main language, en: 1 pcm")


def test_prompts_in_rare_languages_are_listed() -> None:
    rows = clean_rows()[:100]
    foreign = [replace(row, prompt=GERMAN) for row in label_rows()[:3]]
    (finding,) = review([*rows, *foreign])
    assert (finding.level, finding.count) == ("info", 3)
    assert finding.message == (
        "3 of 103 training prompts (2.9 %) are not in the main language, en: 3 de"
    )
    assert finding.examples[0] == f'rows.jsonl:1 "{GERMAN[:59]}…" is de'


def test_rows_whose_language_is_unclear_are_counted_apart() -> None:
    rows = [replace(row, prompt=GERMAN) for row in label_rows()[:3]]
    short = [replace(row, prompt="Wo?") for row in label_rows()[:40]]
    (finding,) = review([*clean_rows()[:100], *rows, *short])
    assert finding.message == (
        "3 of 103 training prompts (2.9 %) are not in the main language, en: 3 de; "
        "the language of 40 other rows is unclear"
    )


def test_answers_in_another_language_are_found() -> None:
    rows = clean_rows()[:100]
    rows[10] = replace(rows[10], completion=FRENCH)
    (finding,) = review(rows)
    assert (finding.level, finding.count) == ("warning", 1)
    assert "1 of 100 answers (1.0 %) are in a different language than their prompt" in show(finding)
    assert finding.examples[0].endswith("is en, answer fr")
    (finding,) = review([replace(row, completion=FRENCH) for row in rows])
    assert finding.level == "info", "a translation is the task"
    assert finding.message.startswith("100 of 100 answers (100 %)")


def test_of_many_rows_some_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_ROWS", 100)
    rows: list[Completion | Text] = [*clean_rows()]
    rows[400] = Text(source="rows.jsonl:401", text=FRENCH)
    (finding,) = review(rows)
    assert finding.message.endswith("en: 1 fr, in a sample of 100 rows")


def test_without_the_library_a_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (finding,) = review(clean_rows())
    assert finding.level == "info" and finding.hint == install_extra("data")
