"""Run the server's extensions, which choose models for requests and observe answers.

An answer never waits for an observer. If an observer falls behind, it misses answers, which the
metrics count.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.config.problems import convert_problems
from tunesmith.config.run_file import read_run_file
from tunesmith.contracts import TextModel
from tunesmith.errors import ConfigError, UsageError
from tunesmith.execution.emitter import MAX_REPORTER_FAILURES
from tunesmith.fence import describe_error, fence
from tunesmith.offers import Offered, ServeExtensionOffer
from tunesmith.plan import Plan
from tunesmith_cli import render
from tunesmith_cli.serving import ServedAnswer, ServedRequest, ServeExtension
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.metrics import Metrics

MAX_PENDING = 100
"""Number of answers that may wait for an observer; any more are dropped."""
SECONDS_BETWEEN = 1.0
"""Pause of an observer, which ends early if many answers wait. Waking a thread for every answer
would be expensive."""
SECRET_HEADER_PATTERN = re.compile(
    "authorization|cookie|token|secret|password|credential|api-?key|jwt"
)
"""Headers with names like these are never passed to extensions."""


class Extension:
    """An extension in use, whose observer runs in its own thread."""

    def __init__(self, offered: Offered[ServeExtensionOffer[Any]], config: Any) -> None:
        offer, self._plugin = offered.offer, offered.plugin
        self.name, self.needs_logprobs = offer.name, offer.needs_logprobs
        with fence(self._plugin, "build", may_take_long=True):
            self._built, named = offer.build(config), map(str.lower, offer.headers(config))
            self.headers = frozenset(
                name for name in named if not SECRET_HEADER_PATTERN.search(name)
            )
        # A call costs a change of threads, so methods that do nothing are not called.
        kind = type(self._built)
        self.chooses = kind.choose is not ServeExtension.choose
        self.changes_models = kind.change_models is not ServeExtension.change_models
        self._load: Callable[[Path], TextModel] | None = None
        self._added: set[str] = set()
        self._pending: Queue[tuple[ServedRequest, ServedAnswer] | None] = Queue(MAX_PENDING)
        self._due = Event()

    def open_models(self, plan: Plan) -> Mapping[str, TextModel]:
        """Return the models that the extension adds to the run's models."""
        technique, base = plan.technique.offer.build(plan.technique.config), plan.found_model
        with fence(self._plugin, "models", may_take_long=True):
            self._load = partial(technique.open, base.fetch(), device=plan.run.device)
            return dict(self._built.models(self._load))

    def change_models(self, served: Collection[str]) -> Mapping[str, TextModel | None]:
        """Return models to add now, by name, and None for models to remove; {} after a failure.

        Models that other extensions or the run serve are not changed.
        """
        if self._load is None:
            return {}
        try:
            changed = dict(self._built.change_models(self._load))
        except Exception as error:
            self._note(f"cannot change the models: {describe_error(error)}")
            return {}
        foreign = {*served} - self._added
        for name in foreign & changed.keys():
            self._note(f"a model named {name!r:.100} is already served")
        own = {name: model for name, model in changed.items() if name not in foreign}
        self._added |= own.keys()
        return own

    def choose(self, request: ServedRequest) -> str | None:
        """Return the model that the extension chooses for a request, or None if it makes no choice.

        Raises:
            ApiError: the extension rejects the request, or failed.
        """
        try:
            name: str | None = self._built.choose(request)
            if name is None or isinstance(name, str):
                return name
            raise TypeError(f"the extension chose {name!r:.100}, which is not a name")
        except UsageError as error:
            raise ApiError(400, error.message) from None
        except BaseException as error:  # Even SystemExit must not end the server.
            raise self._failure("".join(traceback.format_exception(error))) from None

    def require_served(self, name: str, served: Collection[str]) -> None:
        """Raise an ApiError if a model that the extension chose is not served."""
        if name not in served:
            raise self._failure(f"the extension chose {name!r:.100}, which is not served")

    def _failure(self, text: str) -> ApiError:
        self._note(text)
        return ApiError(500, f"the extension {self.name} failed; see the server's output")

    def start(self, metrics: Metrics) -> None:
        """Start the observer's thread."""
        self._outcome = partial(metrics.observations.labels, self.name)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        """Queue an answer for the observer's thread, or drop it if the queue is full."""
        try:
            self._pending.put_nowait((request, answer))
        except Full:
            self._outcome("dropped").inc()
        if self._pending.qsize() > MAX_PENDING // 2:
            self._due.set()

    def stop(self, seconds: float) -> None:
        """Stop observing. Wait at most this many seconds for queued answers."""
        with suppress(Full):
            self._pending.put(None, timeout=seconds)
            self._due.set()
            self._thread.join(seconds)

    def _run(self) -> None:
        failures = 0
        while pending := self._take():
            if failures == MAX_REPORTER_FAILURES:
                self._outcome("muted").inc()
                continue
            try:
                self._built.observe(*pending)
                self._outcome("observed").inc()
            except BaseException as error:
                failures += 1
                self._outcome("failed").inc()
                muted = (
                    "; the extension observes no further answers"
                    if failures == MAX_REPORTER_FAILURES
                    else ""
                )
                self._note(f"failed: {describe_error(error)}{muted}")

    def _take(self) -> tuple[ServedRequest, ServedAnswer] | None:
        while self._pending.empty():
            self._due.wait(SECONDS_BETWEEN)
            self._due.clear()
        return self._pending.get()

    def _note(self, text: str) -> None:
        render.print_note(f"extension {self.name} of {self._plugin.full_name}: {text}", style="bad")


def open_extensions(catalog: Catalog, file: Path) -> list[Extension]:
    """Build the extensions that have a table in a TOML file.

    Raises:
        UsageError: no extension has this name, or it rejects its options.
        ConfigError: the file is not valid TOML, or an option is wrong.
    """
    found = []
    for name, options in read_run_file(file, environment={}).tables.items():
        try:
            offered = catalog.find(ServeExtensionOffer, name)
            config = offered.offer.config.model_validate_json(json.dumps(options, default=str))
        except OfferNotFoundError as error:
            raise UsageError(f"{file}: {error.what}", hint=error.hint) from None
        except ValidationError as error:
            raise ConfigError([*convert_problems(error, name, offered.offer.config)]) from None
        found.append(Extension(offered, config))
    return found


def describe_request(
    request: Request, model: str, body: str, extensions: Sequence[Extension]
) -> ServedRequest:
    """Return a request as extensions see it, with the headers that they declared."""
    names = {name for extension in extensions for name in extension.headers} & {*request.headers}
    headers = {name: ", ".join(request.headers.getlist(name)) for name in names}
    return ServedRequest(model=model, headers=headers, body=body)
