"""Trace a row through data files, runs and caches, and delete it where that is possible.

A row is searched for by its own texts: those that no other row of its file contains. Its line
number is not enough, because files change and rows are copied. What weights learned cannot be
searched. Therefore, all runs that trained on a file with the row are listed, and runs that started
from those.

Runs store small pictures of test rows with images. They contain no text of a row, so the answers of
the run tell which picture belongs to which row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import DataError, UsageError
from tunesmith.plugins import cache_folder
from tunesmith.storage import MANIFEST, lock, write_atomic
from tunesmith_evidence.report.previews import read_previews
from tunesmith_regulated.audit_log import Entry, append
from tunesmith_regulated.options import Policy
from tunesmith_regulated.retention import require_intact
from tunesmith_regulated.search import (
    contains,
    is_compressed,
    is_text,
    list_texts,
    read_rows,
    replace_strings,
)
from tunesmith_regulated.signing import digest_file, sign_folder
from tunesmith_regulated.verify import State, replay

DELETED = "[deleted]"
MIN_LENGTH, EXCERPT = 6, 24
"""Shorter texts are in too many places by chance. The start of a longer text is searched for too,
because excerpts are cut."""
ENCODED_CACHES = ("tokens", "vectors.sqlite", "images", "vision")
"""Caches with rows as token ids, vectors or images, which cannot be searched: deleted entirely."""


@dataclass(frozen=True)
class Trace:
    """The places where a row was found.

    ``texts`` were searched for. ``lines`` are those of data files, ``files`` the other files with
    the row, ``named`` the files that the row names, such as images, and ``unsearched`` data files
    of another format and compressed files. ``retrain`` has the runs whose weights may depend on the
    row, with reasons.
    """

    texts: tuple[str, ...]
    lines: Mapping[Path, Collection[int]]
    files: tuple[Path, ...]
    named: tuple[Path, ...]
    unsearched: tuple[Path, ...]
    retrain: Mapping[str, str]


def trace_row(
    policy: Policy, entries: Sequence[Entry], place: str | None, given: Sequence[str]
) -> Trace:
    """Find the row ``FILE:LINE``, and all rows with one of the given texts."""
    state = replay(entries)
    runs = {policy.folder / run for run in state.signatures}
    inside = {path for folder in {policy.folder, cache_folder()} | runs for path in _walk(folder)}
    inputs = {path for name in state.inputs if (path := policy.folder / name).is_file()}
    copies = {path for path in inside if path.suffix == ".jsonl" and not runs & {*path.parents}}
    copies -= {policy.log}
    files = {path: rows for path in inputs | copies if (rows := read_rows(path)) is not None}
    found = {path: _find_lines(rows, given) for path, rows in files.items()}
    if place is not None:
        match = re.fullmatch(r"(.+):([1-9]\d*)", place)
        path = Path(match[1] if match else place).resolve()
        rows = files.setdefault(path, (read_rows(path) if path.is_file() else None) or {})
        if match is None or int(match[2]) not in rows:
            raise DataError(place, "there is no such row; expected FILE:LINE, or use --text")
        found[path] = {int(match[2]), *found.get(path, ())}
    own = {text for path, lines in found.items() for text in _own_texts(files[path], lines)}
    named = {path.parent / text for path, lines in found.items() if lines for text in own}
    named = {path for path in named if path in inside - files.keys()}
    own |= _find_pictures(policy, entries, {*given, *own}, found)
    texts = tuple(sorted({*given, *own}, key=len, reverse=True))
    if not texts:
        hint = f"give a text of at least {MIN_LENGTH} characters with --text"
        raise UsageError("no text of the row is in this row only", hint=hint)
    lines = {path: found[path] | _find_lines(rows, texts) for path, rows in files.items()}
    lines = {path: numbers for path, numbers in lines.items() if numbers}
    unsearched = {path for path in inputs - files.keys() if not is_text(path)}
    unsearched |= {path for path in inside if is_compressed(path)}
    hits = {path for path in (inside | inputs) - lines.keys() if contains(path, texts)}
    hits -= named
    hits |= {path for name in ENCODED_CACHES for path in cache_folder().glob(f"{name}*")}
    sources = {**lines, **dict.fromkeys((unsearched | hits) & inputs, ())}
    retrain = find_retrain(policy, entries, sources)
    found_in, named_by, unknown = (
        tuple(sorted(paths)) for paths in (hits, named, unsearched - hits)
    )
    return Trace(texts, lines, found_in, named_by, unknown, retrain)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, but not those of virtual environments or behind links."""
    for here, folders, names in os.walk(folder):
        if "pyvenv.cfg" in names:
            folders.clear()
        paths = (Path(here, name) for name in names)
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _find_lines(rows: Mapping[int, Sequence[str]], texts: Collection[str]) -> set[int]:
    return {n for n, own in rows.items() if any(text in item for item in own for text in texts)}


def _own_texts(rows: Mapping[int, Sequence[str]], lines: Collection[int]) -> Iterator[str]:
    """Yield the texts of these rows, and their starts, that no other row contains."""
    others = "\n".join(text for n, own in rows.items() if n not in lines for text in own)
    for text in (text for line in lines for text in rows[line]):
        for part in {text, text[:EXCERPT]}:
            if len(part.strip()) >= MIN_LENGTH and part not in others:
                yield part


