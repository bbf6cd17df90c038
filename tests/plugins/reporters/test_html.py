"""The html reporter writes one self-contained page from the run's log and escapes all text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from review_rows import write_review

from tunesmith.errors import UsageError
from tunesmith.events import (
    BaselineChosen,
    CompletionSampled,
    DataLoaded,
    Event,
    FindingReported,
    Measured,
    Monitored,
    RunStarted,
    StepFinished,
    TrainingStarted,
)
from tunesmith.execution.previews import PREVIEWS_FILE
from tunesmith.execution.report import build_report
from tunesmith.storage import RunFolder, read_known_events
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.report.first_batch import FirstBatch, TokenRow
from tunesmith_plugins.reporters.html.offer import HTML, HtmlOptions

WEIGHT = {"weight": 1}
EVIL = "<script>alert(1)</script>\"'>\x1b[31m{{ 7*7 }}&\u202e"


def step_finished(step: int, loss: float) -> StepFinished:
    return sample_event(StepFinished, step=step, steps=3, loss=loss)


def page(path: Path, reported: list[Event]) -> str:
    folder = RunFolder(path)
    folder.events.write_text("".join(encode_json(e.to_json()) + "\n" for e in reported))
    with HTML.build(HtmlOptions(), folder):
        pass
    return (path / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed."""

    VOID = frozenset({"meta", "br", "line", "circle", "polyline", "rect", "input", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_findings_have_examples_rows_and_what_to_do(tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluations" / "tuned.jsonl"
    evaluation.parent.mkdir()
    lines = ({"source": f"test.csv:{n}", "right": {"value": 1, "weight": 1}} for n in range(120))
    evaluation.write_text("".join(encode_json(line) + "\n" for line in lines))
    leak = sample_event(
        FindingReported,
        level="error",
        message="2 of 120 test rows have the prompt of a training row",
        count=2,
        examples=[f"test.csv:4 {EVIL}"],
        hint="remove them from one part",
        test_rows=[4, 17, 999],
    )
    quiet = sample_event(FindingReported, level="info", message="nothing to look at")
    counted = sample_event(
        FindingReported, level="info", message="83 prompts have a negation", count=83
    )
    measured = sample_event(
        Measured,
        metric="right",
        n=120,
        records="evaluations/tuned.jsonl",
        leakage_free={"value": 0.4375, "low": 0.3, "high": 0.6, "n": 118},
    )
    events = [e for e in sample_run() if not isinstance(e, Measured)]
    read = outline(page(tmp_path, [*events[:5], counted, quiet, leak, measured, *events[5:]]))
    text = " ".join(read.text.split())
    assert text.index("have the prompt of a training row") < text.index("83 prompts have")
    assert "To do: remove them from one part" in text and "nothing to look at" not in text
    assert "1 of 2 rows test.csv:4 <script>" in text
    assert "2 test rows of 3 test.csv:4, test.csv:17" in text
    assert "tuned, leakage-free0.438[0.300, 0.600]118" in text
    evaluation.write_text("damaged")
    text = outline(page(tmp_path, [*events[:5], leak, measured, *events[5:]])).text
    assert "have the prompt of a training row" in text and "test.csv:17" not in text


def test_page_has_no_secret_in_any_field(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    long = "x" * 1_990 + " " + secret  # cut within the secret
    *reported, end = sample_run(steps=3)
    finding = sample_event(FindingReported, level="warning", source=secret, message=long)
    sample = sample_event(CompletionSampled, prompt=secret, completion=long)
    end = replace(end, error=f"https://me:{secret}@host", hint=secret)
    text = page(tmp_path, [*reported, finding, sample, end])
    assert "hf_a" not in text
    assert text.count("[redacted:") >= 4


def test_page_shows_all_measurements(tmp_path: Path) -> None:
    *reported, end = sample_run(steps=3)
    verdict = {"sentence": "fine-tuning was worth it", "outcome": "better", "comparisons": {}}
    text = outline(page(tmp_path, [*reported, replace(end, verdict=verdict)])).text
    for words in (
        "fine-tuning was worth it",
        "0.030",
        "[0.650, 0.850]",
        "3 of 3",
        "2,000 tokens/s",
        "2.0 GiB",
        "240 training rows, 120 test rows",
        "1 Jan 2026, 00:01 UTC",
    ):
        assert words in text, words


VERDICT = {
    "word": "FINE-TUNE", "sentence": "better than linear", "would_change": "3 rows for linear",
    "outcome": "better", "baseline": "linear", "metric": "m", "evaluator": "e",
    "comparisons": {
        "linear": {
            "variant": "C=10", "value": 0.781, "tuned": 0.904, "difference": 0.123, "low": 0.045,
            "high": 0.201, "confidence": 0.99, "p_value_holm": 0.0123, "n": 104,
            "outcome": "better",
        },
    },
}  # fmt: skip


def test_the_first_section_answers_what_a_manager_asks(tmp_path: Path) -> None:
    """Verdict, reason, baselines, side effects, cost, what would change it, and what to do."""
    *reported, end = sample_run(steps=3)
    verdict = {
        **VERDICT, "reason": "a clear gain", "sentence": "a clear gain; less polite; by chance?",
        "notes": ["by chance?"], "side_effects_text": "less polite", "worth_it": True,
    }  # fmt: skip
    raw = page(tmp_path, [*reported, replace(end, verdict=verdict)])
    first = raw[raw.index('<section class="verdict') : raw.index("</section>")] + "</section>"
    text = " ".join(outline(first).text.split())
    order = (
        "FINE-TUNE", "+0.123", "a clear gain", "Bars are 95 % intervals",
        "side effectsless polite", "noteby chance?", "costtraining 1.5 s",
        "would change the verdict3 rows for linear",
        f"nexttunesmith chat {tmp_path} --compare base tunesmith serve {tmp_path}",
    )  # fmt: skip
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert first.count('class="bar ') == 3 and "a clear gain; less" not in text


def test_the_numbers_of_the_page_are_those_of_report_json(tmp_path: Path) -> None:
    *reported, end = sample_run(steps=3)
    scores = [
        sample_event(Measured, model=f"m{n}", evaluator=f"e{n % 3}", metric=f"k{n % 3}", n=100 + n,
                     value=n / 31, low=n / 37, high=n / 29)
        for n in range(1, 12)
    ]  # fmt: skip
    parsed = outline(page(tmp_path, [*reported, *scores, replace(end, verdict=VERDICT)]))
    report = build_report(read_known_events(tmp_path / "events.jsonl")).to_json()
    text = "".join(parsed.text.split())
    assert len(report["evaluations"]) == 11 + 3
    for row in report["evaluations"]:
        value, low, high = (f"{row[key]:.3f}" for key in ("value", "low", "high"))
        assert f"{row['model']}{value}[{low},{high}]{row['n']}" in text, row


def test_a_slider_chooses_the_review_threshold(tmp_path: Path) -> None:
    """Without scripts, all thresholds are listed. The policy allows this script alone."""
    rows = {n: (round(0.5 + n / 200, 3), float(n % 5 > 0)) for n in range(100)}
    *reported, end = sample_run(steps=3)
    reported = [event for event in reported if not isinstance(event, Measured)]
    raw = page(tmp_path, [*reported, *write_review(tmp_path, rows), end])
    [script] = re.findall(r"<script>(.*?)</script>", raw, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', raw)
    assert policy[0].endswith(f"; script-src 'sha256-{digest}'") and "unsafe" not in script
    table = raw.partition('<table id="thresholds">')[2].partition("</table>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("</tr>")[1:-1]]
    slider = re.findall(r'<input id="threshold" type="range" min="0" max="(\d+)"', raw)
    assert len(cells) == int(slider[0]) + 1 and " hidden>" in raw and "<tr hidden" not in raw
    for confidence, count, right, wrong in cells:
        above = [value for number, value in rows.values() if number >= float(confidence)]
        assert count == f"{len(above)} of 100" and int(wrong) == above.count(0.0)
        assert right.startswith(f"{sum(above) / len(above):.3f} [")
    text = " ".join(outline(raw.replace(script, "")).text.split())
    assert "60 % of requests need no person" in text and "right answers (%)" in text
    cut = write_review(tmp_path, {n: (0.0, 0.0) for n in range(3)})
    raw = page(tmp_path, [*reported, *cut, end])
    assert "right answers (%)" in raw and "threshold" not in raw.partition("</style>")[2]
    assert "script" not in raw


def test_the_verdict_begins_with_its_word(tmp_path: Path) -> None:
    *reported, end = sample_run(steps=3)
    text = outline(page(tmp_path, [*reported, replace(end, verdict=VERDICT)])).text
    words = ("FINE-TUNE", "+0.123", "[+0.045, +0.201]", "better than linear", "3 rows for linear")
    found = text[text.index("</style>") if "</style>" in text else text.index("started 1 Jan") :]
    places = [
        found.index(word) for word in (*words, "99 % interval", "C=10", "0.012", "All scores")
    ]
    assert places == sorted(places)


def test_every_variant_of_a_baseline_has_a_row_with_its_result(tmp_path: Path) -> None:
    """The first event is as an earlier version wrote it: its variants have no reasons."""
    scored = {"score": 0.5, "rows": 40, "seconds": 2.0}
    earlier = BaselineChosen(
        baseline="linear", variant="C=1", solution="classifier", cost=10,
        variants=[{"name": "C=1", **scored}, {"name": "C=9", **scored}],
    )  # fmt: skip
    late = {"name": "k=9", "score": 0.25, "rows": 10, "reason": "no room"}
    chosen = BaselineChosen(
        baseline="random-shots", variant="k=1", solution="prompt", cost=120, test_rows=20,
        variants=[
            {"name": "k=1", **scored, "reason": ""},
            {"name": "k=2", **scored, "rows": 10, "reason": "after 10 rows: stopped"},
        ],
        omitted=[{"name": "k=3", "reason": "too many tokens"}], not_tried=[late],
    )  # fmt: skip
    text = outline(page(tmp_path, [*sample_run(), earlier, chosen])).text
    lines = " ".join(text.split())
    few = "chosen; worst possible score, so tested on at most 20 rows"
    for row in (
        "linearC=10.50040chosen", "linearC=90.50040", f"random-shotsk=10.50040{few}",
        "random-shotsk=20.50010after 10 rows: stopped",
        "random-shotsk=3too many tokens", "random-shotsk=90.25010no room",
    ):  # fmt: skip
        assert row in lines.replace("\n", ""), row
    assert "linearC=90.50040chosen" not in lines


def test_the_comparisons_of_an_earlier_version_are_skipped(tmp_path: Path) -> None:
    *reported, end = sample_run(steps=3)
    verdict = {"sentence": "worth it", "outcome": "better", "comparisons": {"base": {"low": 0.1}}}
    text = outline(page(tmp_path, [*reported, replace(end, verdict=verdict)])).text
    assert "worth it" in text and "compared with" not in text


def test_a_metric_of_two_evaluators_has_two_sections(tmp_path: Path) -> None:
    reported = list(sample_run("accuracy"))
    again = [replace(e, evaluator="again") for e in reported if isinstance(e, Measured)]
    text = outline(page(tmp_path, [*reported[:-1], *again, reported[-1]])).text
    assert "again: accuracy (" in text and "accuracy: accuracy (" in text


def test_text_from_users_is_escaped(tmp_path: Path) -> None:
    *reported, end = sample_run(EVIL)
    verdict = {"sentence": EVIL, "outcome": EVIL, "metric": EVIL, "baseline": EVIL}
    raw = page(tmp_path, [*reported, replace(end, verdict=verdict)])
    parsed = outline(raw)
    assert "script" not in parsed.tags and "onerror" not in parsed.attributes
    assert "<script" not in raw and "\x1b" not in raw and "\u202e" not in raw
    assert "alert(1)" in parsed.text and "{{ 7*7 }}" in parsed.text


@pytest.mark.parametrize("path", ["events.jsonl", "report.json", "artifact/page.html"])
def test_the_page_does_not_overwrite_a_file_of_the_run(tmp_path: Path, path: str) -> None:
    for chosen in (path, str(tmp_path / path)):
        with pytest.raises(UsageError, match="must not write to a file or folder of the run"):
            HTML.build(HtmlOptions(path=chosen), RunFolder(tmp_path))


def test_the_verdict_begins_on_the_first_printed_page(tmp_path: Path) -> None:
    """In print, its tables are open, so it may be longer than a page."""
    style = page(tmp_path, list(sample_run())).partition("@media print")[2].partition("</style>")[0]
    rules = re.findall(r"([^{}]+){([^{}]*)}", style)
    breaks = [value for names, value in rules if ".verdict" in names.split(", ")[0]]
    assert breaks == [" break-inside: auto; ", " break-inside: avoid; "]
    assert any(".verdict .top" in names and "avoid" in value for names, value in rules)


def test_page_is_self_contained(tmp_path: Path) -> None:
    raw = page(tmp_path, list(sample_run()))
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", raw)
    assert "default-src 'none'" in raw


@pytest.mark.parametrize("count", range(len(list(sample_run()))))
def test_page_of_a_run_that_was_killed_at_any_event(tmp_path: Path, count: int) -> None:
    text = outline(page(tmp_path, list(sample_run())[:count])).text
    assert "unfinished" in text


def test_non_finite_losses_are_accepted(tmp_path: Path) -> None:
    *reported, _ = sample_run(steps=3)
    outline(page(tmp_path, [*reported, step_finished(2, math.nan), step_finished(3, math.inf)]))


def test_is_used_by_default() -> None:
    assert HTML.by_default


def test_a_run_without_a_verdict_begins_with_its_status(tmp_path: Path) -> None:
    events = list(sample_run("out of memory", status="failed"))
    text = outline(page(tmp_path, events)).text.partition("started 1 Jan 2026")[2]
    assert text.index("FAILED") < text.index("out of memory") < text.index("All scores")
    assert text.index("where") < text.index("tunesmith run") < text.index("All scores")


def write_answers(folder: Path, values: dict[str, list[int]]) -> list[Measured]:
    """Write the evaluations of several models, and return their events."""
    (folder / "evaluations").mkdir()
    for model, right in values.items():
        lines = [
            {
                "row": n, "source": f"data/test.csv:{n}", "prompt": f"prompt {n} {EVIL}",
                "expected": f"right {n}", "output": f"{model} says {n}",
                "m": {"value": value, "weight": 1},
            }
            for n, value in enumerate(right)
        ]  # fmt: skip
        text = "".join(encode_json(line) + "\n" for line in lines)
        (folder / "evaluations" / f"{model}.jsonl").write_text(text)
    return [
        sample_event(
            Measured, model=m, evaluator="e", metric="m", n=len(v), records=f"evaluations/{m}.jsonl"
        )
        for m, v in values.items()
    ]


def articles(raw: str) -> list[str]:
    return re.findall(r'<article class="(row[^"]*)">', raw)


def write_task(folder: Path, given: list[tuple[str, str, float]]) -> list[Measured]:
    """Write the tuned model's answers as expected answer, answer and value; return the events."""
    measured = write_answers(folder, {"tuned": [0] * len(given)})
    path = folder / "evaluations" / "tuned.jsonl"
    lines = [
        {
            **json.loads(line),
            "expected": expected,
            "output": output,
            "m": {**WEIGHT, "value": value},
        }
        for line, (expected, output, value) in zip(
            path.read_text().splitlines(), given, strict=True
        )
    ]
    path.write_text("".join(encode_json(line) + "\n" for line in lines))
    return measured


def page_of_task(folder: Path, given: list[tuple[str, str, float]]) -> str:
    measured = write_task(folder, given)
    *events, end = [e for e in sample_run(steps=3) if not isinstance(e, Measured)]
    verdict = {"evaluator": "e", "metric": "m", "outcome": "better", "word": "FINE-TUNE"}
    return page(folder, [*events, *measured, replace(end, verdict=verdict)])


def test_fields_are_scored_and_no_slice_hides_a_weak_one(tmp_path: Path) -> None:
    right = f'{{"team": "heat", "slot {EVIL}": 1}}'.replace("\x1b", "").replace("\"'>", "")
    given = [(right, right if n % 2 else right.replace("1}", "2}"), n % 2 * 0.5) for n in range(60)]
    text = " ".join(outline(page_of_task(tmp_path, given)).text.split())
    found = text[text.index("Right answers by field") :]
    assert "team60 of 60" in found and "30 of 60" in found
    assert "is right least often: 30 of 60" in text
    assert "all 60 not right 60 right 0" in text


def test_confused_labels_are_a_table(tmp_path: Path) -> None:
    given = [("heat", "water", 0.0), ("water", "water", 1.0), ("heat", "heat", 1.0)] * 4
    raw = page_of_task(tmp_path, given)
    text = " ".join(outline(raw).text.split())
    assert "Confused labels" in text and "heat44" in text and "water4" in text
    assert articles(raw).count("row wrong") == 1, "rows with equal answers are listed once"
    assert "and 3 similar rows" in text


def test_wrong_answers_are_listed_by_kind_with_an_example(tmp_path: Path) -> None:
    given = [("heat", f"water {EVIL}", 0.0), ("water", "water", 1.0), ("heat", "heat", 1.0)] * 4
    raw = page_of_task(tmp_path, given)
    section = raw.partition("<h2>Kinds of errors</h2>")[2].partition("</section>")[0]
    text = " ".join(outline(section).text.split())
    assert "heat answered as water 4 prompt 0" in text.replace("water4prompt", "water 4 prompt")
    assert "rarer kind" not in text and "<script" not in section
    many = [(f"a text of its kind {n}", f"{n} letters", 0.0) for n in range(9)]
    (tmp_path / "many").mkdir()
    text = outline(page_of_task(tmp_path / "many", many)).text
    assert "another answer9" in "".join(text.split("\n"))


def test_the_title_is_the_task_and_the_base_model(tmp_path: Path) -> None:
    start, *reported = sample_run("run", steps=3)
    assert isinstance(start, RunStarted)
    plan = {**start.plan, "run": {"title": "Repairs: work orders"}}
    raw = page(tmp_path, [replace(start, plan=plan), *reported])
    assert "<h1>Repairs: work orders - run<span" in raw


def test_answers_are_side_by_side_with_prompts(tmp_path: Path) -> None:
    values = {"zero-shot": [1, 0, 0, 0], "linear": [0, 1, 0, 1], "tuned": [0, 1, 0, 1]}
    measured = write_answers(tmp_path, values)
    *events, end = [e for e in sample_run(steps=3) if not isinstance(e, Measured)]
    raw = page(tmp_path, [*events, *measured, replace(end, verdict=VERDICT)])
    assert articles(raw) == ["row wrong regressed", "row wrong", "row", "row"]
    text = " ".join(outline(raw).text.split())
    first = text[text.index("test.csv:0") : text.index("test.csv:2")]
    order = ("prompt 0", "right 0", "zero-shot says 0", "linear says 0", "tuned says 0")
    assert [first.index(word) for word in order] == sorted(first.index(word) for word in order)
    assert "all 4 regressed 1 wrong 2 right 2" in text


def test_images_stand_beside_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = write_answers(tmp_path, {"tuned": [0, 1, 0, 1]})
    file = tmp_path / "evaluations/tuned.jsonl"
    file.write_text(re.sub(r"prompt (\d)", r"Image(name=\1)Which?", file.read_text()))
    rows = [
        {"part": f"Image(name={n})", "description": f'{n} "x"', "width": 9, "height": 8,
         "media_type": "image/png", "data": "QUJD" * (n + 1)}
        for n in (0, 1, 2)
    ]  # fmt: skip
    (tmp_path / PREVIEWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    *events, end = [e for e in sample_run(steps=3) if not isinstance(e, Measured)]
    raw = page(tmp_path, [*events, *measured, replace(end, verdict={})])
    assert "img-src data:" in raw
    for n in range(3):
        url = f"data:image/png;base64,{'QUJD' * (n + 1)}"
        alt = f"{n} &#34;x&#34;"
        assert f'<img src="{url}" alt="{alt}" title="{alt}" width="9" height="8">' in raw
    text = " ".join(outline(raw).text.split())
    assert '[0 "x"] Which?' in text and "Image(name=0)" not in raw and "Image(name=3)Which?" in text
    assert "not shown: a page has" not in text
    monkeypatch.setattr("tunesmith_plugins.reporters.html.page.MAX_IMAGE_CHARACTERS", 70)
    raw = page(tmp_path, [*events, *measured, replace(end, verdict={})])
    assert raw.count("<img ") == 2 and "1 picture not shown: a page has" in raw


def test_nothing_regressed_where_no_other_model_was_asked(tmp_path: Path) -> None:
    measured = write_answers(tmp_path, {"tuned": [0, 1, 0, 1]})
    *events, end = [e for e in sample_run(steps=3) if not isinstance(e, Measured)]
    text = outline(page(tmp_path, [*events, *measured, replace(end, verdict={})])).text
    assert "all 4 wrong 2 right 2" in " ".join(text.split()), "not: regressed 0"


def test_scores_on_validation_rows_are_called_so(tmp_path: Path) -> None:
    others = [e for e in sample_run(steps=2) if not isinstance(e, Measured)]
    for part, rows in (("validation", "Validation rows, "), ("test", "Test rows, ")):
        measured = sample_event(Measured, metric="m", evaluator="m", part=part)
        text = " ".join(outline(page(tmp_path, [*others[:-1], measured, others[-1]])).text.split())
        assert f"{rows}higher is better. Bars are 95 % intervals" in text
        assert ("m (validation rows, higher is better)" in text) == (part == "validation")


def test_a_model_that_was_asked_fewer_rows(tmp_path: Path) -> None:
    measured = write_answers(tmp_path, {"zero-shot": [0], "linear": [1], "tuned": [1, 1, 0]})
    *events, end = [e for e in sample_run(steps=3) if not isinstance(e, Measured)]
    raw = page(tmp_path, [*events, *measured, replace(end, verdict=VERDICT)])
    assert len(articles(raw)) == 3 and raw.count("not asked") == 4
    text = " ".join(outline(raw).text.split())
    assert "Measured on a part of the 3 rows: zero-shot on 1, linear on 1. Differences" in text


def test_filters_work_without_script(tmp_path: Path) -> None:
    """A radio button hides rows by the style of its siblings alone."""
    measured = write_answers(tmp_path, {"linear": [1, 0], "tuned": [0, 1]})
    *events, end = [e for e in sample_run(steps=3) if not isinstance(e, Measured)]
    raw = page(tmp_path, [*events, *measured, replace(end, verdict=VERDICT)])
    for kind, hidden in (("wrong", ":not(.wrong)"), ("regressed", ":not(.regressed)")):
        assert f".is-{kind}:checked ~ .rows > .row{hidden}" in raw
        assert raw.index(f'class="choice is-{kind}"') < raw.index('<div class="rows">')
    assert raw.count('name="answers"') == 4 and raw.count("checked>") == 2
    assert raw.count('name="scale-1"') == 2 and "<script" not in raw


def test_the_page_stays_small(tmp_path: Path) -> None:
    long, rows = "ü" * 5_000, 400
    (tmp_path / "evaluations").mkdir()
    line = {"source": "x:1", "prompt": long, "expected": long}
    text = "".join(
        encode_json({**line, "row": n, "output": f"{n}{long}", "m": {"value": 0, "weight": 1}})
        + "\n"
        for n in range(rows)
    )
    (tmp_path / "evaluations" / "sample.jsonl").write_text(text)
    measured = [
        sample_event(Measured, model=model, evaluator="e", metric="m", n=rows)
        for model in ("zero-shot", "linear", "tuned")
    ]
    *events, end = [e for e in sample_run(steps=3_000) if not isinstance(e, Measured)]
    raw = page(tmp_path, [*events, *measured, replace(end, verdict=VERDICT)])
    assert 60_000 < len(raw.encode()) < 500_000
    assert 20 < len(articles(raw)) < 100 and "of 400 rows: regressed rows first" in raw


def test_a_lost_evaluation_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    raw = page(tmp_path, list(sample_run(steps=3)))
    assert articles(raw) == [] and "All scores" in raw


def test_training_and_validation_loss_share_a_chart_in_two_scales(tmp_path: Path) -> None:
    *reported, finished = sample_run(steps=3)
    evaluations = [
        Monitored(step=step, metrics={"validation_loss": 3.0 - step, "train_loss": 2.0}, best=True)
        for step in (0, 2)
    ]
    found = page(tmp_path, [*reported, *evaluations, finished])
    assert (
        found.count("loss, log scale</text>") == 1
        and found.count('<polyline class="validation"') == 2
    )
    assert found.count("step 2, validation rows: 1.000") == 2
    assert "train loss (during training)" in found and "validation loss" not in found


def test_the_loss_of_zero_has_no_log_scale(tmp_path: Path) -> None:
    *reported, finished = sample_run(steps=3)
    found = page(tmp_path, [*reported, step_finished(2, 0.0), finished])
    assert "log scale</text>" not in found and 'name="scale-1"' not in found


def test_the_fit_of_the_training_is_shown(tmp_path: Path) -> None:
    losses = {
        name: {"step": step, "losses": [float(step)] * 12, "weights": [1.0] * 12}
        for name, step in (("best", 1), ("last", 2))
    }
    (tmp_path / "validation.json").write_text(json.dumps(losses))
    found = page(tmp_path, list(sample_run(steps=3)))
    assert '<span class="pill warning">overfitted</span></h2>' in found
    assert "at step 2 is above that of step 1 by 1" in found


def first_batch(stage: str, *, answer: str = "ten") -> FirstBatch:
    pieces = ["<|im_start|>", "5?\n", f"{EVIL}\x1b[31m", "", answer, "<|im_end|>"]
    row = TokenRow(title="row 1", tokens=6, trained=2, pieces=pieces, marks="CccctT")
    return FirstBatch(
        stage=stage, layout="packed", tokens=6, padding=10, micro_batches=3, rows=[row],
        hidden_rows=4,
    )  # fmt: skip


def test_the_first_batch_shows_trained_and_special_tokens(tmp_path: Path) -> None:
    start = next(e for e in sample_run() if isinstance(e, TrainingStarted))
    events = [start, first_batch(start.stage), *sample_run(), first_batch(start.stage, answer="9")]
    raw = page(tmp_path, events)
    [batch] = re.findall(r'<div class="tokens">.*?</div></div>', raw, re.DOTALL)
    spans = re.findall(r'<span(?: class="([a-z ]*)")?>([^<]*)</span>', batch.partition("<div>")[2])
    assert [classes.split() for classes, _ in spans] == [
        ["special"],
        [],
        [],
        ["trained"],
        ["trained", "special"],
    ]
    assert [text for _, text in spans][3:] == ["ten", "&lt;|im_end|&gt;"], "of the first start"
    assert spans[1][1] == "5?↵\n" and "\x1b" not in raw and "<script" not in raw
    words = outline(raw).text
    assert "6 tokens and 10 padding tokens" in words and "the first of 3 micro-batches" in words
    assert "4 more rows" in words and "6 tokens, 2 trained" in words


def test_a_run_without_a_first_batch_shows_none(tmp_path: Path) -> None:
    text = outline(page(tmp_path, list(sample_run()))).text
    assert "Training" in text and "as the model saw it" not in text


def test_the_losses_of_several_stages_share_a_chart(tmp_path: Path) -> None:
    events: list[Event] = [*sample_run()][:6]
    for stage, height in (("sft", 3.0), ("policy", 0.01)):
        events.append(sample_event(TrainingStarted, stage=stage, steps=3))
        losses = ((step, height / step) for step in (1, 2, 3))
        events += [replace(step_finished(*loss), stage=stage) for loss in losses]
    text = page(tmp_path, events)
    chart = text.partition("Training of all stages")[2].partition("</svg></svg>")[0]
    lines = re.findall(r'class="own (c\d)" points="([^"]+)"><title>(\w+)', text)
    assert [(color, stage) for color, _, stage in lines] == [("c0", "sft"), ("c1", "policy")]
    assert lines[0][1] == lines[1][1], "both fall by the same factor"
    assert chart and outline(text).text.count("Training of all stages") == 1
    assert "Training of all stages" not in page(tmp_path, [*sample_run()])


def test_the_lengths_of_the_data_are_shown(tmp_path: Path) -> None:
    lengths = {
        "train": {"prompt": {"16": 3, "64": 1}, "answer": {}},
        "test": {"prompt": {"32": 2}, "answer": {}},
    }
    data = sample_event(DataLoaded, lengths=lengths)
    events = [data if isinstance(event, DataLoaded) else event for event in sample_run()]
    text = " ".join(outline(page(tmp_path, events)).text.split())
    assert "length of the prompts" in text and "length of the answers" not in text
    assert "9 to 1675 %0 % 17 to 320 %100 % 33 to 6425 %0 %" in text
    assert "length of the" not in outline(page(tmp_path, [*sample_run()])).text
