"""``tunesmith data stats``: count rows, lengths, duplicates and labels."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import click
import numpy as np

from tunesmith.errors import DataError
from tunesmith.records import Record, last_exchange
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument
from tunesmith_data.skipped_rows import describe_skipped
from tunesmith_data.splits import MAX_CLASS_LABELS, PromptTexts, normalize_text
from tunesmith_data.text import content_key
from tunesmith_evidence.answers.normalize import normalize_unicode
from tunesmith_plugins.commands.data.open_data import (
    OpenedData,
    count_skipped,
    open_data,
    text_parts,
)
from tunesmith_plugins.commands.data.tokens import create_tokenize

QUANTILES = {"shortest": 0.0, "median": 0.5, "95 %": 0.95, "99 %": 0.99, "longest": 1.0}
SHOWN_LABELS = 10
LABELS_OF_ANSWERS = ("good", "bad")


@click.command("stats")
@data_argument
@click.option("--tokens", is_flag=True, help="Also count tokens, with the run file's model.")
@click.option(
    "--topics", is_flag=True, help="Group prompts into topics by their words. Takes a few seconds."
)
@result_options
def command(state: CliState, data: DataSource, tokens: bool, topics: bool, as_json: bool) -> None:
    """Count rows, lengths, duplicates and labels in each part of the data.

    Rows are duplicates if their text is equal, apart from case and white space.
    """
    opened = open_data(data, state)
    found = measure(opened, tokens=tokens, topics=topics)
    if as_json:
        render.print_json({"schema": "tunesmith.data-stats/1", **found})
    else:
        _print(found)


def measure(opened: OpenedData, *, tokens: bool = False, topics: bool = False) -> dict[str, Any]:
    """Return the statistics of the data as JSON."""
    seen: set[bytes] = set()
    parts = {}
    for name, records in opened.parts.items():
        parts[name] = _measure_part(records, seen)
        if tokens:
            parts[name]["tokens"] = _count_tokens(opened, records)
        if topics:
            parts[name]["topics"] = _group_prompts(records)
    return {
        "description": opened.dataset.description,
        "skipped": count_skipped(opened.dataset),
        "parts": parts,
    }


def _measure_part(records: Sequence[Record], seen: set[bytes]) -> dict[str, Any]:
    """Return the statistics of a split. ``seen`` has the digests of rows in earlier splits."""
    lengths: dict[str, array[int]] = {}
    labels: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    groups: set[str] = set()
    own: set[bytes] = set()
    duplicates = in_other_parts = 0
    for record in records:
        kinds[type(record).__name__] += 1
        for label, text, _ in text_parts(record):
            lengths.setdefault(label, array("q")).append(len(text))
        if record.group is not None:
            groups.add(record.group)
        if len(labels) <= MAX_CLASS_LABELS:
            labels[normalize_unicode(last_exchange(record)[1].described)] += 1
        key = normalize_text(content_key(record)).encode("utf-8", "surrogatepass")
        digest = blake2b(key, digest_size=16).digest()
        duplicates += digest in own
        in_other_parts += digest in seen
        own.add(digest)
    seen |= own
    recur = len(labels) <= min(MAX_CLASS_LABELS, len(records) // 3)
    return {
        "rows": len(records),
        "kinds": dict(kinds),
        "duplicates": duplicates,
        "rows_of_other_parts": in_other_parts,
        "groups": len(groups),
        "labeled_answers": {
            label: len(lengths[label]) for label in LABELS_OF_ANSWERS if label in lengths
        },
        "characters": {label: _quantiles(values) for label, values in lengths.items()},
        "labels": dict(labels.most_common()) if recur else {},
    }


def _count_tokens(opened: OpenedData, records: Sequence[Record]) -> dict[str, Any]:
    tokenize = create_tokenize(opened.plan)
    lengths, total, trained = array("q"), 0, 0
    causes: Counter[str] = Counter()
    for record in records:
        try:
            for example in tokenize(record):
                lengths.append(example.tokens)
                total += example.tokens
                trained += example.trained_tokens
        except DataError as error:
            causes[error.what.partition(",")[0]] += 1
    return {
        "total": total,
        "trained": trained,
        "lengths": _quantiles(lengths),
        "skipped": dict(causes),
    }


def _group_prompts(records: Sequence[Record]) -> list[dict[str, Any]]:
    from tunesmith_plugins.commands.data.topics import find_topics

    return [
        {"share": topic.share, "words": topic.words, "example": records[topic.row].source}
        for topic in find_topics(PromptTexts(records))
    ]


def _quantiles(values: array[int]) -> dict[str, int]:
    if not values:
        return {}
    found = np.quantile(values, [*QUANTILES.values()])
    return dict(zip(QUANTILES, found.round().astype(int).tolist(), strict=True))


def _print(found: dict[str, Any]) -> None:
    render.print_paragraph(found["description"])
    for cause, count in found["skipped"].items():
        render.print_text(describe_skipped(cause, count), style="warning")
    for name, part in found["parts"].items():
        if not part["rows"]:
            render.print_text(f"\n{name}: no rows", style="strong")
            continue
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in part["kinds"].items())
        render.print_text(f"\n{name}: {part['rows']:,} rows ({kinds})", style="strong")
        render.print_text(f"  duplicates: {part['duplicates']:,}")
        if part["rows_of_other_parts"]:
            text = f"  rows that are also in an earlier split: {part['rows_of_other_parts']:,}"
            render.print_text(text, style="warning")
        if part["labeled_answers"]:
            counts = (f"{count:,} {label}" for label, count in part["labeled_answers"].items())
            render.print_text(f"  labeled answers: {', '.join(counts)}")
        if part["groups"]:
            render.print_text(f"  groups: {part['groups']:,}")
        rows = [
            [f"characters of {label}", *(f"{n:,}" for n in values.values())]
            for label, values in part["characters"].items()
        ]
        if "tokens" in part:
            tokens = part["tokens"]
            rows.append(["tokens", *(f"{n:,}" for n in tokens["lengths"].values())])
            render.print_text(f"  tokens: {tokens['total']:,}, {tokens['trained']:,} trained on")
            for cause, count in tokens["skipped"].items():
                rows_text = format_count(count, "row")
                render.print_text(f"  not tokenized: {rows_text}: {cause}", style="warning")
        render.print_table(["", *QUANTILES], rows, right=range(1, len(QUANTILES) + 1))
        _print_labels(part["labels"])
        for topic in part.get("topics", ()):
            words = one_line(" ".join(topic["words"])) or "no common words"
            render.print_text(f"  topic: {100 * topic['share']:.0f} % {words}")


def _print_labels(labels: dict[str, int]) -> None:
    shown = [f"{label} {count:,}" for label, count in list(labels.items())[:SHOWN_LABELS]]
    if shown:
        more = len(labels) - len(shown)
        text = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
        render.print_paragraph(f"labels: {text}", indent="  ")
