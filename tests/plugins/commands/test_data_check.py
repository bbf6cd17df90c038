"""``data check`` on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from clean_rows import clean_rows, item_rows, label_rows, plant_wrong_labels
from click.testing import Result

from tunesmith.records import Completion

Tunesmith = Callable[..., Result]


def write(path: Path, rows: Sequence[Completion]) -> None:
    lines = [json.dumps({"prompt": row.prompt, "completion": row.completion}) for row in rows]
    path.write_text("\n".join(lines))


def test_a_clean_file_has_no_findings(tunesmith: Tunesmith, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", clean_rows())
    done = tunesmith("data", "check", "rows.jsonl", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "tunesmith.data-check/1"
    assert found["rows"] == {"train": 800}
    assert found["findings"] == []
    write(tmp_path / "few.jsonl", clean_rows()[:50])
    assert "no findings in 50 train rows" in tunesmith("data", "check", "few.jsonl").stdout


def test_findings_are_a_table_with_examples(tunesmith: Tunesmith, tmp_path: Path) -> None:
    rows = clean_rows()[:90]
    write(tmp_path / "rows.jsonl", [*rows, *rows[:3]])
    done = tunesmith("data", "check", "rows.jsonl")
    assert done.exit_code == 0, done.output
    message = "3 of 93 training rows (3.2 %) repeat an earlier row"
    assert f"warning   duplicates   {message}" in done.stdout
    assert (
        'rows.jsonl:91 "Where is the parcel that I ordered in Leeds on Monday?" repeats'
        in done.stdout
    )
    assert (
        "  to do: remove the copies, which give these rows several times the weight in training"
        in done.stdout
    )


def test_errors_give_exit_code_3(tunesmith: Tunesmith, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", label_rows(["yes"]))
    done = tunesmith("data", "check", "rows.jsonl", "--json")
    assert done.exit_code == 3
    (error, *_) = json.loads(done.stdout)["findings"]
    assert (error["level"], error["where"], error["count"]) == ("error", "data labels", 800)
    assert error["examples"] == ['rows.jsonl:1 "yes"']


def test_test_rows_are_compared(tunesmith: Tunesmith, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", clean_rows()[:50])
    write(tmp_path / "test.jsonl", clean_rows()[:2])
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write('\n{"prompt": "cut off')
    done = tunesmith("data", "check", "rows.jsonl", "--test", "test.jsonl", "--json")
    assert [*json.loads(done.stdout)["skipped"].values()] == [1]
    found = {f["where"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["data leaks"]["level"] == "error"
    assert found["data leaks"]["count"] == 2
    assert len(found["data leaks"]["examples"]) == 2
    done = tunesmith("data", "check", "run.toml", "--test", "test.jsonl")
    assert done.exit_code == 2 and "needs a data file, not a run file" in done.stderr


def test_a_run_file_is_reviewed_with_its_plan(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,needs_plan")
    (tmp_path / "needs_plan.py").write_text(
        "from tunesmith.contracts import Finding\n"
        "from tunesmith.hookspecs import hookimpl\n\n\n"
        "@hookimpl\n"
        "def tunesmith_review_data(plan, train):\n"
        "    text = f'{plan.run.seed} \\x1b[31m'\n"
        "    return [Finding(level='info', where='', message=text, count=1)]\n"
    )
    plugin = ("--plugin", "needs_plan.py")
    done = tunesmith(*plugin, "data", "check", "run.toml", "--json")
    assert done.exit_code == 0, done.output
    assert "needs_plan" in [f["where"] for f in json.loads(done.stdout)["findings"]]
    shown = tunesmith(*plugin, "data", "check", "run.toml")
    assert "needs_plan" in shown.stdout and "\x1b" not in shown.stdout
    write(tmp_path / "few.jsonl", clean_rows()[:5])
    assert "needs_plan" not in tunesmith(*plugin, "data", "check", "few.jsonl").output


def test_rows_that_are_skipped_are_counted(tunesmith: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": ""}\n' + ROW)
    shown = tunesmith("data", "check", "rows.jsonl").stdout
    assert "1 row is skipped: answer is empty, at rows.jsonl:1\n" in shown
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": ""}\n' * 2 + ROW)
    shown = tunesmith("data", "check", "rows.jsonl").stdout
    assert "2 rows are skipped: answer is empty, first at rows.jsonl:1\n" in shown


@pytest.mark.parametrize(("unusable", "code"), [(1, 0), (2, 3)])
def test_more_unusable_rows_than_a_run_accepts_are_an_error(
    tunesmith: Tunesmith, tmp_path: Path, unusable: int, code: int
) -> None:
    write(tmp_path / "rows.jsonl", clean_rows()[: 100 - unusable])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('\n{"prompt": "a", "completion": ""}' * unusable)
    done = tunesmith("data", "check", "rows.jsonl", "--json")
    assert done.exit_code == code, done.output
    found = [f["message"] for f in json.loads(done.stdout)["findings"] if f["level"] == "error"]
    expected = "2 of 100 rows (2.0 %) cannot be used, and a run stops above 1.0 %"
    assert found == [expected][: code and 1]


ROW = '{"prompt": "What is it?", "completion": "A row"}\n'


@pytest.mark.parametrize("text", ["\x1b[31m", "\u202e", "hf_" + "abcdefghij" * 3])
def test_nothing_controls_the_terminal(tunesmith: Tunesmith, tmp_path: Path, text: str) -> None:
    rows = [{"prompt": f"Who? {text}", "completion": f"{text} me"}] * 30
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for options in ((), ("--json",)):
        done = tunesmith("data", "check", "rows.jsonl", *options)
        assert done.exit_code == 3
        assert text not in done.output


def test_label_errors_are_looked_for_on_request(tunesmith: Tunesmith, tmp_path: Path) -> None:
    rows, injected = plant_wrong_labels(item_rows(), 32)
    write(tmp_path / "rows.jsonl", rows)
    usual = json.loads(tunesmith("data", "check", "rows.jsonl", "--json").stdout)
    assert "label_errors" not in usual
    done = tunesmith("data", "check", "rows.jsonl", "--label-errors", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (finding,) = (f for f in found["findings"] if f["where"] == "data label errors")
    assert finding["level"] == "warning" and 25 <= finding["count"] <= 32
    assert 'has the label "' in finding["examples"][0]
    suspects = found["label_errors"]["suspects"]
    first = {row["source"] for row in suspects[:32]}
    assert len(first & {f"rows.jsonl:{number + 1}" for number in injected}) >= 30
    shares = r"\d+(\.\d)? % to \d+(\.\d)? %"
    assert re.match(
        f"{shares} of the labels look wrong, according to a classifier", finding["message"]
    )
    write(tmp_path / "text.jsonl", clean_rows()[:50])
    done = tunesmith("data", "check", "text.jsonl", "--label-errors")
    assert done.exit_code == 3 and "the answers are not labels" in done.stderr


def test_sums_that_differ_in_a_sign_are_no_leaks(tunesmith: Tunesmith, tmp_path: Path) -> None:
    def sums(sign: str) -> list[Completion]:
        return [
            Completion(source="", prompt=f"What is {a} {sign} {b}?", completion=str(a * 100 + b))
            for a in range(12, 30)
            for b in range(7, 12)
        ]

    write(tmp_path / "plus.jsonl", sums("+"))
    write(tmp_path / "minus.jsonl", sums("-"))
    done = tunesmith("data", "check", "plus.jsonl", "--test", "minus.jsonl", "--json")
    assert done.exit_code == 0, done.output
    leaks = [
        f["message"] for f in json.loads(done.stdout)["findings"] if f["where"] == "data leaks"
    ]
    assert not any("have the prompt" in message for message in leaks)
    write(tmp_path / "minus.jsonl", sums("+"))
    assert tunesmith("data", "check", "plus.jsonl", "--test", "minus.jsonl").exit_code == 3
