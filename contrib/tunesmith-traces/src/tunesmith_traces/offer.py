"""Offer the ``traces`` data loader, with its options."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Literal, TypeVar

from pydantic import Field

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError, UsageError
from tunesmith.offers import DataLoaderOffer
from tunesmith_data import ByteStream, Fields, Row, RowError, RowLoader, RowOptions, read_json_rows
from tunesmith_data.personal_data import mask_row
from tunesmith_traces.completions import read_langfuse, read_openai
from tunesmith_traces.otel import read_otel
from tunesmith_traces.trace import JSON, SESSION, Call, Mask, Trace, read_label

T = TypeVar("T")

_MARKS = re.compile(
    rb'(?<!\\)"(?:resourceSpans"\s*:|gen_ai\.[\w.]+"\s*:'
    rb'|choices"\s*:\s*\[\s*\{\s*"(?:index|message|finish_reason|logprobs)"'
    rb'|type"\s*:\s*"GENERATION")'
)
"""Matches names in a file that only traces have, outside of texts."""
_CUT_OFF = ("length", "max_tokens", "content_filter", "safety")
"""Reasons why a model stopped before the end of its answer."""
_MANY = {"resourceSpans", "observations"}
"""Keys of rows that contain several calls."""
_UNKNOWN_FORM = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


class TraceOptions(RowOptions):
    """Options of ``[data] use = "traces"``."""

    group: str | None = Field(
        SESSION,
        description="Column whose rows stay in the same split. By default, the calls of a "
        "conversation (or session, or trace) stay together.",
    )
    feedback: str | None = Field(
        None,
        min_length=1,
        description="Name of the score, metadata key or attribute with feedback. Calls without it "
        "are then not used.",
    )
    use_feedback: Literal["label", "filter"] = Field(
        "label",
        description="`label`: answers become examples of good and bad answers, for preference "
        "training. `filter`: only good answers are used.",
    )
    good_from: float = Field(
        0.5, description="Smallest number that is good feedback: 0.5 suits 0 and 1, or -1 and 1."
    )
    mask: bool | Literal["presidio"] = Field(
        False,
        description="Replace personal data and keys with placeholders such as [EMAIL], like "
        "`tunesmith data fix --mask`. `presidio` also finds what the recognizers of Presidio find, "
        "with the distribution tunesmith-presidio. Names and postal addresses are not found.",
    )


class KeySet:
    """A set of keys in a temporary file, which SQLite deletes when it is no longer used.

    At most 2 MB of it are in memory, however many keys it has.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "pragma cache_size = -2000; pragma journal_mode = off; begin;"
            "create table keys (key blob primary key) without rowid"
        )

    def add(self, key: bytes) -> bool:
        """Add a key; return False if it was added before."""
        return self._database.execute("insert or ignore into keys values (?)", [key]).rowcount == 1


