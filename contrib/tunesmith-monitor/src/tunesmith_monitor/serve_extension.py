"""Extension ``monitor`` of ``tunesmith serve``: log the traffic, and split it between two models.

The server passes answers to the extension in another thread, which appends lines to a file.
``tunesmith monitor`` and ``tunesmith ab`` read that file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import Field

from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.offers import ServeExtensionOffer
from tunesmith.options import Options
from tunesmith_cli.serving import ServedAnswer, ServedRequest, ServeExtension
from tunesmith_monitor.traffic import MONITORED

CANDIDATE = "candidate"
"""Name of the second model."""


class MonitorExtensionOptions(Options):
    """The table ``[monitor]`` of the file passed to ``serve --extensions``."""

    log: str = Field("traffic.jsonl", description="File to append requests and answers to.")
    candidate: str = Field(
        "", description="Model folder of a second run, to compare with `tuned`. Empty: none."
    )
    share: float = Field(0.5, gt=0, lt=1, description="Share of the users who get the candidate.")
    header: str = Field("x-user", description="Header with the user name, set by the proxy.")
    experiment: str = Field("1", description="Another name assigns users to models again.")


class MonitorExtension(ServeExtension):
    """Logs each request with its answer."""

    def __init__(self, options: MonitorExtensionOptions) -> None:
        self.options = options
        try:
            self._file = Path(options.log).open("ab", buffering=0)  # noqa: SIM115 - while serving
        except OSError as error:
            what = f"monitor.log: {options.log}: cannot be opened: {error.strerror}"
            raise UsageError(what, hint="create its folder, or name another file") from None

    def user(self, request: ServedRequest) -> str | None:
        """Return the user of a request whose model the split may choose."""
        user = request.headers.get(self.options.header.lower())
        return user if request.model == MONITORED else None

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        """Append one line for each answer."""
        asked, user = json.loads(request.body), self.user(request)
        row = {
            "id": answer.id,
            "time": round(time.time(), 3),
            "model": answer.model,
            # Outcomes need to be grouped by user, not to name the user.
            "user": hash_user(user, self.options.experiment) if user else None,
            **{key: asked[key] for key in ("messages", "prompt") if key in asked},
            "answer": answer.texts[0] if answer.texts else "",
        }
        if answer.confidences and answer.confidences[0] is not None:
            row["confidence"] = answer.confidences[0]
        self._file.write(json.dumps(row).encode() + b"\n")


class SplitExtension(MonitorExtension):
    """Also gives some users the candidate."""

    def models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel]:
        """Load the candidate; return it by the name that requests use."""
        return {CANDIDATE: load(Path(self.options.candidate))}

    def choose(self, request: ServedRequest) -> str | None:
        """Return the candidate for its share of the users; requests without a user keep `tuned`."""
        user = self.user(request)
        is_second = user and assign(user, self.options.experiment) < self.options.share
        return CANDIDATE if is_second else None


def build(options: MonitorExtensionOptions) -> MonitorExtension:
    """Create the extension. Without a candidate, no request waits for it."""
    return SplitExtension(options) if options.candidate else MonitorExtension(options)


def assign(user: str, experiment: str) -> float:
    """Return a number from 0 to 1 that depends on the user and the experiment alone."""
    return int(hash_user(user, experiment), 16) / 16**16


def hash_user(user: str, experiment: str) -> str:
    """Return 16 hexadecimal digits that stand for a user."""
    return hashlib.blake2b(f"{experiment}\0{user}".encode(), digest_size=8).hexdigest()


MONITOR = ServeExtensionOffer(
    name="monitor",
    summary="log traffic for `tunesmith monitor`, and split it between two models",
    config=MonitorExtensionOptions,
    build=build,
    headers=lambda options: [options.header],
)
