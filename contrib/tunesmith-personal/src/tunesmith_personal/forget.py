"""Delete what a run folder and the caches have about a user, and search for what is left."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.plugins import cache_folder
from tunesmith.records import Record, exchanges
from tunesmith.storage import MANIFEST, commit_folder, write_atomic
from tunesmith_evidence.winner import WINNER_FOLDER
from tunesmith_personal.store import FOLDER, INDEX, Store
from tunesmith_personal.technique import SHARED_ADAPTER

GONE, EVENTS = "(forgotten)", "events.jsonl"
SHORTEST = 6
"""Shorter texts are not searched for, because they also occur by chance."""
EXCERPT = 40
"""Reports show the start of long texts, so that is searched for too."""
START, END = r"(?:(?<![\w-])|(?<=\\[nrt]))", r"(?![\w-])"
"""Edges of a word. A text may begin after an escaped line break."""
NAME_START, NAME_END = r"(?<!\w[.@])", r"(?![.@]\w)"
"""Edges of a name, which may be a part of another user's name or address."""
NO_NUMBER, NO_KEY = r'(?<!":)(?<!": )', r'(?!"\s*:)'
"""Matches that must not be replaced in a JSON file: numbers, and the keys of objects."""
IDENTIFIERS = ("event", "model", "evaluator", "metric", "baseline", "level", "source", "phase")
"""Keys of events whose values the program compares."""
CACHES = ("tokens", "vectors.sqlite")
"""Caches that may contain something derived from the user's rows."""


@dataclass(frozen=True)
class UserTexts:
    """Texts that no other user's texts have, and the user's name: as plain text, JSON and HTML."""

    user: str
    needles: tuple[str, ...]
    """The longest first."""

    @classmethod
    def find(cls, run: Path, plan: Plan, user: str) -> UserTexts:
        """Collect the texts from the data, if it still exists, and from the run's evaluations.

        Examples of findings, which may be of any user, count as this user's.
        """
        own, others = _read_examples(run / EVENTS), _read_identifiers(run / EVENTS)
        for group, text in (*_read_data(plan), *_read_evaluations(run)):
            (own if group == user else others).add(text)
        rest = "\n".join(others)
        return cls.make(user, (text for text in own if text not in rest), rest)

    @classmethod
    def make(cls, user: str, texts: Iterable[str], rest: str = "") -> UserTexts:
        """Return the texts that are long enough to search for, in all forms.

        The starts of long texts are searched for too, unless ``rest``, other users' texts, has
        them.
        """
        found = {text for text in (user, *texts) if len(text) >= SHORTEST}
        starts = {" ".join(text.split())[:EXCERPT] for text in found if len(text) > EXCERPT}
        found |= {start for start in starts if start not in rest}
        forms = {form for text in found for form in _write_forms(text)}
        return cls(user, tuple(sorted(forms, key=len, reverse=True)))

    def replace_in(self, content: bytes) -> bytes:
        """Return the content of a file without the texts."""
        found = [n for n in self.needles if n.encode("utf-8", "surrogatepass") in content]
        if not found:
            return content
        text = content.decode("utf-8", "surrogateescape")
        for needle in found:
            text = re.sub(self._write_pattern(needle), GONE, text)
        return text.encode("utf-8", "surrogateescape")

    def is_in(self, path: Path) -> bool:
        """Return True if a file contains one of the texts."""
        content = path.read_bytes()
        return self.replace_in(content) != content

    def _write_pattern(self, needle: str) -> str:
        """Return a pattern that finds a short text as whole words only.

        It does not match in ``user-10`` for ``user-1``, in a number of a JSON file, or, unless it
        is the user's name, as the key of a JSON object.
        """
        escaped = re.escape(
            needle.encode("utf-8", "surrogatepass").decode(errors="surrogateescape")
        )
        if len(needle) >= EXCERPT:
            return escaped
        number = NO_NUMBER if needle.isdecimal() else ""
        if needle == self.user:
            return f"{START}{number}{NAME_START}{escaped}{END}{NAME_END}"
        return f"{START}{number}{escaped}{END}{NO_KEY}"


def _write_forms(text: str) -> Iterator[str]:
    """Yield the text as it is, as JSON, and as HTML by Python and by Jinja."""
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield html.escape(text)
    yield html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _read_identifiers(events: Path) -> set[str]:
    """Return words of the program that a row may have too, such as the names of metrics."""
    lines = map(json.loads, events.read_text(encoding="utf-8").splitlines())
    return {str(event[key]) for event in lines for key in IDENTIFIERS if key in event}


def _read_examples(events: Path) -> set[str]:
    """Return the examples of findings, which show rows in the log and in reports."""
    lines = map(json.loads, events.read_text(encoding="utf-8").splitlines())
    return {example for event in lines for example in event.get("examples", ())}


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
    The log and the evaluations, from which the texts are known, and the store come last, so that a
    command that was interrupted can be repeated.
    """
    texts = UserTexts.find(run, plan, user)
    _clear_winner(run / WINNER_FOLDER, user)
    last = ("evaluations", EVENTS, FOLDER, WINNER_FOLDER)
    for path in _list_files(run):
        if path.relative_to(run).parts[0] not in last:
            _replace_texts(path, texts)
    for name in CACHES:
        shutil.rmtree(cache_folder() / name, ignore_errors=True)
        for path in cache_folder().glob(f"{name}*"):
            path.unlink()
    _clear_events(run / EVENTS)
    _replace_texts(run / EVENTS, texts)
    for path in sorted((run / "evaluations").glob("*.jsonl")):
        _clear_evaluation(path, texts)
    Store(run).forget(user)
    return [str(path.relative_to(run)) for path in _list_files(run) if texts.is_in(path)]


def _list_files(run: Path) -> list[Path]:
    """Return the files that may have texts of rows, and not those that were given to the run.

    The shared adapter's folder has the words of the tokenizer. The store writes its index again
    from the other users' entries.
    """
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    shared, index = run / SHARED_ADAPTER, run / FOLDER / INDEX
    given = ("lock", "run.toml")
    return [p for p in files if p.name not in given and p != index and shared not in p.parents]


def _clear_winner(folder: Path, user: str) -> None:
    """Delete the user's rows from those that the run's winning baseline is built from."""
    path = folder / "train.jsonl"
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    left = [line for line in lines if json.loads(line)["group"] != user]

    def write(new: Path) -> None:
        shutil.copytree(folder, new, dirs_exist_ok=True, ignore=lambda *_: [MANIFEST])
        (new / path.name).write_text("".join(left), encoding="utf-8")

    commit_folder(folder, write)


def _clear_evaluation(path: Path, texts: UserTexts) -> None:
    """Keep only the numbers of the user's test rows, because the scores of the run need them."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [_clear(row) if row.get("group") == texts.user else row for row in rows]
    _write(path, texts.replace_in(_to_lines(kept).encode()))


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
    _write(path, _to_lines(kept).encode())


def _to_lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(path: Path, content: bytes) -> None:
    """Replace a file that has another content."""
    if content != path.read_bytes():
        mode = path.stat().st_mode
        write_atomic(path, content)
        path.chmod(mode)


def _replace_texts(path: Path, texts: UserTexts) -> None:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        return  # not a text file: it is reported
    _write(path, texts.replace_in(content))
