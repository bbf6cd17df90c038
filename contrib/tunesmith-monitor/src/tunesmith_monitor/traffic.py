"""Read requests from log files that still grow, and continue where the last read ended.

A line is JSON with some of these keys; other keys are ignored:

- ``prompt`` or ``messages``: the request
- ``confidence``, or ``logprob``: how sure the model was, or the log-probability of its answer
- ``right``: 1 or 0 (or a value between) for an audited answer; its line may come later, alone
- ``id``, ``model``: as the server reports them
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_evidence.review.scores import score_logprob

MONITORED = "tuned"
"""Name of the model in service; requests to other models only count as inputs."""
HEAD_BYTES = 256


@dataclass(frozen=True)
class Request:
    """A request, an audited answer, or both."""

    text: str | None
    """None if the line only reports that an earlier answer was right or wrong."""
    id: str = ""
    confidence: float | None = None
    right: float | None = None
    is_single: bool = True
    """True if the text is the only turn, so it can become the prompt of a row."""


@dataclass(frozen=True)
class Position:
    """The part of a file that was read; ``head`` is a checksum of its first bytes."""

    offset: int = 0
    head: int = 0

    def matches(self, path: Path) -> bool:
        """Return False if the file was replaced, for example by log rotation."""
        with path.open("rb") as file:
            start = file.read(min(self.offset, HEAD_BYTES))
        return path.stat().st_size >= self.offset and zlib.crc32(start) == self.head


def read_requests(
    path: Path, position: Position, policy: ReviewPolicy | None = None
) -> Iterator[tuple[Request | None, Position]]:
    """Yield each complete line after a position as a request, and the position after it.

    A line that cannot be used is None. A last line without its line break is still being written,
    so it is left for the next read.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if not position.matches(path):
            position = Position()
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(position.offset)
            offset = position.offset
            while (line := file.readline()).endswith(b"\n"):
                offset += len(line)
                position = Position(offset, zlib.crc32(head[:offset]))
                if line.strip():
                    yield parse_line(line, policy), position
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None


def parse_line(line: bytes | str, policy: ReviewPolicy | None = None) -> Request | None:
    """Return the request of a line, or None if it is unusable."""
    try:
        row = json.loads(line)
        return parse_row(row, policy) if isinstance(row, dict) else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def parse_row(row: Mapping[str, Any], policy: ReviewPolicy | None = None) -> Request | None:
    """Return the request of a row, or None if it has neither a request nor an audited answer.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: a value is unusable.
    """
    text, turns = row.get("prompt"), [""]
    if text is None and "messages" in row:
        turns = [_shown(m.get("content")) for m in row["messages"] if m["role"] != "system"]
        text = "\n".join(turns)
    if text is not None:
        text = text.strip().encode("utf-8", "replace").decode()  # without lone surrogates
    confidence, right = _share(row.get("confidence")), _share(row.get("right"))
    if confidence is None and policy is not None and row.get("logprob") is not None:
        confidence = _share(policy.confidence(score_logprob(float(row["logprob"]))))
    if row.get("model", MONITORED) != MONITORED:
        confidence = right = None
    if text is None:
        if right is None:
            return None
        confidence = None  # It was counted with the request.
    return Request(text, str(row.get("id", "")), confidence, right, len(turns) == 1)


def _shown(content: Any) -> str:
    """Return the content of a message as text, as for the rows of a run."""
    parts = content if isinstance(content, list) else [content or ""]
    return "".join(part if isinstance(part, str) else part["text"] for part in parts)


def _share(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= 1):
        raise ValueError
    return number
