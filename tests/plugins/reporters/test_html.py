"""The html reporter: one page, made from the run's log, that trusts nothing it was told."""

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
    DataRead,
    Event,
    Forecast,
    Gated,
    Measured,
    Noticed,
    RunFinished,
    RunStarted,
    Sampled,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)
from tunesmith.storage import RunFolder
from tunesmith.storage.atomic import encode_json
from tunesmith_plugins.reporters.html.charts import (
    MOST_POINTS,
    Bar,
    curve,
    intervals,
    thinned,
    ticks,
)
from tunesmith_plugins.reporters.html.offer import HTML, HtmlOptions

EVIL = "<script>alert(1)</script>\"'>\x1b[31m{{ 7*7 }}&\u202e"


def stepped(step: int, loss: float, **extras: float) -> Stepped:
    return Stepped(
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
        extras=extras,
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
        DataRead(
            description=text,
            train=2,
            heldout=2,
            left_out={text: 1},
            examples=[{"where": text, "cause": text, "detail": text}],
        ),
        Noticed(level="warning", source=text, message=text),
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
        stepped(1, 2.5, **{text: 0.5}),
        stepped(2, 1.5, **{text: 0.75}),
        stepped(3, 0.5, **{text: 0.7}),
        Trained(
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
            kind_of_device="cpu",
            available=10_000,
            memory={"low": 900, "expected": 1100, "high": 1300},
            phase=text,
            uncorrected=1100,
            uncounted=0,
            runs=0,
            seconds=[1.0, 2.0],
            flops=1e9,
            tokens=30,
            notes=[text],
        ),
        Gated(stage=text, gate=text, passed=False, sentence=text),
        Sampled(step=1, prompt=text, answer=text, reward=0.625),
        Watched(step=1, figures={text: 0.1}, best=True),
        Watched(step=3, figures={text: 0.3, "gold": 1.0}, best=False),
    ]


def finished(**verdict: object) -> RunFinished:
    return RunFinished(
        status="ok", exit_code=0, finished="2026-01-01T00:01:00+00:00", seconds=60, verdict=verdict
    )


def page(place: Path, told: list[Event]) -> str:
    folder = RunFolder(place)
    folder.events.write_text("".join(encode_json(e.to_json()) + "\n" for e in told))
    with HTML.build(HtmlOptions(), folder):
        pass
    return (place / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags, what is outside of them, and whether every tag is closed."""

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


def test_everything_that_was_measured_is_on_the_page(tmp_path: Path) -> None:
    told = [*events(), finished(sentence="it was worth it", outcome="better", comparisons={})]
    text = outline(page(tmp_path, told)).text
    for words in (
        "it was worth it",
        "0.25",
        "[0.65, 0.85]",
        "3 of 3",
        "20 tokens/s",
        "2 rows held out",
    ):
        assert words in text, words


def test_what_users_wrote_is_only_text(tmp_path: Path) -> None:
    told = [*events(EVIL), finished(sentence=EVIL, outcome=EVIL, metric=EVIL, rival=EVIL)]
    raw = page(tmp_path, told)
    parsed = outline(raw)
    assert "script" not in parsed.tags and "onerror" not in parsed.attributes
    assert "<script" not in raw and "\x1b" not in raw and "\u202e" not in raw
    assert "alert(1)" in parsed.text and "{{ 7*7 }}" in parsed.text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    raw = page(tmp_path, [*events(), finished()])
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", raw)
    assert "default-src 'none'" in raw


@pytest.mark.parametrize("count", range(16))
def test_a_run_that_was_cut_off_anywhere_has_a_page(tmp_path: Path, count: int) -> None:
    text = outline(page(tmp_path, events()[:count])).text
    assert "unfinished" in text


def test_losses_that_are_not_finite_do_not_break_it(tmp_path: Path) -> None:
    told = [*events(), stepped(2, math.nan), stepped(3, math.inf)]
    outline(page(tmp_path, told))


def test_it_is_used_unless_reporters_are_named() -> None:
    assert HTML.by_default


# --------------------------------------------------------------------------- charts


def points(svg: str) -> list[tuple[float, float]]:
    line = ET.fromstring(svg).find("polyline")
    assert line is not None
    pairs = (pair.split(",") for pair in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_a_curve_goes_where_its_values_go() -> None:
    drawn = points(curve([1, 2, 4], [0.0, 1.0, 0.5], "t"))
    (x1, y1), (x2, y2), (x3, y3) = drawn
    assert x1 < x2 < x3 and x3 - x2 == pytest.approx(2 * (x2 - x1), abs=0.2)
    assert y2 < y3 < y1, "higher values stand higher"
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.2)


def test_gaps_are_left_out() -> None:
    drawn = points(curve([1, 2, 3], [1.0, None, 2.0], "t"))
    assert len(drawn) == 2
    assert curve([1, 2], [1.0, math.nan], "t") == ""


def test_intervals_share_one_scale() -> None:
    svg = ET.fromstring(intervals([Bar("a", 0.5, 0.25, 0.75), Bar("b", 0.75, 0.5, 1.0)], "t"))
    first, second = svg.findall("g")
    at = [float(g[2].attrib["cx"]) for g in (first, second)]
    ends = [float(g[1].attrib[end]) for g in (first, second) for end in ("x1", "x2")]
    assert ends[1] == pytest.approx(at[1], abs=0.2) and ends[2] == pytest.approx(at[0], abs=0.2)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_thinning_keeps_the_peaks() -> None:
    series = [(n, math.sin(n)) for n in range(50_000)]
    series[31_234] = (31_234, 99.0)
    kept = thinned(series)
    assert len(kept) <= MOST_POINTS + 2
    assert (31_234, 99.0) in kept and kept == sorted(kept)
