"""The audit log: one signed entry per line, each with the hash of the line before it.

A changed, removed, moved or inserted entry breaks the chain, and nobody can write another chain
without the private key. If the last entries are removed, the chain is still valid. The file
``head`` therefore has the number and hash of the last entry.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import IntegrityError
from tunesmith.machine import explain_os_error
from tunesmith.storage import write_atomic
from tunesmith_regulated.options import Policy, current_account
from tunesmith_regulated.signing import is_signed, sign_bytes

Action = Literal["start", "refuse", "canaries", "sign", "promote", "export", "delete", "expire"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the log. ``run`` is a run folder, relative to the policy's folder, or empty."""

    number: int
    time: str
    account: str
    host: str
    action: str
    run: str
    facts: dict[str, Any]
    previous: str
    signature: str = ""

    def encode(self) -> bytes:
        """Return the line of the log, without its end."""
        return json.dumps(asdict(self), allow_nan=False).encode()

    @property
    def signed_content(self) -> bytes:
        """The bytes that the signature covers: all other fields."""
        return replace(self, signature="").encode()


def decode(line: bytes) -> Entry:
    """Parse a line of the log; raise a ValueError if it is not exactly what ``encode`` returns."""
    with suppress(TypeError, ValueError, RecursionError):
        entry = Entry(**json.loads(line))
        if entry.encode() == line:
            return entry
    raise ValueError("is not an entry")


def append(policy: Policy, action: Action, run: Path | None = None, **facts: Any) -> Entry:
    """Append a durable entry to the log, whose end must be intact, with the policy's SHA-256."""
    try:
        policy.log.parent.mkdir(parents=True, exist_ok=True)
        with policy.log.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
            problems = [*_check_lines(lines[-1:], policy.public_key, len(lines))]
            for problem in [*problems, *_check_head(policy, lines)]:
                hint = f"`tunesmith audit verify {policy.path}` lists all problems"
                raise IntegrityError(f"{policy.log}: {problem}", hint=hint)
            entry = Entry(
                number=len(lines) + 1,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                account=current_account(),
                host=socket.gethostname(),
                action=action,
                run=policy.relative(run) if run else "",
                facts={**facts, "policy": policy.sha256},
                previous=digest(lines[-1]) if lines else "",
            )
            entry = replace(entry, signature=sign_bytes(policy.key, entry.signed_content))
            file.write(entry.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            head = {"number": entry.number, "sha256": digest(entry.encode())}
            write_atomic(policy.head, json.dumps(head) + "\n")
    except OSError as error:
        raise explain_os_error(error, policy.log) or error from None
    return entry


def digest(line: bytes) -> str:
    """Return the SHA-256 of a line, without its end."""
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def read_entries(policy: Policy, key: Path | None = None) -> tuple[list[Entry], list[str]]:
    """Return all entries that can be parsed, and a message for each problem of the log."""
    lines, problems = [], []
    try:
        lines = policy.log.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"cannot be read: {error.strerror}")
    problems += [*_check_lines(lines, key or policy.public_key), *_check_head(policy, lines)]
    entries = []
    for line in lines:
        with suppress(ValueError):  # which is one of the problems
            entries.append(decode(line.removesuffix(b"\n")))
    return entries, problems


def require_entries(policy: Policy) -> list[Entry]:
    """Return all entries; raise an IntegrityError if the log has a problem."""
    entries, problems = read_entries(policy)
    if problems:
        raise IntegrityError(f"{policy.log}: {problems[0]}")
    return entries


def _check_lines(lines: Sequence[bytes], key: Path, first: int = 1) -> Iterator[str]:
    """Yield the problems of consecutive lines, numbered from ``first`` on."""
    previous = "" if first == 1 else None
    for number, line in enumerate(lines, first):
        try:
            entry = decode(line.removesuffix(b"\n"))
        except ValueError as error:
            yield f"line {number} {error}"
        else:
            if not is_signed(key, entry.signed_content, entry.signature):
                yield f"line {number} was changed, or signed with another key"
            if entry.number != number:
                yield f"line {number} has entry {entry.number}"
            if previous is not None and entry.previous != previous:
                yield f"line {number} does not follow the line before it"
        if not line.endswith(b"\n"):
            yield f"line {number} is incomplete"
        previous = digest(line)


def _check_head(policy: Policy, lines: Sequence[bytes]) -> Iterator[str]:
    """Yield a problem if the log does not contain the entry that the file ``head`` describes."""
    try:
        head = json.loads(policy.head.read_bytes())
        yield from check_head(lines, head["number"], head["sha256"], str(policy.head))
    except FileNotFoundError:
        if lines:
            yield f"{policy.head} is missing"
    except (ValueError, LookupError, TypeError, RecursionError):
        yield f"{policy.head} is damaged"
    except OSError as error:
        yield f"{policy.head} cannot be read: {error.strerror}"


def list_notes(policy: Policy, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield what is allowed, but what a reader of the log should know."""
    for before, entry in pairwise(entries):
        if entry.time < before.time:
            yield f"entry {entry.number} is dated before entry {before.number}"
    digests = [(f"entry {e.number}", e.facts["policy"]) for e in entries if "policy" in e.facts]
    for (since, was), (until, now) in pairwise([*digests, ("now", policy.sha256)]):
        if was != now:
            yield f"{policy.path.name} was changed between {since} and {until}"


def check_head(lines: Sequence[bytes], number: int, sha256: str, source: str) -> Iterator[str]:
    """Yield a problem if the log does not contain the line with this number and hash."""
    if not 1 <= number <= len(lines):
        yield f"ends at line {len(lines)}, but {source} knows line {number}"
    elif digest(lines[number - 1]) != sha256:
        yield f"line {number} differs from {source}"
