"""Run a chat template. A script for a limited process: it reads the template from stdin.

It imports jinja2 only, to be quick. What it renders is not used; the exit code tells whether the
text was too long. Errors of the template are no concern of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

TURNS = 64
MAX_CHARACTERS = 4_000_000
TOO_LONG = 3
"""Exit code."""


def run(source: str) -> int:
    """Render the template for a question, and for a conversation of many turns."""
    try:
        for turns in (1, TURNS):
            if count_characters(source, turns) > MAX_CHARACTERS:
                return TOO_LONG
    except MemoryError:
        raise
    except Exception:  # whatever a template raises is reported at its first real use
        return 0
    return 0


def count_characters(source: str, turns: int) -> int:
    """Return the characters of the rendered conversation, counted up to the limit.

    Raises:
        jinja2.TemplateError: the template is wrong, or refuses the conversation.
    """
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag ``generation`` of transformers, which leaves its content as it is."""

        def __init__(self, environment: Environment) -> None:
            super().__init__(environment)
            self.tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    to_json: Callable[..., str] = json.dumps
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=refuse, strftime_now=lambda text: text)
    messages = [
        {"role": role, "content": f"text {number}"}
        for number in range(turns)
        for role in ("user", "assistant")
    ]
    special_tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    pieces = environment.from_string(source).generate(
        messages=messages[:-1], add_generation_prompt=True, **special_tokens
    )
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > MAX_CHARACTERS:
            break
    return total


if __name__ == "__main__":
    text = json.loads(sys.stdin.buffer.read())
    sys.exit(run(text))