@dataclass
class TraceLoader:
    """Reads calls from JSON files; equal calls are used once."""

    options: TraceOptions
    _unused: Counter[str] = field(default_factory=Counter)
    _known: KeySet = field(default_factory=KeySet)
    _mask: Mask | None = None

    def load(self) -> Dataset:
        """Read all files, and count the calls that are not used.

        Raises:
            DataError: a file cannot be read, or no call is usable.
        """
        self._unused.clear()
        self._known = KeySet()
        self._mask = find_mask(self.options.mask)
        try:
            dataset = RowLoader(self.options, self._read_rows, memory=0).load()
        except DataError as error:
            message = "\n  ".join([error.what, *self._list_unused()])
            raise DataError(error.where, message, hint=error.hint, skipped=error.skipped) from None
        return replace(dataset, warnings=[*dataset.warnings, *self._list_unused()])

    def _list_unused(self) -> list[str]:
        counts = [f"{count:,} {reason}" for reason, count in self._unused.most_common()]
        return [f"traces not used: {', '.join(counts)}"] if counts else []

    def _read_rows(self, stream: ByteStream, name: str) -> Iterator[Row]:
        number = 0
        for row in read_json_rows(stream, name, max_row_bytes=self.options.max_row_bytes):
            given = row.fields
            found = [given] if isinstance(given, RowError) else self._read_calls(dict(given))
            for fields in found:
                number += 1
                shares_line = not (isinstance(given, RowError) or _MANY.isdisjoint(given))
                # The row of training is not the row of the file, so it has no span.
                span = row.span
                if not isinstance(fields, RowError):
                    span = None
                elif self.options.mask:  # skipped rows are stored as they are in the file
                    fields, span = RowError(fields.cause, hint=fields.hint), None
                yield Row(row.line, fields, span, number if shares_line else row.number)

    def _read_calls(self, row: JSON) -> Iterator[Fields | RowError]:
        """Yield a row for training or an error for each call in a row of the file."""
        calls = attempt(lambda: [*find_reader(row)(row)])
        if isinstance(calls, RowError):
            yield calls
            return
        for call in calls:
            fields = attempt(partial(self._read_call, call))
            if fields is not None:
                yield fields

    def _read_call(self, call: Call) -> Fields | None:
        trace = call()
        if trace is None:
            self._unused["other than calls of a model"] += 1
            return None
        return self._to_row(trace)

    def _to_row(self, trace: Trace) -> Fields | None:
        """Return the row of a call, or None with its reason counted."""
        options, label = self.options, None
        if options.feedback is not None:
            label = read_label(trace.scores.get(options.feedback), options.good_from)
        reason = self._find_reason(trace, label)
        if not reason:
            label = label if options.use_feedback == "label" else None
            row = trace.to_row(label=label, slices=options.slices, mask=self._mask)
            content = json.dumps({**row, SESSION: ""}, sort_keys=True).encode()
            if self._known.add(blake2b(content, digest_size=16).digest()):
                return row
            reason = "repeated"
        self._unused[reason] += 1
        return None

    def _find_reason(self, trace: Trace, label: bool | None) -> str:
        """Return why a call cannot be used, or ""."""
        reason = trace.finish_reason.casefold()
        if trace.failed or reason == "error":
            return "failed"
        if reason in _CUT_OFF:
            return "with an answer that was cut off"
        if self.options.feedback is not None and label is None:
            return "without feedback"
        return "with bad feedback" if self.options.use_feedback == "filter" and not label else ""


def find_mask(name: bool | Literal["presidio"]) -> Mask | None:
    """Return the function that masks the texts of a row, or None.

    Raises:
        UsageError: tunesmith-presidio is not installed.
    """
    if name != "presidio":
        return mask_row if name else None
    try:
        from tunesmith_presidio.analyze import find_spans
    except ImportError as error:
        hint = "install tunesmith-presidio, or set mask = true"
        raise UsageError(f'data.mask = "presidio": {error}', hint=hint) from None
    return partial(mask_row, find=find_spans)


def attempt(call: Callable[[], T]) -> T | RowError:
    """Return what a call returns, or the error of a row that has another form."""
    try:
        return call()
    except RowError as error:
        return error
    except _UNKNOWN_FORM as error:
        return RowError("the trace has an unknown form", f"{type(error).__name__}: {error}")


def find_reader(row: JSON) -> Callable[[JSON], Iterator[Call]]:
    """Return the function that reads rows of this form.

    Raises:
        RowError: the row is not a trace.
    """
    if "resourceSpans" in row or "attributes" in row:
        return read_otel
    if "choices" in row or "response" in row:
        return read_openai
    if "observations" in row or {"input", "output"} <= row.keys():
        return read_langfuse
    hint = "traces are spans of OpenTelemetry, completions of OpenAI, or exports of Langfuse"
    raise RowError("row is not a trace", f"keys: {', '.join(row)}", hint=hint)


def recognizes(name: str) -> bool:
    """Return True if the start of a file has names that only traces have."""
    try:
        with open(name, "rb") as file:
            return _MARKS.search(file.read(1 << 16)) is not None
    except (OSError, ValueError):
        return False


TRACES = DataLoaderOffer(
    name="traces",
    summary="recorded calls: OpenTelemetry spans, OpenAI completions, Langfuse exports",
    config=TraceOptions,
    build=TraceLoader,
    recognizes=recognizes,
)
