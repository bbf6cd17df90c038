"""The html reporter writes one self-contained page from the run's log and escapes all text."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.events import (
    CompletionSampled,
    DataLoaded,
    Event,
    Forecast,
    GateChecked,
    Measured,
    Monitored,
    Notice,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.storage import RunFolder
from tunesmith.storage.atomic import encode_json
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


def step_finished(step: int, loss: float, **extras: float) -> StepFinished:
    return StepFinished(
        step=step,
        steps=3,
        loss=loss,
        learning_rate=1e-4,
        gradient_norm=1.0,
        rows=2,
        tokens=10,
        trained_tokens=4,
        seconds=0.5,
        memory_bytes=1000,
        metrics=extras,
    )


def measured(model: str, value: float, name: str = "exact-match") -> Measured:
    return Measured(
        model=model,
        evaluator=name,
        metric=name,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        n=2,
        higher_is_better=True,
        seconds=1.0,
        records=f"evaluations/{model}.{name}.jsonl",
    )


def events(text: str = "plain") -> list[Event]:
    plan = {"model": {"base": text, "revision": None}, "technique": {"use": text, "list": [None]}}
    return [
        RunStarted(
            run="r1",
            name=text,
            started="2026-01-01T00:00:00+00:00",
            plan=plan,
            versions={"torch": text},
            plugins=[{"name": text, "distribution": text, "version": "1"}],
        ),
        DataLoaded(
            description=text,
            train=2,
            heldout=2,
            left_out={text: 1},
            examples=[{"where": text, "cause": text, "detail": text}],
        ),
        Notice(level="warning", source=text, message=text),
        TrainingStarted(
            technique=text,
            steps=3,
            epochs=1.0,
            rows=2,
            tokens=10,
            trained_tokens=4,
            trainable_parameters=5,
            parameters=50,
            device="cpu",
            precision=text,
            details={text: [text]},
        ),
        step_finished(1, 2.5, **{text: 0.5}),
        step_finished(2, 1.5, **{text: 0.75}),
        step_finished(3, 0.5, **{text: 0.7}),
        TrainingFinished(
            technique=text,
            steps=3,
            tokens=30,
            trained_tokens=12,
            seconds=1.5,
            peak_memory_bytes=1000,
            artifact=text,
            format="adapter",
        ),
        measured("base", 0.25),
        measured("tuned", 0.75),
        Forecast(
            technique=text,
            method="traced",
            device=text,
            device_type="cpu",
            available=10_000,
            memory={"low": 900, "expected": 1100, "high": 1300},
            phase=text,
            uncalibrated_peak=1100,
            untracked_bytes=0,
            calibration_runs=0,
            seconds=[1.0, 2.0],
            flops=1e9,
            tokens=30,
            notes=[text],
        ),
        GateChecked(stage=text, gate=text, passed=False, message=text),
        CompletionSampled(step=1, prompt=text, completion=text, reward=0.625),
        Monitored(step=1, metrics={text: 0.1}, best=True),
        Monitored(step=3, metrics={text: 0.3, "gold": 1.0}, best=False),
    ]


def finished(**verdict: object) -> RunFinished:
    return RunFinished(
        status="ok", exit_code=0, finished="2026-01-01T00:01:00+00:00", seconds=60, verdict=verdict
    )


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


def test_page_shows_all_measurements(tmp_path: Path) -> None:
    reported = [
        *events(),
        finished(sentence="fine-tuning was worth it", outcome="better", comparisons={}),
    ]
    text = outline(page(tmp_path, reported)).text
    for words in (
        "fine-tuning was worth it",
        "0.25",
        "[0.65, 0.85]",
        "3 of 3",
        "20 tokens/s",
        "2 rows held out",
    ):
        assert words in text, words


def test_text_from_users_is_escaped(tmp_path: Path) -> None:
    reported = [
        *events(EVIL),
        finished(sentence=EVIL, outcome=EVIL, metric=EVIL, baseline_model=EVIL),
    ]
    raw = page(tmp_path, reported)
    parsed = outline(raw)
    assert "script" not in parsed.tags and "onerror" not in parsed.attributes
    assert "<script" not in raw and "\x1b" not in raw and "\u202e" not in raw
    assert "alert(1)" in parsed.text and "{{ 7*7 }}" in parsed.text


def test_page_is_self_contained(tmp_path: Path) -> None:
    raw = page(tmp_path, [*events(), finished()])
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", raw)
    assert "default-src 'none'" in raw


@pytest.mark.parametrize("count", range(16))
def test_page_of_a_run_that_was_killed_at_any_event(tmp_path: Path, count: int) -> None:
    text = outline(page(tmp_path, events()[:count])).text
    assert "unfinished" in text


def test_non_finite_losses_are_accepted(tmp_path: Path) -> None:
    reported = [*events(), step_finished(2, math.nan), step_finished(3, math.inf)]
    outline(page(tmp_path, reported))


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
