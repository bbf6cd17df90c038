"""Run all models in one thread, which gets jobs from the event loop and sends pieces back."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_plugins.commands.serve.engine import Engine, Runner, to_api_error
from tunesmith_plugins.commands.serve.job import Channel, Event, Job

Post = tuple[Channel, Event]


class ModelThread:
    """Runs the engines in turn while they have work.

    Only this thread touches the tensors of the models. It never waits for a client, because pieces
    go to unbounded queues.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.engines = engines
        """The engines for new requests, by name; :meth:`change` replaces the mapping."""
        self._runners = {engine.runner for engine in engines.values()}
        self._entered: dict[Runner, str] = {}
        """Runners in use, each with a model's name, including removed ones with jobs left."""
        self._new: deque[tuple[str, Engine, Job]] = deque()
        self._wake = threading.Condition()
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tunesmith-model", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread, which delivers pieces to this event loop."""
        self._loop = loop
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Stop after the current step, and wait at most this many seconds for the step."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """True if the thread is running."""
        return self._thread.is_alive()

    def submit(self, model: str, engine: Engine, jobs: Sequence[Job]) -> None:
        """Queue generation jobs for the engine of a model."""
        with self._wake:
            self._new += [(model, engine, job) for job in jobs]
            self._wake.notify()

    def change(self, changes: Mapping[str, Engine | None]) -> None:
        """Add engines, or remove those given as None, which finish the jobs they have."""
        with self._wake:
            changed = {**self.engines, **changes}
            self.engines = {name: engine for name, engine in changed.items() if engine is not None}
            self._runners = {engine.runner for engine in self.engines.values()}
            self._wake.notify()

    def _run(self) -> None:
        try:
            while self._take_new():
                posts: list[Post] = []
                for engine, name in [*self._entered.items()]:
                    if not engine.is_empty:
                        posts += self._step(name, engine)
                    elif self._is_removed(engine):
                        del self._entered[engine]
                        engine.__exit__()
                self._deliver(posts)
        finally:
            for engine in self._entered:
                engine.__exit__()

    def _take_new(self) -> bool:
        """Pass new jobs to their engines, or wait for one; return False to stop the thread."""
        with self._wake:
            while not (self._new or self._is_stopping) and self._is_idle:
                self._wake.wait()
            new, self._new = self._new, deque()
            if self._is_stopping:
                return False
        for name, engine, job in new:
            if not job.is_cancelled:
                if engine.runner not in self._entered:
                    self._entered[engine.runner] = name
                    engine.runner.__enter__()
                engine.add(job)
        return True

    def _is_removed(self, engine: Runner) -> bool:
        return engine not in self._runners

    @property
    def _is_idle(self) -> bool:
        return all(e.is_empty and not self._is_removed(e) for e in self._entered)

    def _step(self, name: str, engine: Runner) -> list[Post]:
        try:
            return [(job.channel, piece) for job, piece in engine.step()]
        except Exception as error:  # A single request must not end the server.
            shown = to_api_error(error)
            if shown.status >= 500:
                lines = "".join(traceback.format_exception(error))
                render.print_note(f"{one_line(name)}: the model failed\n{lines}", style="bad")
            return [(job.channel, shown) for job in engine.clear()]

    def _deliver(self, posts: Sequence[Post]) -> None:
        if posts and self._loop is not None:
            with suppress(RuntimeError):  # The event loop is closed, so nobody is waiting.
                self._loop.call_soon_threadsafe(_put, posts)


def _put(posts: Sequence[Post]) -> None:
    for channel, event in posts:
        channel.queue.put_nowait(event)
