"""Render chat templates within time and memory limits. A script that reads JSON requests.

It only imports jinja2, to start quickly. Each line of input is a request with a template and
conversations. The output is one line per conversation, in order, so if the process dies, the reader
knows on which conversation::

    {"source": ..., "date": "2024-07-26", "variables": {"bos_token": ...}, "seconds": 5,
     "conversations": [{"messages": [...], "prefixes": [[1, true], [2, false]]}]}
    {"texts": [...]} | {"error": "...", "limit": false}

A prefix is a number of messages, and whether the generation prompt follows. The jinja environment
is the same as in transformers' ``apply_chat_template``, but ``strftime_now`` prints a given date.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_CHARACTERS = 4_000_000
"""Maximum number of characters of one rendering."""
MAX_TOTAL_CHARACTERS = 32_000_000
"""Maximum number of characters of all renderings of a conversation."""
MEMORY_BYTES = 1 << 30
GRACE_SECONDS = 1
"""Additional CPU seconds after which a rendering that no exception could stop is killed."""


class OutOfTimeError(BaseException):
    """Raised if a conversation takes too long; templates cannot catch it."""


class TooLongError(BaseException):
    """Raised if the renderings of a conversation have too many characters."""


class _GenerationTag(Extension):
    """transformers' tag ``generation``, which leaves its content unchanged."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse up to ``endgeneration``; variables that are set inside stay inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(Namespace):
    """A namespace that rejects names with a leading underscore, as in transformers."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"the name {name!r} begins with an underscore")
        super().__setitem__(name, value)


def render_all(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the response for each conversation of a request."""
    for conversation in request["conversations"]:
        try:
            start_time_limit(request["seconds"])
            yield {"texts": render(request, conversation)}
        except OutOfTimeError:
            yield _limit(f"it computes longer than {request['seconds']:g} seconds")
        except TooLongError:
            yield _limit(f"it makes more than {MAX_CHARACTERS:,} characters")
        except MemoryError:
            yield _limit("it needs too much memory")
        except Exception as error:  # a template can raise anything
            yield {"error": str(error)[:300] or type(error).__name__, "limit": False}
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def render(request: Mapping[str, Any], conversation: Mapping[str, Any]) -> list[str]:
    """Return the text of each prefix of a conversation.

    Raises:
        Exception: any exception that the template raises.
    """
    template = compile_template(request["source"])
    date = datetime.fromisoformat(request["date"])
    texts: list[str] = []
    for length, generation in conversation["prefixes"]:
        pieces = template.generate(
            **request["variables"],
            messages=conversation["messages"][:length],
            tools=conversation["tools"],
            documents=None,
            add_generation_prompt=generation,
            strftime_now=date.strftime,
        )
        texts.append(_join(pieces, sum(map(len, texts))))
    return texts


def _join(pieces: Iterator[str], earlier: int) -> str:
    parts: list[str] = []
    length = 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length > MAX_CHARACTERS or earlier + length > MAX_TOTAL_CHARACTERS:
            raise TooLongError
    return "".join(parts)


@lru_cache(maxsize=16)
def compile_template(source: str) -> Template:
    """Compile a chat template in the sandbox; equal sources are compiled once."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    filters: dict[str, Any] = environment.filters
    filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals.update(raise_exception=raise_exception, namespace=_Namespace)
    return environment.from_string(source)


def start_time_limit(seconds: float) -> None:
    """Limit the CPU time: raise an exception after ``seconds``, end the process shortly after."""

    def stop(number: int, frame: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + GRACE_SECONDS
    _set_limit(resource.RLIMIT_CPU, limit)


def _limit(error: str) -> dict[str, Any]:
    return {"error": error, "limit": True}


def _set_limit(kind: int, soft: int) -> None:
    try:
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
    except (ValueError, OSError):  # macOS cannot limit memory
        return


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    _set_limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)
    for line in sys.stdin.buffer:
        for answer in render_all(json.loads(line)):
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
