"""Texts are found and replaced in every form, and texts of other users stay."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import markupsafe
import pytest

from tunesmith.events import CompletionSampled
from tunesmith.storage import EventLog, commit_folder, verify_folder
from tunesmith_personal import forget
from tunesmith_personal.forget import GONE, UserTexts

TEXT = 'Grüße an "Ann" & <Ben>, wie\'s immer war: ausführlich und vertraulich gemeint'


def make_texts(*texts: str) -> UserTexts:
    return UserTexts.make("user-1", texts)


def test_every_form_of_a_text_is_replaced(tmp_path: Path) -> None:
    forms = (
        TEXT, json.dumps(TEXT), json.dumps(TEXT, ensure_ascii=False), html.escape(TEXT),
        str(markupsafe.escape(TEXT)),
    )  # fmt: skip
    for number, form in enumerate(forms):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"before {form} after", encoding="utf-8")
        texts = make_texts(TEXT)
        assert texts.is_in(path)
        forget._replace_texts(path, texts)
        assert not texts.is_in(path)
        content = path.read_text(encoding="utf-8")
        assert GONE in content and content.startswith("before ") and content.endswith(" after")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("user-1 and user-10, user-1.", "(forgotten) and user-10, (forgotten)."),
        ("user-1@x.org; a.user-1; x-user-1", "user-1@x.org; a.user-1; x-user-1"),
        ('{"served": 1, "x": "served"}', '{"served": 1, "x": "(forgotten)"}'),
        ('{"user-1": 2}', '{"(forgotten)": 2}'),
        ('{"n": 104233, "x": "104233"}', '{"n": 104233, "x": "(forgotten)"}'),
        (r'{"x": "as\nserved\nhere"}', r'{"x": "as\n(forgotten)\nhere"}'),
        ("reserved, served’s, Übserved", "reserved, (forgotten)’s, Übserved"),
    ],
)  # fmt: skip
def test_other_users_and_the_structure_of_files_are_kept(before: str, after: str) -> None:
    texts = make_texts("served", "104233")
    assert texts.replace_in(before.encode()) == after.encode()
    assert texts.replace_in(b"\xff" + before.encode()) == b"\xff" + after.encode()


def test_rows_of_the_saved_winner_are_deleted_and_its_folder_stays_valid(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "Completion", "group": g}) + "\n" for g in ("ann", "ben", None)]

    def write(folder: Path) -> None:
        (folder / "winner.json").write_text("{}", encoding="utf-8")
        (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")

    winner = commit_folder(tmp_path / "winner", write)
    forget._clear_winner(winner, "ann")
    assert not verify_folder(winner)
    assert (winner / "train.jsonl").read_text(encoding="utf-8") == "".join(lines[1:])
    forget._clear_winner(tmp_path / "none", "ann")


def test_texts_that_other_users_have_too_are_kept() -> None:
    """Also as a part of another text, and the start that a report shows of a long text."""
    start = "a long text that starts the same way for everybody and ends "
    texts = UserTexts.make("user-1", [f"{start}here"], rest=f"{start}there")
    assert texts.replace_in(f"{start}there".encode()) == f"{start}there".encode()
    assert GONE.encode() in texts.replace_in(f"x {start}here".encode())


def test_scores_of_a_row_are_kept_without_its_texts() -> None:
    row = {
        "row": 3, "source": "rows:3", "prompt": [["user", TEXT]], "expected": TEXT, "group": "ann",
        "slices": {"city": "Ulm"}, "output": TEXT, "served": {"value": 1.0, "weight": 1.0},
    }  # fmt: skip
    cleared = forget._clear(row)
    assert cleared["served"] == row["served"] and cleared["row"] == 3 and "slices" not in cleared
    assert "Ann" not in json.dumps(cleared) and "ann" not in json.dumps(cleared)


def test_examples_and_samples_are_removed_from_the_events(tmp_path: Path) -> None:
    """In a log as tunesmith writes it."""
    path = tmp_path / "events.jsonl"
    events: list[dict[str, Any]] = [
        {"event": "finding-reported", "message": "m", "examples": [TEXT]},
        {"event": "step-finished", "loss": 1.0},
    ]
    sampled = CompletionSampled(step=1, prompt=TEXT, completion=TEXT, reward=0.0).to_json()
    with EventLog(path) as log:
        for event in (*events, sampled):
            log.append(event)
    forget._clear_events(path)
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in kept] == ["finding-reported", "step-finished"]
    assert kept[0]["examples"] == []
