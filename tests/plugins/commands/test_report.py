"""The ``report`` command: regressions, replayed events, and runs without an end."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.plugins.commands.conftest import Tunesmith

from tunesmith.events import Measured
from tunesmith.statistics import mean_interval
from tunesmith.storage import RunFolder, lock
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.statistics import compare
from tunesmith_plugins.reporters.console.event_text import format_measurement
from tunesmith_plugins.reporters.html.offer import HTML, HtmlOptions


def test_report_shows_regressions(tunesmith: Tunesmith, finished: Path) -> None:
    baseline = json.loads((finished / "report.json").read_text())["verdict"]["baseline"]
    path = finished / "evaluations" / f"{baseline}.same.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    after = finished / "evaluations" / "tuned.same.jsonl"
    worse = [json.loads(line) for line in after.read_text().splitlines()]
    rows[2]["same"]["value"], rows[2]["output"] = 1.0, "it knew"
    worse[2]["same"]["value"], worse[2]["output"] = 0.0, "it forgot"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    after.write_text("".join(json.dumps(row) + "\n" for row in worse))
    done = tunesmith("report", finished)
    assert done.exit_code == 0, done.output
    assert "another model did better on" in done.stdout
    found = done.stdout[done.stdout.index(f"{rows[2]['source']}, got worse") :].splitlines()[:5]
    assert "prompt" in found[1] and found[1].split(maxsplit=1)[1] == rows[2]["prompt"][0][1]
    assert found[2].split()[0] == "expected"
    assert any("it knew" in line for line in found) and "it forgot" in found[4]


def test_the_fit_of_the_training_is_shown(tunesmith: Tunesmith, finished: Path) -> None:
    steps = {"best": (1, 1.0), "last": (2, 1.5)}
    losses = {
        name: {"step": step, "losses": [x, x + 0.1, x + 0.2] * 5, "weights": [1.0] * 15}
        for name, (step, x) in steps.items()
    }
    (finished / "validation.json").write_text(json.dumps(losses))
    done = tunesmith("report", finished)
    assert (
        "fit: overfitted; the validation loss at step 2 is above that of step 1 by 0.5"
        in done.stdout
    )
    shown = json.loads(tunesmith("report", finished, "--json").stdout)
    assert (
        shown["fit"]["state"] == "overfitted" and shown["fit"]["values"]["validation_rise"] == 0.5
    )


def test_report_is_rebuilt_if_it_is_missing(tunesmith: Tunesmith, finished: Path) -> None:
    before = (finished / "report.json").read_bytes()
    (finished / "report.json").unlink()
    shown = json.loads(tunesmith("report", finished, "--json").stdout)
    assert shown["run"]["status"] == "ok"
    assert (finished / "report.json").read_bytes() == before


def test_events_are_replayed_to_a_reporter(tunesmith: Tunesmith, finished: Path) -> None:
    page = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert tunesmith("report", finished, "--to", "html").exit_code == 0
    assert (finished / "report.html").read_bytes() == page
    sent = tunesmith("report", finished, "--to", "jsonlines")
    sent_events = [json.loads(line) for line in sent.stdout.splitlines()]
    kept = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in sent_events] == [event["event"] for event in kept]
    done = tunesmith("report", finished, "--to", "htm")
    assert done.exit_code == 2 and 'did you mean "html"?' in done.output


def test_report_of_a_run_that_was_killed(tunesmith: Tunesmith, finished: Path) -> None:
    lines = (finished / "events.jsonl").read_bytes().splitlines(keepends=True)
    (finished / "events.jsonl").write_bytes(b"".join(lines[:12]) + lines[12][:20])
    done = tunesmith("report", finished)
    assert done.exit_code == 0
    assert "unfinished" in done.stdout
    first = done.stdout.splitlines()[1:4]
    assert "killed" in first[0] and first[1].startswith("where: ")
    assert first[2] == "then: tunesmith resume done"
    assert "tunesmith resume done" in done.stderr


def test_a_run_that_is_running_is_not_unfinished(tunesmith: Tunesmith, finished: Path) -> None:
    lines = (finished / "events.jsonl").read_bytes().splitlines(keepends=True)
    (finished / "events.jsonl").write_bytes(b"".join(lines[:12]))
    with lock(finished):
        done = tunesmith("report", finished)
        shown = json.loads(tunesmith("report", finished, "--json").stdout)
    assert "done: running, started" in done.stdout and shown["run"]["status"] == "running"
    assert "unfinished" not in done.stdout and "tunesmith resume" not in done.stderr


def test_the_report_as_markdown(tunesmith: Tunesmith, finished: Path) -> None:
    done = tunesmith("report", finished, "--markdown")
    assert done.exit_code == 0 and done.stdout.startswith("# ")
    assert "| **tuned** |" in done.stdout and "```text\nloss" in done.stdout


def rewrite(run: Path, answers: dict[str, str]) -> None:
    """Let the tuned model answer each row with a right answer, or a wrong one of this map."""
    path = run / "evaluations" / "tuned.same.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [*answers, *answers]
    for place, line in enumerate(lines):
        expected = texts[place % len(texts)]
        output = answers[expected] if place < len(answers) else expected
        line |= {"expected": expected, "output": output}
        line["same"]["value"] = float(output == expected)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_report_shows_confused_labels(tunesmith: Tunesmith, finished: Path) -> None:
    rewrite(finished, {"heat": "water", "water": "water"})
    shown = json.loads(tunesmith("report", finished, "--json").stdout)
    assert shown["confusions"] == [{"expected": "heat", "answered": "water", "rows": 1}]
    done = tunesmith("report", finished)
    table = done.stdout[done.stdout.index("expected label") :].splitlines()
    assert table[2].split() == ["heat", "water", "1"]
    markdown = tunesmith("report", finished, "--markdown").stdout
    assert "## Most confused labels" in markdown and "| `heat` | `water` | 1 |" in markdown


def test_report_shows_right_fields(tunesmith: Tunesmith, finished: Path) -> None:
    right, wrong = '{"team": "heat", "slot": 1}', '{"team": "heat", "slot": 2}'
    rewrite(finished, {right: wrong})
    shown = json.loads(tunesmith("report", finished, "--json").stdout)
    assert [field["field"] for field in shown["fields"]] == ["team", "slot"]
    tuned = [field["right"]["tuned"] for field in shown["fields"]]
    rows = tuned[0]["answered"]
    assert tuned == [{"right": rows, "answered": rows}, {"right": rows - 1, "answered": rows}]
    table = tunesmith("report", finished).stdout
    assert f"{rows - 1} of {rows}" in table[table.index("right answers by field") :]
    markdown = tunesmith("report", finished, "--markdown").stdout
    assert "## Right answers by field" in markdown and "| `slot` |" in markdown


def test_the_run_folder_has_a_model_card(finished: Path) -> None:
    card = (finished / "README.md").read_text()
    assert card.startswith("---\n") and "\n### " in card and "\n# run - " in card
    assert "| **tuned** |" in card and "| zero-shot |" in card and "95 % interval" in card
    assert "## Data" in card and "Measured: same." in card and str(finished) not in card


def test_a_card_is_a_new_file(tunesmith: Tunesmith, finished: Path, tmp_path: Path) -> None:
    printed = tunesmith("report", finished, "--card", "-")
    assert printed.exit_code == 0 and printed.stdout.startswith("### ")
    for name, start in (("card.md", "### "), ("card.svg", "<svg xmlns")):
        assert tunesmith("report", finished, "--card", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_text().startswith(start)
    again = tunesmith("report", finished, "--card", tmp_path / "card.md")
    assert again.exit_code == 2 and "already exists" in again.stderr
    other = tunesmith("report", finished, "--card", tmp_path / "card.png")
    assert other.exit_code == 2 and "use FILE.md or FILE.svg" in other.stderr
    lost = tunesmith("report", finished, "--card", tmp_path / "no" / "card.md")
    assert lost.exit_code == 2 and "No such file" in lost.stderr


def test_a_lost_evaluation_is_named(tunesmith: Tunesmith, finished: Path) -> None:
    (finished / "evaluations" / "tuned.same.jsonl").unlink()
    done = tunesmith("report", finished)
    assert done.exit_code == 7 and "no clear difference" in done.stdout
    assert "tuned.same.jsonl:1: the file of evaluation results is missing" in done.stderr


@pytest.mark.parametrize(
    ("groups", "rows", "interval"),
    [
        ("aaa", "3 of 1 group", "no interval"),
        ("a" * 8 + "b" * 8, "16 of 2 groups", "0.870, 1.505"),
    ],
)
def test_rows_of_few_groups_are_counted_as_such(
    tunesmith: Tunesmith, tmp_path: Path, groups: str, rows: str, interval: str
) -> None:
    """The loss of rows of one group has no interval, and no view prints an infinite one."""
    losses = [1.0 + n % 5 / 10 for n in range(len(groups))]
    others = [loss + 0.5 + n % 3 / 10 for n, loss in enumerate(losses)]
    bounds = (0.0, math.inf)
    found = compare(others, losses, higher_is_better=False, groups=groups, bounds=bounds)
    scores = dict(
        evaluator="loss",
        metric="loss",
        unit="nats",
        higher_is_better=False,
        records="evaluations/x.jsonl",
    )
    measured = [
        sample_event(Measured, model=model, **scores, **asdict(mean))
        for model, values in (("zero-shot", others), ("tuned", losses))
        for mean in [mean_interval(values, groups=groups, bounds=bounds)]
    ]
    comparison = {
        **asdict(found.difference), "confidence": 0.9, "value": measured[0].value,
        "tuned": measured[1].value, "difference": found.difference.value,
        "p_value_holm": found.p_value, "outcome": found.outcome,
    }  # fmt: skip
    verdict = {
        "word": "UNCLEAR", "sentence": "s", "outcome": "unclear", "baseline": "zero-shot",
        "evaluator": "loss", "metric": "loss", "comparisons": {"zero-shot": comparison},
    }  # fmt: skip
    *events, end = (event for event in sample_run() if not isinstance(event, Measured))
    events += [*measured, replace(end, verdict=verdict)]
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "lock").touch()
    lines = (encode_json(event.to_json()) + "\n" for event in events)
    (tmp_path / "few" / "events.jsonl").write_text("".join(lines))
    with HTML.build(HtmlOptions(), RunFolder(tmp_path / "few")):
        pass
    texts = [
        *(
            tunesmith("report", "few", *form).stdout
            for form in ((), ("--markdown",), ("--card", "-"))
        ),
        (tmp_path / "few" / "report.html").read_text(),
        format_measurement(measured[1]),
    ]
    for text in texts:
        assert not re.search(r"\binf\b|interval no", text)
        assert interval in text and any(
            form in text for form in (rows, rows.replace(" of", " rows of"))
        )
    assert "90 % interval" in " ".join(texts[0].split()) and "90 % interval" in texts[3]
    assert texts[0].count(rows) == 3, "two scores and their comparison"
