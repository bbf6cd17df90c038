"""Delete what a run folder and the caches have about a user, and search for what is left."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.plugins import cache_folder
from tunesmith.records import Record, exchanges
from tunesmith.storage import write_atomic
from tunesmith_personal.store import Store

GONE = "(forgotten)"
SHORTEST = 6
"""Shorter texts are not searched for, because they also occur by chance."""
EXCERPT = 40
"""Reports show the start of long texts, so that is searched for too."""
CACHES = ("tokens", "vectors.sqlite")
"""Caches that may contain something derived from the user's rows."""


@dataclass(frozen=True)
class UserTexts:
    """Texts that only this user's rows have, as plain text, JSON and HTML."""

    needles: tuple[str, ...]

    @classmethod
    def find(cls, run: Path, plan: Plan, user: str) -> UserTexts:
        """Collect the texts from the data, if it still exists, and from the run's evaluations."""
        own, others = {user}, set[str]()
        for group, text in (*_read_data(plan), *_read_evaluations(run)):
            (own if group == user else others).add(text)
        texts = {text for text in own - others if len(text) >= SHORTEST}
        texts |= {" ".join(text.split())[:EXCERPT] for text in texts if len(text) > EXCERPT}
        forms = {form for text in texts for form in _write_forms(text)}
        return cls(tuple(sorted(forms, key=len, reverse=True)))

    def is_in(self, path: Path) -> bool:
        """Return True if a file contains one of the texts."""
        content = path.read_bytes()
        return any(needle.encode("utf-8", "surrogatepass") in content for needle in self.needles)


def _write_forms(text: str) -> Iterator[str]:
    """Yield the text as it is, as JSON, and as HTML."""
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield html.escape(text)


def _read_data(plan: Plan) -> Iterator[tuple[str | None, str]]:
    try:
        parts = load_data(plan)[1]
    except (TunesmithError, OSError):
        return  # the user's rows, or all of the data, may have been deleted before
    for record in (*parts.train, *parts.validation, *parts.test):
        yield from ((record.group, text) for text in _list_texts(record))


def _list_texts(record: Record) -> Iterator[str]:
    for prompt, answer in exchanges(record):
        yield answer.shown_text
        if isinstance(prompt, tuple):
            yield from (message.shown_text for message in prompt)


def _read_evaluations(run: Path) -> Iterator[tuple[str | None, str]]:
    for path in sorted((run / "evaluations").glob("*.jsonl")):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            turns = line["prompt"] if isinstance(line["prompt"], list) else []
            texts = [text for _, text in turns] + [line["expected"], line.get("output", "")]
            yield from ((line.get("group"), text) for text in texts)


def forget_user(run: Path, plan: Plan, user: str) -> list[str]:
    """Delete a user from a run folder and the caches; return the files that still have texts.

    The paths are relative to the run folder. Files outside of it, such as exports, are not known.
    """
    texts = UserTexts.find(run, plan, user)
    Store(run).forget(user)
    _clear_evaluations(run, user)
    _clear_events(run / "events.jsonl")
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name != "lock"]
    for path in [path for path in files if texts.is_in(path)]:
        _replace_texts(path, texts)
    for name in CACHES:
        shutil.rmtree(cache_folder() / name, ignore_errors=True)
        for path in cache_folder().glob(f"{name}*"):
            path.unlink()
    return [str(path.relative_to(run)) for path in files if path.exists() and texts.is_in(path)]


def _clear_evaluations(run: Path, user: str) -> None:
    """Keep only the numbers of the user's test rows, because the scores of the run need them."""
    for path in sorted((run / "evaluations").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if any(row.get("group") == user for row in rows):
            kept = [_clear(row) if row.get("group") == user else row for row in rows]
            _write_lines(path, kept)


def _clear(row: dict[str, Any]) -> dict[str, Any]:
    gone = {"source": GONE, "prompt": [], "expected": GONE, "group": GONE, "output": GONE}
    metrics = {k: v for k, v in row.items() if isinstance(v, dict) and "value" in v}
    return {"row": row["row"], **metrics, **{k: v for k, v in gone.items() if k in row}}


def _clear_events(path: Path) -> None:
    """Remove the examples of rows, and the sampled answers, of all users."""
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [
        {**event, "examples": []} if "examples" in event else event
        for event in events
        if event.get("event") != "completion-sampled"
    ]
    _write_lines(path, kept)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    mode = path.stat().st_mode
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    path.chmod(mode)


def _replace_texts(path: Path, texts: UserTexts) -> None:
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # not a text file: it is reported
    for needle in texts.needles:
        content = content.replace(needle, GONE)
    write_atomic(path, content)
