"""Render chat templates in a separate process, with time and memory limits.

A chat template is a program written by a model's authors. Jinja's sandbox keeps it away from
objects and files, but does not stop endless loops or gigabytes of text, which may happen for one
row in a million. So every row is rendered within limits. One process serves all templates. It
starts in a tenth of a second and renders as fast as this process would.
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
"""Maximum CPU seconds for all renderings of one conversation."""
_CONVERSATIONS_PER_REQUEST = 256
_CHARACTERS_PER_REQUEST = 1_000_000


@dataclass(frozen=True)
class TemplateSource:
    """A chat template, and the values that it gets in addition to the messages."""

    text: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The tokenizer's special tokens, by name."""
    date: date = TEMPLATE_DATE

    def with_generation_prompt(self, prompt: str) -> TemplateSource:
        """Return a template that adds this text as its generation prompt, when asked for one."""
        text = self.text.removesuffix("\n")  # jinja ignores a newline only at the very end
        literal = json.dumps(prompt, ensure_ascii=False)
        suffix = f"{{% if add_generation_prompt %}}{{{{ {literal} }}}}{{% endif %}}"
        return replace(self, text=text + suffix)


@dataclass(frozen=True)
class Conversation:
    """Messages in the form that templates get, and the prefixes to render."""

    messages: Sequence[Mapping[str, Any]]
    prefixes: Sequence[tuple[int, bool]]
    """For each prefix, the number of messages and whether the generation prompt follows."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Definitions of the tools that the model may call."""

    @property
    def characters(self) -> int:
        """Number of characters of all message contents."""
        return sum(len(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Failure:
    """The reason why a conversation could not be rendered."""

    reason: str
    over_limit: bool
    """True if the template was stopped; False if it rejected the conversation."""


class TemplateRenderer:
    """Renders conversations in a separate process, which starts with the first conversation."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def render(
        self, template: TemplateSource, conversations: Sequence[Conversation]
    ) -> list[list[str] | Failure]:
        """Return the rendered prefixes of each conversation, or the reason why rendering failed."""
        if len(template.text) > MAX_SOURCE_CHARACTERS:
            reason = f"it has more than {MAX_SOURCE_CHARACTERS:,} characters"
            return [Failure(reason, True)] * len(conversations)
        results: list[list[str] | Failure] = []
        with self._lock:
            while len(results) < len(conversations):
                results += self._render_some(template, conversations[len(results) :])
        return results

    def close(self) -> None:
        """End the process; the next conversation starts a new one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()

    def _render_some(
        self, template: TemplateSource, conversations: Sequence[Conversation]
    ) -> list[list[str] | Failure]:
        """Return the results of one request, up to a conversation that ends the process."""
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
        except BaseException:  # otherwise the next request would read this request's answers
            self.close()
            raise
        if len(results) < len(chunk):
            self.close()
            reason = f"it computes longer than {self._seconds:g} seconds, or needs too much memory"
            results.append(Failure(reason, True))
        return results

    def _start(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork, the process belongs to the parent
            self._process = None
        if self._process is None or self._process.poll() is not None:
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                # -P: import the same modules as this process, and none from the script's folder.
                [sys.executable, "-P", str(Path(template_process.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def _first(conversations: Sequence[Conversation]) -> Iterator[Conversation]:
    """Yield the first conversations, as many as fit in one request."""
    characters = 0
    for conversation in conversations[:_CONVERSATIONS_PER_REQUEST]:
        characters += conversation.characters
        yield conversation
        if characters > _CHARACTERS_PER_REQUEST:
            return


RENDERER = TemplateRenderer()
"""The default renderer, shared by all code of this process."""
