"""The card of a run: its result on one page, without rows of the data."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.execution.report import Report, build_report
from tunesmith.testing import sample_run
from tunesmith_evidence.report.card import WIDTH, render_card_markdown, render_card_svg
from tunesmith_evidence.report.view import ReportView

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</svg><script>alert(1)</script> | @everyone \x1b[31m"


def report(text: str = "accuracy") -> Report:
    *events, end = sample_run(text, steps=3)
    verdict = {
        "word": "PROMPT", "sentence": f"not worth it {text} " + "word " * 40, "metric": text,
        "evaluator": text, "outcome": "worse", "baseline": "random-shots",
        "comparisons": {
            "random-shots": {
                "value": 0.8, "tuned": 0.7, "difference": -0.1, "low": -0.2, "high": -0.05,
                "p_value_holm": 0.01, "n": 120, "outcome": "worse",
            },
        },
    }  # fmt: skip
    return build_report([*events, replace(end, verdict=verdict)])  # type: ignore[call-arg]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_the_card_as_svg(tmp_path: Path) -> None:
    svg = render_card_svg(ReportView(report(), tmp_path))
    found = texts(svg)
    parts = (
        "accuracy - accuracy",
        "PROMPT",
        "-0.100",
        "difference, 95 % interval [-0.200, -0.050]",
        "zero-shot",
        "tuned",
    )
    assert [found.index(part) for part in parts] == sorted(found.index(part) for part in parts)
    assert any(line.startswith("accuracy · 3 of 3 steps · 240 training rows") for line in found)
    assert "prefers-color-scheme:dark" in svg and len(svg) < 20_000


def test_nothing_leaves_the_card(tmp_path: Path) -> None:
    root = ET.fromstring(render_card_svg(ReportView(report(), tmp_path)))
    height = float(root.attrib["height"])
    ends = [float(e.attrib["y"]) for e in root.findall(f"{SVG}text")]
    assert max(ends) < height and ends == sorted(ends)
    # A character is about half as wide as it is high.
    assert all(len("".join(e.itertext())) * 7 < WIDTH for e in root.findall(f"{SVG}text"))


def test_the_card_as_markdown(tmp_path: Path) -> None:
    text = render_card_markdown(ReportView(report(), tmp_path))
    assert text.startswith(
        "### PROMPT: accuracy - accuracy\n\n**-0.100** (difference, 95 % interval"
    )
    assert r"| **tuned** | **0.750 \[0.650, 0.850\]** | 120 | `███████████████░░░░░` |" in text


@pytest.mark.parametrize("render", [render_card_svg, render_card_markdown])
def test_a_card_has_no_markup_of_users_and_no_paths(
    render: Callable[[ReportView], str], tmp_path: Path
) -> None:
    text = render(ReportView(report(EVIL), tmp_path))
    outside = "".join(text.split("`")[::2]).replace("\\<", "")
    assert "<script" not in outside and "\x1b" not in text
    assert str(tmp_path) not in text
    secret = "hf_" + "a1B2" * 8
    assert "hf_a" not in render(ReportView(report(secret), tmp_path))


@pytest.mark.parametrize("count", range(len([*sample_run()])))
def test_a_card_of_a_run_that_was_killed_at_any_event(tmp_path: Path, count: int) -> None:
    unfinished = build_report([*sample_run()][:count])
    assert "UNFINISHED" in texts(render_card_svg(ReportView(unfinished, tmp_path)))
    assert render_card_markdown(ReportView(unfinished, tmp_path)).startswith("### UNFINISHED")
