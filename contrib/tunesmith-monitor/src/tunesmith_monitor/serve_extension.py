"""Extension ``monitor`` of ``tunesmith serve``: log the traffic, and split it between two models.

The extension only appends lines to a file, so a request costs a few microseconds. ``tunesmith
monitor`` and ``tunesmith ab`` read that file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import Field

from tunesmith.contracts import TextModel
from tunesmith.offers import ServeExtensionOffer
from tunesmith.options import Options
from tunesmith_cli.serving import ServedAnswer, ServedRequest, ServeExtension
from tunesmith_monitor.traffic import MONITORED

CANDIDATE = "candidate"
"""Name of the second model."""


class MonitorExtensionOptions(Options):
    """Options in the table ``[monitor]`` of the file for ``serve --extensions``."""

    log: str = Field("traffic.jsonl", description="File to append requests and answers to.")
    candidate: str = Field(
        "", description="Model folder of a second run, to compare with `tuned`. Empty: none."
    )
    share: float = Field(0.5, gt=0, lt=1, description="Share of the users who get the candidate.")
    header: str = Field("x-user", description="Header with the user name, set by the proxy.")
    experiment: str = Field("1", description="Another name assigns users to models again.")


class MonitorExtension(ServeExtension):
    """Logs each request with its answer; some users get the candidate."""

    def __init__(self, options: MonitorExtensionOptions) -> None:
        self.options = options
        self._file = Path(options.log).open("ab", buffering=0)  # noqa: SIM115 - open while serving

    def models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel]:
        """Return the candidate."""
        return {CANDIDATE: load(Path(self.options.candidate))} if self.options.candidate else {}

    def choose(self, request: ServedRequest) -> str | None:
        """Return the candidate for its share of the users; requests without a user keep `tuned`."""
        user = request.headers.get(self.options.header.lower())
        if not self.options.candidate or not user or request.model != MONITORED:
            return None
        is_second = assign(user, self.options.experiment) < self.options.share
        return CANDIDATE if is_second else None

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        """Append one line for each answer."""
        asked = json.loads(request.body)
        user = request.headers.get(self.options.header.lower())
        row = {
            "id": answer.id,
            "time": round(time.time(), 3),
            "model": answer.model,
            # Outcomes need to be grouped by user, not to name the user.
            "user": hash_user(user, self.options.experiment) if user else None,
            **{key: asked[key] for key in ("messages", "prompt") if key in asked},
            "answer": answer.texts[0] if answer.texts else "",
        }
        if answer.logprobs and answer.logprobs[0] and answer.finish_reasons[0] == "stop":
            row["logprob"] = sum(answer.logprobs[0])
        self._file.write(json.dumps(row).encode() + b"\n")


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
    build=MonitorExtension,
    headers=lambda options: [options.header],
    needs_logprobs=True,
)