def _find_pictures(
    policy: Policy,
    entries: Sequence[Entry],
    texts: Collection[str],
    lines: Mapping[Path, Collection[int]],
) -> set[str]:
    """Return the names and the data of pictures that runs stored of these rows, and of no others.

    Such a row has one of the texts, or is one of these lines of a data file.
    """
    state, found = replay(entries), set[str]()
    for entry, run in _list_starts(policy, entries, state):
        pictures = read_previews(run)
        own = {
            f"{path.name}:{n}"
            for path, numbers in lines.items()
            if pictures and _is_unchanged(policy, state, entry, path)
            for n in numbers
        }
        of_row, of_others = set[str](), set[str]()
        for source, row in _read_answers(run) if pictures else ():
            is_row = source in own or any(text in item for item in row for text in texts)
            shown = (part for part in pictures if any(part in item for item in row))
            (of_row if is_row else of_others).update(shown)
        for part in of_row - of_others:
            found |= {part, pictures[part].url.partition(",")[2]} - {""}
    return found


def _list_starts(
    policy: Policy, entries: Sequence[Entry], state: State
) -> Iterator[tuple[Entry, Path]]:
    """Yield the entries about starts of runs that still exist, with the folders of the runs."""
    for entry in entries:
        if entry.action == "start" and entry.run in state.signatures:
            yield entry, policy.folder / entry.run


def _is_unchanged(policy: Policy, state: State, start: Entry, path: Path) -> bool:
    """Return True if a line number still tells the row of a data file that a run has read.

    The file must be the same, and no other file of the run may have its name.
    """
    inputs, name = start.facts["inputs"], policy.relative(path)
    if name not in inputs or [Path(other).name for other in inputs].count(path.name) != 1:
        return False
    return bool(inputs[name]["sha256"] == state.inputs[name])


def _read_answers(run: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the source of each test row, such as "test.jsonl:7", and the texts of its answer."""
    for path in (run / "evaluations").glob("tuned.*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, LookupError, TypeError):  # a damaged line tells nothing
                row = json.loads(line)
                yield Path(row["source"]).name, [text for _, text in list_texts(row)]


def find_retrain(
    policy: Policy, entries: Sequence[Entry], sources: Mapping[Path, Collection[int]]
) -> dict[str, str]:
    """Return the runs whose weights may depend on the row; not those that only tested with it.

    ``sources`` has the lines with the row for each data file, or no lines if they are not known.
    """
    files = {policy.relative(path): path for path in sources}
    state, found = replay(entries), dict[str, str]()
    for entry, run in _list_starts(policy, entries, state):
        inputs = entry.facts["inputs"]
        for name in [n for n in inputs if n in files and inputs[n]["key"] != "data.test"]:
            path = files[name]
            is_same = _is_unchanged(policy, state, entry, path)
            if not (is_same and _only_tested(run, path, sources[path])):
                found[entry.run] = f"read {name}"
    before = None
    while before != found:  # runs that start from these, or replay their rows, name their folders
        before = dict(found)
        for other in state.signatures.keys() - found.keys():
            file = policy.folder / other / "run.toml"
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            found.update((other, f"names {n}") for n in before if str(policy.folder / n) in text)
    return found


def _only_tested(run: Path, file: Path, lines: Collection[int]) -> bool:
    """Return True if these lines of a file were test rows, according to the run's answers."""
    tested = {source for source, _ in _read_answers(run)}
    return bool(lines) and {f"{file.name}:{n}" for n in lines} <= tested


def delete_row(policy: Policy, entries: Sequence[Entry], trace: Trace) -> list[Path]:
    """Delete a row, and sign changed runs again; return the places that may still contain it."""
    state = replay(entries)
    folders = [policy.folder / run for run in state.signatures]
    runs = {run: [path for path in trace.files if path.is_relative_to(run)] for run in folders}
    runs = {run: paths for run, paths in runs.items() if paths}
    for run in runs:
        require_intact(policy, entries, run)
    inputs = {}
    for path, numbers in trace.lines.items():
        _delete_lines(path, numbers)
        if (name := policy.relative(path)) in state.inputs:
            inputs[name] = {"key": "", "sha256": digest_file(path)}
    for run, paths in runs.items():
        with lock(run):
            for path in paths:
                _delete_in_file(path, run, trace.texts)
    for path in trace.files:
        if path.is_relative_to(cache_folder()):
            _remove(path)
    digests = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in trace.texts]
    append(policy, "delete", inputs=inputs, texts=sorted(digests), retrain=sorted(trace.retrain))
    for run in runs:
        append(policy, "sign", run, signature=sign_folder(run, policy.key))
    searched = (*trace.files, *trace.lines)
    kept = [path for path in searched if path.is_file() and contains(path, trace.texts)]
    return [*kept, *trace.named, *trace.unsearched]


def _delete_lines(path: Path, numbers: Collection[int]) -> None:
    """Empty lines of a file. Empty lines are skipped, so other rows keep their numbers."""
    lines = path.read_bytes().split(b"\n")
    for number in numbers:
        lines[number - 1] = b""
    write_atomic(path, b"\n".join(lines))


def _delete_in_file(path: Path, run: Path, texts: Collection[str]) -> None:
    """Delete texts from a file of a run if it is not part of a model."""
    committed = [p for p in path.parents if p.is_relative_to(run) and (p / MANIFEST).is_file()]
    if committed:
        if committed[-1].name == "winner":  # a baseline, which consists of rows
            _remove(committed[-1])
    elif path.suffix in (".json", ".jsonl"):
        is_lines = path.suffix == ".jsonl"
        texts_of_values = path.read_bytes().splitlines() if is_lines else [path.read_bytes()]
        values = [replace_strings(json.loads(t), texts, DELETED) for t in texts_of_values if t]
        indent = None if is_lines else 2
        write_atomic(path, "".join(json.dumps(value, indent=indent) + "\n" for value in values))
    elif path.suffix in (".html", ".md", ".txt"):
        _remove(path)  # a view, which `tunesmith report` writes again


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
