"""The html reporter writes one self-contained page from the run's log and escapes all text."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import UsageError
from tunesmith.events import CompletionSampled, Event, Measured, Monitored, Notice, StepFinished
from tunesmith.storage import RunFolder
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_plugins.reporters.html.charts import (
    MAX_POINTS,
    IntervalBar,
    choose_ticks,
    draw_curve,
    draw_intervals,
    thin_points,
)
from tunesmith_plugins.reporters.html.offer import HTML, HtmlOptions

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

    VOID = frozenset({"meta", "br", "line", "circle", "polyline"})

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
        Notice,
        level="error",
        message="2 of 120 held-out rows have the prompt of a training row",
        count=2,
        examples=[f"test.csv:4 {EVIL}"],
        hint="remove them from one part",
        heldout_rows=[4, 17, 999],
    )
    quiet = sample_event(Notice, level="info", message="nothing to look at")
    counted = sample_event(Notice, level="info", message="83 prompts have a negation", count=83)
    measured = sample_event(
        Measured,
        metric="right",
        n=120,
        records="evaluations/tuned.jsonl",
        twin_free={"value": 0.4375, "low": 0.3, "high": 0.6, "n": 118},
    )
    events = [e for e in sample_run() if not isinstance(e, Measured)]
    read = outline(page(tmp_path, [*events[:5], counted, quiet, leak, measured, *events[5:]]))
    text = " ".join(read.text.split())
    assert text.index("have the prompt of a training row") < text.index("83 prompts have")
    assert "To do: remove them from one part" in text and "nothing to look at" not in text
    assert "1 of 2 rows test.csv:4 <script>" in text
    assert "2 held-out rows of 3 test.csv:4, test.csv:17" in text
    assert "tuned, twin-free0.4375[0.3, 0.6]118" in text
    evaluation.write_text("damaged")
    text = outline(page(tmp_path, [*events[:5], leak, measured, *events[5:]])).text
    assert "have the prompt of a training row" in text and "test.csv:17" not in text


def test_page_has_no_secret_in_any_field(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    long = "x" * 1_990 + " " + secret  # cut within the secret
    *reported, end = sample_run(steps=3)
    notice = sample_event(Notice, level="warning", source=secret, message=long)
    sample = sample_event(CompletionSampled, prompt=secret, completion=long)
    end = replace(end, error=f"https://me:{secret}@host", hint=secret)
    text = page(tmp_path, [*reported, notice, sample, end])
    assert "hf_a" not in text
    assert text.count("[redacted:") >= 4


def test_page_shows_all_measurements(tmp_path: Path) -> None:
    *reported, end = sample_run(steps=3)
    verdict = {"sentence": "fine-tuning was worth it", "outcome": "better", "comparisons": {}}
    text = outline(page(tmp_path, [*reported, replace(end, verdict=verdict)])).text
    for words in (
        "fine-tuning was worth it",
        "0.03",
        "[0.65, 0.85]",
        "3 of 3",
        "2,000 tokens/s",
        "120 rows held out",
    ):
        assert words in text, words


VERDICT = {
    "word": "FINE-TUNE", "sentence": "better than linear", "would_change": "3 rows for linear",
    "outcome": "better", "rival": "linear", "metric": "m", "evaluator": "e",
    "comparisons": {
        "linear": {
            "variant": "C=10", "value": 0.781, "tuned": 0.904, "difference": 0.123, "low": 0.045,
            "high": 0.201, "p_value_holm": 0.0123, "n": 104, "outcome": "better",
        },
    },
}  # fmt: skip


def test_the_verdict_begins_with_its_word(tmp_path: Path) -> None:
    *reported, end = sample_run(steps=3)
    text = outline(page(tmp_path, [*reported, replace(end, verdict=VERDICT)])).text
    words = ("FINE-TUNE", "better than linear", "3 rows for linear", "C=10", "0.781", "+0.123")
    assert [text.index(word) for word in words] == sorted(text.index(word) for word in words)
    assert text.index("FINE-TUNE") < text.index("Held-out results")


def test_the_comparisons_of_an_earlier_version_are_left_out(tmp_path: Path) -> None:
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
    verdict = {"sentence": EVIL, "outcome": EVIL, "metric": EVIL, "rival": EVIL}
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


# --------------------------------------------------------------------------- charts


def points(svg: str) -> list[tuple[float, float]]:
    line = ET.fromstring(svg).find("polyline")
    assert line is not None
    pairs = (pair.split(",") for pair in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_curve_follows_its_values() -> None:
    positions = points(draw_curve([1, 2, 4], [0.0, 1.0, 0.5], "t"))
    (x1, y1), (x2, y2), (x3, y3) = positions
    assert x1 < x2 < x3 and x3 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2)
    assert y2 < y3 < y1, "higher values are drawn higher"
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.2)


def test_missing_values_are_left_out() -> None:
    positions = points(draw_curve([1, 2, 3], [1.0, None, 2.0], "t"))
    assert len(positions) == 2
    assert draw_curve([1, 2], [1.0, math.nan], "t") == ""


def test_the_dev_loss_is_in_the_chart_of_the_loss() -> None:
    """On the same scales, with a mark for each evaluation, from step 0 on."""
    svg = ET.fromstring(draw_curve([1, 2, 3], [3.0, 2.0, 1.0], "t", dev=([0, 3], [3.0, 2.0])))
    line, dev = svg.findall("polyline")
    (x1, y1), (_, y2), (x3, _) = points(ET.tostring(svg, encoding="unicode"))
    marks = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in svg.findall("circle")]
    assert dev.attrib["class"] == "curve second" and line.attrib["class"] == "curve"
    assert marks[0][0] < x1 and marks[1] == (x3, y2) and marks[0][1] == y1
    titles = [c[0].text for c in svg.findall("circle")]
    assert titles == ["step 0: 3", "step 3: 2"]


def test_training_and_dev_loss_of_a_run_share_a_chart(tmp_path: Path) -> None:
    *reported, finished = sample_run(steps=3)
    evaluations = [
        Monitored(step=step, metrics={"dev_loss": 3.0 - step, "train_loss": 2.0}, best=True)
        for step in (0, 2)
    ]
    found = page(tmp_path, [*reported, *evaluations, finished])
    assert found.count("<h3>loss") == 1
    assert "<h3>loss; with marks: on dev rows</h3>" in found and 'class="mark"' in found
    assert "<h3>train loss</h3>" in found and "<h3>dev loss</h3>" not in found


def test_the_fit_of_the_training_is_shown(tmp_path: Path) -> None:
    losses = {
        name: {"step": step, "losses": [float(step)] * 12, "weights": [1.0] * 12}
        for name, step in (("best", 1), ("last", 2))
    }
    (tmp_path / "validation.json").write_text(json.dumps(losses))
    found = page(tmp_path, list(sample_run(steps=3)))
    assert '<h2>Fit: <span class="warning">overfitted</span></h2>' in found
    assert "at step 2 is above that of step 1 by 1" in found


def test_intervals_share_one_scale() -> None:
    svg = ET.fromstring(
        draw_intervals([IntervalBar("a", 0.5, 0.25, 0.75), IntervalBar("b", 0.75, 0.5, 1.0)], "t")
    )
    first, second = svg.findall("g")
    centers = [float(g[2].attrib["cx"]) for g in (first, second)]
    ends = [float(g[1].attrib[end]) for g in (first, second) for end in ("x1", "x2")]
    assert ends[1] == pytest.approx(centers[1], abs=0.2) and ends[2] == pytest.approx(
        centers[0], abs=0.2
    )


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside_the_range(low: float, span: float) -> None:
    found = choose_ticks(low, low + span)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_thinning_keeps_extremes() -> None:
    series = [(n, math.sin(n)) for n in range(50_000)]
    series[31_234] = (31_234, 99.0)
    kept = thin_points(series)
    assert len(kept) <= MAX_POINTS + 2
    assert (31_234, 99.0) in kept and kept == sorted(kept)
