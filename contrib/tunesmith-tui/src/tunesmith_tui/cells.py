"""Turn values into text for the screens. Text from outside is escaped here, in one place."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from tunesmith.events import Measured
from tunesmith.text import format_count, format_duration, one_line, safe_text
from tunesmith_evidence.number_text import format_interval, format_number, format_setting
from tunesmith_tui.run_state import RunState, Stage

STYLES = {
    "ok": "green", "running": "bold cyan", "failed": "red", "damaged": "red", "gone": "dim",
    "error": "red", "warning": "yellow", "info": "dim",
    "better": "green", "worse": "red", "unclear": "yellow",
}  # fmt: skip
"""Styles of words. They only repeat what the words say."""
TONES = {"good": "bold green", "bad": "bold red", "open": "bold yellow"}


def shown(text: object, limit: int = 80, style: str = "") -> Text:
    """Return text from outside on one line, escaped and without markup."""
    return Text(one_line(str(text), max(1, limit)), style, no_wrap=True, end="\n")


def paragraph(text: object, style: str = "", limit: int = 4_000) -> Text:
    """Return text from outside that may be wrapped, escaped and without markup."""
    return Text(safe_text(str(text), limit), style)


def word(name: str) -> Text:
    """Return a status, a level or an outcome in its style."""
    return shown(name, 20, STYLES.get(name, ""))


def join(parts: Iterable[Text | str], separator: str = "  ") -> Text:
    """Join the parts that are not empty."""
    texts = [part if isinstance(part, Text) else Text(part) for part in parts if part]
    return Text(separator).join(texts)


def heading(title: str) -> Text:
    """Return the title of a section, after an empty line."""
    return Text(f"\n{title}", "bold underline")


def format_option(value: object, limit: int = 40) -> str:
    """Format an option of a plan for a line or a cell."""
    if value is None:
        return "not set"
    return one_line(str(value).lower() if isinstance(value, bool) else format_setting(value), limit)


def format_score(score: Measured | None) -> str:
    """Format a score with its interval, or "" if there is none."""
    if score is None:
        return ""
    return f"{format_number(score.value)} {format_interval(score.low, score.high)}"


def describe_state(run: RunState, limit: int = 20) -> Text:
    """Return the verdict, otherwise the status with the share of the training or the phase."""
    status = "damaged" if run.damaged_count else run.status
    verdict = run.report.verdict
    if status == "ok" and verdict:
        outcome = str(verdict.get("outcome", ""))
        return shown(verdict.get("word") or outcome, limit, STYLES.get(outcome, ""))
    _, stage = run.current_stage or ("", Stage())
    detail = run.phase if status == "running" else ""
    if status != "ok" and stage.step < stage.steps:
        detail = f"{100 * stage.step // stage.steps} %"
    return shown(f"{status} {detail}", limit, STYLES.get(status, ""))


def describe_damage(run: RunState) -> str:
    """Return how many lines of the log could not be read, or ""."""
    if not run.damaged_count:
        return ""
    first = ", ".join(map(str, run.damaged))
    more = ", …" if run.damaged_count > len(run.damaged) else ""
    lines = format_count(run.damaged_count, "damaged line")
    return f"events.jsonl has {lines}, ignored: {first}{more}"


def format_seconds(seconds: float) -> str:
    """Format a duration, or "" if it is zero."""
    return format_duration(seconds) if seconds else ""
