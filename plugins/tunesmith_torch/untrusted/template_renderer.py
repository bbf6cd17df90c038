"""Render chat templates in a process of its own, which has limits of time and memory.

A chat template is a program from the authors of a model. Jinja's sandbox keeps it from objects and
files, but not from loops without end or gigabytes of text, and a template may do so for one row
among millions. So every row is rendered within limits. One process serves all templates; it starts
in a tenth of a second, and renders as fast as this one would.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from tunesmith_torch.options.training import TEMPLATE_DATE
from tunesmith_torch.untrusted import template_process

MAX_SOURCE_CHARACTERS = 1_000_000
SECONDS = 5.0
"""CPU time for all renderings of one conversation."""
_CONVERSATIONS_PER_REQUEST = 256
_CHARACTERS_PER_REQUEST = 1_000_000


@dataclass(frozen=True)
class TemplateSource:
    """A chat template, and the values that it gets besides the messages."""

    text: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The tokenizer's special tokens, by name."""
    date: date = TEMPLATE_DATE

    def with_generation_prompt(self, prompt: str) -> TemplateSource:
        """Return a template that ends with this text where it is asked for a generation prompt."""
        text = self.text.removesuffix("\n")  # jinja ignores one at the end, and none before it
        literal = json.dumps(prompt, ensure_ascii=False)
        suffix = f"{{% if add_generation_prompt %}}{{{{ {literal} }}}}{{% endif %}}"
        return replace(self, text=text + suffix)


@dataclass(frozen=True)
class Conversation:
    """Messages as a template gets them, and the prefixes to render."""

    messages: Sequence[Mapping[str, Any]]
    prefixes: Sequence[tuple[int, bool]]
    """Numbers of messages, and True if the generation prompt follows them."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Definitions of the tools that the model may call."""

    @property
    def characters(self) -> int:
        """Length of all contents."""
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Failure:
    """The reason why a conversation has no text."""

    reason: str
    over_limit: bool
    """True if the template was stopped; False if it refused the conversation."""


class TemplateRenderer:
    """Renders conversations in a process that starts with the first one."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def render(
        self, template: TemplateSource, conversations: Sequence[Conversation]
    ) -> list[list[str] | Failure]:
        """Return the texts of each conversation's prefixes, or the reason why it has none."""
        if len(template.text) > MAX_SOURCE_CHARACTERS:
            reason = f"it has more than {MAX_SOURCE_CHARACTERS:,} characters"
            return [Failure(reason, True)] * len(conversations)
        results: list[list[str] | Failure] = []
        with self._lock:
            while len(results) < len(conversations):
                results += self._render_some(template, conversations[len(results) :])
        return results

    def close(self) -> None:
        """End the process; the next conversation starts another one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()

    def _render_some(
        self, template: TemplateSource, conversations: Sequence[Conversation]
    ) -> list[list[str] | Failure]:
        """Return the results of the first conversations: a request's, up to one that is fatal."""
        chunk = list(_first(conversations))
        request = {
            "source": template.text,
            "date": template.date.isoformat(),
            "variables": template.variables,
            "seconds": self._seconds,
            "conversations": [vars(conversation) for conversation in chunk],
        }
        results: list[list[str] | Failure] = []
        try:
            process = self._start()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while len(results) < len(chunk) and (line := process.stdout.readline()):
                answer = json.loads(line)
                results.append(
                    answer["texts"]
                    if "texts" in answer
                    else Failure(answer["error"], answer["limit"])
                )
        except BaseException:  # the next answer would belong to this request
            self.close()
            raise
        if len(results) < len(chunk):
            self.close()
            reason = f"it computes longer than {self._seconds:g} seconds, or needs too much memory"
            results.append(Failure(reason, True))
        return results

    def _start(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork the process is the parent's
            self._process = None
        if self._process is None or self._process.poll() is not None:
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                # -P: it imports what this process does, and nothing that lies beside the script.
                [sys.executable, "-P", str(Path(template_process.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def _first(conversations: Sequence[Conversation]) -> Iterator[Conversation]:
    """Yield the first conversations, as many as belong into one request."""
    characters = 0
    for conversation in conversations[:_CONVERSATIONS_PER_REQUEST]:
        characters += conversation.characters
        yield conversation
        if characters > _CHARACTERS_PER_REQUEST:
            return


RENDERER = TemplateRenderer()
"""The renderer of this process."""
