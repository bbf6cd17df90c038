"""The report as Markdown: complete, and without markup from users."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.events import Measured
from tunesmith.execution.report import build_report
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.report.markdown import escape_markdown, format_code_span, render_markdown
from tunesmith_evidence.report.view import ReportView

EVIL = "@everyone [x](http://e.vil) <img src=x> | `a` ``b`` **c**"


def test_a_report_has_all_its_parts(tmp_path: Path) -> None:
    line = {"source": "x:1", "prompt": "ask me", "expected": "yes", "output": "no"}
    line |= {"m": {"value": 0, "weight": 1}}
    (tmp_path / "m.jsonl").write_text(encode_json(line) + "\n")
    *events, end = [e for e in sample_run(steps=9) if not isinstance(e, Measured)]
    tuned = sample_event(Measured, metric="m", evaluator="m", records="m.jsonl")
    verdict = {"word": "PROMPT", "sentence": "not worth it", "metric": "m", "evaluator": "m"}
    report = build_report([*events, tuned, replace(end, verdict=verdict)])
    text = render_markdown(ReportView(report, tmp_path), 5)
    parts = (
        "# PROMPT: sample", "**0.750** (95 % interval", "> not worth it", "| **tuned** | 0.750 |",
        "## Training", "```text\nloss", "2.000 │•", "| peak memory | 2.0 GiB |", "## Predicted",
        "1 of 1 row wrong", "- prompt: `ask me`", "- `tuned`: `no`", "$ tunesmith run",
    )  # fmt: skip
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert "ask me" not in render_markdown(ReportView(report, tmp_path), 0)


def test_scores_on_validation_rows_are_called_so(tmp_path: Path) -> None:
    others = [e for e in sample_run(steps=2) if not isinstance(e, Measured)]
    reward = sample_event(Measured, metric="m", evaluator="m", part="validation")
    text = render_markdown(
        ReportView(build_report([*others[:-1], reward, others[-1]]), tmp_path), 0
    )
    assert "`m` (validation rows, higher is better)" in text


@pytest.mark.parametrize("count", range(len([*sample_run()])))
def test_a_run_that_was_killed_at_any_event(tmp_path: Path, count: int) -> None:
    report = build_report([*sample_run()][:count])
    assert render_markdown(ReportView(report, tmp_path), 5).startswith("# UNFINISHED")


def test_text_of_users_is_no_markup() -> None:
    """Outside of code spans there is no mention, link or tag, and no bar that ends a cell."""
    for text in (
        format_code_span(EVIL),
        escape_markdown(EVIL, 200),
        escape_markdown("a <b> | *c* [d](e)"),
    ):
        assert "@everyone" not in re.sub(r"(`+) ?.+? ?\1(?!`)", "", text)
        assert not re.search(r"(?<!\\)\|", text)
    assert escape_markdown("a <b> | *c*") == r"a \<b\> \| \*c\*"
    assert (
        format_code_span("a`b") == "``a`b``"
        and format_code_span("`") == "`` ` ``"
        and format_code_span("") == ""
    )


def test_no_secret_is_in_the_text(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    report = build_report(sample_run(secret, status="failed"))
    text = render_markdown(ReportView(report, tmp_path), 5)
    assert "hf_a" not in text and "[redacted:" in text.replace("\\", "")
