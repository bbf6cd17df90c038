"""The data of a run: rows, findings, and the first batch with its mask."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.text import format_count, safe_text
from tunesmith_evidence.report.first_batch import FirstBatch, TokenRole, TokenRow
from tunesmith_tui.cells import heading, join, paragraph, shown, word
from tunesmith_tui.run_state import MAX_FINDINGS, RunState

LEVELS = ("error", "warning", "info")
MARKS: dict[TokenRole, str] = {
    "context": "dim", "trained": "bold underline green", "scored": "reverse", "omitted": "dim",
}  # fmt: skip
MAX_ROWS, MAX_PIECES = 20, 1_500
BAR = 40


def render_data(run: RunState) -> RenderableType:
    """Return the rows of each split, the findings and the tokens of the first batch."""
    return Group(
        *_render_rows(run), *_render_findings(run), *_render_batches(run), *_render_lengths(run)
    )


def _render_rows(run: RunState) -> Iterator[RenderableType]:
    yield join((shown(run.name, 40, "bold"), word(run.status)))
    data = run.report.data
    if data is None:
        yield Text("The run has not loaded its data yet.")
        return
    yield paragraph(data.description)
    splits = (("training", data.train), ("validation", data.validation), ("test", data.test))
    yield Text(", ".join(format_count(count, f"{name} row") for name, count in splits if count))
    for cause, count in data.skipped.items():
        yield join((Text(f"skipped {count:,}:", "yellow"), shown(cause, 60)))


def _render_lengths(run: RunState) -> Iterator[RenderableType]:
    lengths = run.report.data.lengths.get("train", {}) if run.report.data else {}
    for part, counts in lengths.items():
        yield heading("") + shown(f"Characters per {part}, training rows", 60, "bold underline")
        most = max(counts.values(), default=1) or 1
        for length, count in sorted(counts.items(), key=lambda item: int(item[0])):
            bar = "█" * max(1, round(BAR * count / most)) if count else ""
            yield Text(f"up to {int(length):>7,} {bar} {count:,}")


def _render_findings(run: RunState) -> Iterator[RenderableType]:
    counts = {level: sum(f.level == level for f in run.findings) for level in LEVELS}
    texts = [format_count(count, level) for level, count in counts.items() if count]
    more = "; only the first ones are kept" if len(run.findings) == MAX_FINDINGS else ""
    yield heading(f"Findings: {', '.join(texts) or 'none'}{more}")
    for finding in sorted(run.findings, key=lambda f: LEVELS.index(f.level)):
        rows = format_count(finding.count, "row") if finding.count else ""
        yield join((word(finding.level), shown(finding.source, 40, "bold"), rows))
        yield paragraph(finding.message)
        for example in finding.examples[:3]:
            yield Text("  e.g. ") + shown(example, 72)
        if finding.hint:
            yield paragraph(f"→ {finding.hint}", "italic")


def _render_batches(run: RunState) -> Iterator[RenderableType]:
    for stage, batch in run.first_batches.items():
        yield heading("") + shown(f"First batch {stage}", 60, "bold underline")
        yield Text(describe_batch(batch))
        yield Text("Marks: ") + join(
            (Text("trained on", MARKS["trained"]), Text("context", MARKS["context"]),
             Text("scored", MARKS["scored"]), Text("‹special token›"))
        )  # fmt: skip
        for row in batch.rows[:MAX_ROWS]:
            title = f"{format_count(row.tokens, 'token')}, {row.trained:,} trained"
            yield join((Text(""), shown(row.title, 50, "bold"), Text(title, "dim")), " ")
            yield render_tokens(row)


def describe_batch(batch: FirstBatch) -> str:
    """Return the size of the first batch as text."""
    hidden = batch.hidden_rows + max(0, len(batch.rows) - MAX_ROWS)
    text = f"{batch.layout}, {format_count(batch.tokens, 'token')}, {batch.padding:,} padding"
    return f"{text}; {format_count(hidden, 'row')} not shown" if hidden else text


def render_tokens(row: TokenRow) -> Text:
    """Return the tokens of a row in the style of their role; line ends are shown as ``⏎``."""
    text = Text()
    for number, (piece, role, is_special) in enumerate(row):
        if number == MAX_PIECES:
            text.append("…")
            break
        shown_piece = safe_text(piece).replace("\n", "⏎\n").replace("\t", "⇥")
        text.append(f"‹{shown_piece}›" if is_special else shown_piece, MARKS[role])
        if role == "omitted":
            text.append("…")
    return text
