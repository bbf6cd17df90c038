"""Send requests within a budget, and keep every answer in a journal.

An answer is on disk before the next request of its thread is sent. A request whose answer is in the
journal is never sent again, also after ``kill -9``, and equal requests are sent once.

Before a request is sent, an upper bound of its cost is reserved, so the budget cannot be exceeded.
If it does not fit, it waits until the requests before it have settled. The last request that fits
therefore depends only on the answers, not on their timing. Requests without an answer, because they
failed or the process was killed, count with their upper bound, because the server may have charged
them. The same holds for a try whose answer was lost before another one succeeded: its prompt tokens
are then known, and its answer counts with the maximum.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Condition, Lock
from typing import Any, BinaryIO

from tunesmith.errors import EnvironmentProblem
from tunesmith.storage.atomic import explain_os_errors
from tunesmith_evidence.endpoint.address import read_token
from tunesmith_evidence.endpoint.client import Endpoint
from tunesmith_synthetic.generators.row_request import (
    EndpointOptions,
    RowRequest,
    count_reserved,
)

MAX_FAILURES = 5
"""The server counts as unusable after so many failed requests in a row."""
CUT = frozenset({"length", "content_filter"})
"""Finish reasons of answers that are not complete."""
NO_BUDGET = "the budget is used up"


@dataclass(frozen=True)
class Kept:
    """An answer in the journal, with the tokens of all tries."""

    text: str
    cut: bool
    prompt_tokens: int
    answer_tokens: int
    tries: int = 1
    """Number of tries that may have been charged."""


class Journal:
    """The answers received so far, by the key of their request; a cut last line is ignored."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self.known: dict[str, Kept] = {}
        sent: list[tuple[str, tuple[int, int]]] = []
        content = path.read_bytes() if path.is_file() else b""
        complete = content[: content.rfind(b"\n") + 1]
        for line in complete.splitlines():
            row = json.loads(line)
            key = row.pop("key")
            if "sent" in row:
                sent.append((key, tuple(row["sent"])))
            else:
                self.known[key] = kept = Kept(**row)
                for _ in range(kept.tries):
                    sent.remove(next(each for each in reversed(sent) if each[0] == key))
        self.lost = _sum((0, 0), *(tokens for _, tokens in sent))
        """Upper bound of the tokens of requests whose answer never arrived."""
        if complete != content:
            os.truncate(path, len(complete))

    def __enter__(self) -> Journal:
        self._file: BinaryIO = self._path.open("ab")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def note_sending(self, key: str, reserved: tuple[int, int]) -> None:
        """Store that a request is about to be sent."""
        self._write({"key": key, "sent": reserved})

    def add(self, key: str, kept: Kept) -> None:
        """Store an answer."""
        self._write({"key": key, **asdict(kept)})

    def _write(self, row: Mapping[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        with self._lock:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())


class Budget:
    """Tokens and money that are spent or reserved."""

    def __init__(self, options: EndpointOptions, spent: tuple[int, int]) -> None:
        self._options = options
        self._changed = Condition()
        self._spent, self._reserved = spent, (0, 0)
        self._open = self._waiting = 0

    def reserve(self, tokens: tuple[int, int]) -> bool:
        """Reserve tokens, waiting for open requests if needed; False: they do not fit."""
        with self._changed:
            while not self._fits(_sum(self._spent, self._reserved, tokens)):
                if not self._open:
                    return False
                self._changed.wait()
            self._reserved, self._open = _sum(self._reserved, tokens), self._open + 1
            return True

    def extend(self, tokens: tuple[int, int]) -> bool:
        """Reserve tokens for another try of an open request, waiting for others if needed.

        Return False if they do not fit, and all requests that were sent wait like this one.
        """
        with self._changed:
            self._waiting += 1
            try:
                while not self._fits(_sum(self._spent, self._reserved, tokens)):
                    if self._waiting == min(self._open, self._options.parallel):
                        return False
                    self._changed.wait()
                self._reserved = _sum(self._reserved, tokens)
                return True
            finally:
                self._waiting -= 1

    def release(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Replace a reservation by what was used."""
        with self._changed:
            self._reserved = _sum(self._reserved, (-reserved[0], -reserved[1]))
            self._spent, self._open = _sum(self._spent, used), self._open - 1
            self._changed.notify_all()

    def _fits(self, tokens: tuple[int, int]) -> bool:
        options = self._options
        fits = options.max_tokens is None or sum(tokens) <= options.max_tokens
        return fits and (options.max_price is None or options.price(*tokens) <= options.max_price)


class Pace:
    """Spaces the requests evenly."""

    def __init__(self, per_minute: int | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def wait(self) -> None:
        """Wait until the next request may start; called by one thread."""
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._seconds


def send_requests(
    options: EndpointOptions, requests: Sequence[RowRequest], path: Path
) -> Iterator[Kept | str]:
    """Yield the answer to each request, in order, or the reason why a request has no answer.

    Raises:
        EnvironmentProblem: the key is missing, or several requests in a row have failed.
    """
    endpoint = Endpoint(
        options.url,
        options.model,
        token_variable=options.token,
        timeout=options.timeout,
        parallel=1,
        pause=options.pause,
        role="generator",
    )
    with (
        explain_os_errors(path),
        Journal(path) as journal,
        ThreadPoolExecutor(options.parallel) as pool,
    ):
        keys = {request.key for request in requests}
        known = [journal.known[key] for key in keys & journal.known.keys()]
        if len(known) < len(keys):
            read_token(options.token)  # a missing key ends the generation, not one request
        # All known answers count from the start: some may be of requests after a lost one.
        spent = _sum(journal.lost, *((each.prompt_tokens, each.answer_tokens) for each in known))
        budget = Budget(options, spent)
        started = _start(requests, endpoint, journal, budget, Pace(options.per_minute), pool)
        try:
            yield from _collect(_ahead(started, 2 * options.parallel))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


Started = Future[Kept] | Kept | str
"""A request that is open, one with an answer, or the reason why it is not sent."""


def _start(
    requests: Sequence[RowRequest],
    endpoint: Endpoint,
    journal: Journal,
    budget: Budget,
    pace: Pace,
    pool: ThreadPoolExecutor,
) -> Iterator[Started]:
    """Yield what is known about each request, and start those that fit into the budget."""
    started: dict[str, Started] = {**journal.known}
    is_over = False
    for request in requests:
        if request.key in started:
            pass
        elif not is_over and budget.reserve(reserved := count_reserved(request.body)):
            pace.wait()
            started[request.key] = pool.submit(_send, request, endpoint, journal, budget, reserved)
        else:
            is_over = True
            started[request.key] = NO_BUDGET
        yield started[request.key]


def _send(
    request: RowRequest,
    endpoint: Endpoint,
    journal: Journal,
    budget: Budget,
    reserved: tuple[int, int],
) -> Kept:
    tries = [reserved]

    def may_repeat() -> bool:
        fits = budget.extend(reserved)
        if fits:
            tries.append(reserved)
            journal.note_sending(request.key, reserved)
        return fits

    used = None
    try:
        journal.note_sending(request.key, reserved)
        (reply,) = replace(endpoint, may_repeat=may_repeat).ask([request.body], reserved[1])
        tokens = reply.prompt_tokens, reply.tokens
        if min(tokens) <= 0:  # the server does not count
            tokens = reserved
        used = _sum(tokens, *[(tokens[0], reserved[1])] * (len(tries) - 1))
        kept = Kept(reply.text, reply.finish_reason in CUT, *used, tries=len(tries))
        journal.add(request.key, kept)
        return kept
    finally:
        budget.release(_sum(*tries), used or _sum(*tries))


def _ahead(started: Iterator[Started], count: int) -> Iterator[Started]:
    """Yield in order, but start up to ``count`` requests before the first is awaited."""
    pending: deque[Started] = deque()
    for each in started:
        pending.append(each)
        if len(pending) > count:
            yield pending.popleft()
    yield from pending


def _collect(started: Iterator[Started]) -> Iterator[Kept | str]:
    """Wait for each request, in order.

    Raises:
        EnvironmentProblem: all requests have failed, or several in a row.
    """
    failures, succeeded, problem = 0, False, None
    for each in started:
        if not isinstance(each, Future):
            succeeded |= isinstance(each, Kept)
            yield each
            continue
        try:
            found = each.result()
        except EnvironmentProblem as error:
            failures, problem = failures + 1, error
            if failures == MAX_FAILURES:
                raise
            yield "the request failed"
        else:
            failures, succeeded = 0, True
            yield found
    if problem is not None and not succeeded:
        raise problem


def _sum(*tokens: tuple[int, int]) -> tuple[int, int]:
    return sum(each[0] for each in tokens), sum(each[1] for each in tokens)
