"""Show an answer in progress: a spinner until the first text arrives, then the growing text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import click
from rich.console import Console

from tunesmith.contracts import Generation
from tunesmith.records import Prompt
from tunesmith.terminal import supports_color, supports_live_display
from tunesmith.text import one_line, redact, safe_text


@runtime_checkable
class StreamingModel(Protocol):
    """The interface of a text model that can stream its answer."""

    def stream(
        self, prompt: Prompt, max_new_tokens: int, *, seed: int = 0, temperature: float = 0.0
    ) -> Iterator[Generation]:
        """Yield the answer so far after each token. The last item is the complete answer."""
        ...


@contextmanager
def show_spinner(name: str) -> Iterator[None]:
    """Show on stderr that a model is answering, if stderr is a terminal with live display."""
    if not supports_live_display(sys.stderr):
        yield
        return
    console = Console(
        file=sys.stderr,
        markup=False,
        emoji=False,
        force_terminal=True,
        no_color=not supports_color(sys.stderr),
    )
    with console.status(f"{one_line(name, 40)} is answering"):
        yield


def print_stream(parts: Iterator[Generation], name: str) -> Generation:
    """Print a growing answer on stdout, word by word, and return the complete answer.

    Print only whole words, never a part of a character, an escape sequence or a secret.
    """
    shown, answer = "", None
    with show_spinner(name):
        for answer in parts:
            shown = _next_words(answer.text, shown)
            if shown:
                break
    _print(shown)
    for answer in parts:
        longer = _next_words(answer.text, shown)
        _print(longer[len(shown) :])
        shown = longer
    if answer is None:
        raise ValueError("the model's stream ended without an answer")
    whole = _clean(answer.text)
    # Printed text might turn out to be part of a secret, or decode differently with more tokens.
    _print(f"{whole[len(shown) :]}\n" if whole.startswith(shown) else f"\n{whole}\n")
    return answer


def _next_words(text: str, shown: str) -> str:
    """Return the text up to its last whole word, or ``shown`` if the text does not extend it."""
    clean = _clean(text)
    end = max(clean.rfind(" "), clean.rfind("\n")) + 1
    return clean[:end] if end > len(shown) and clean.startswith(shown) else shown


def _clean(text: str) -> str:
    return redact(safe_text(text))


def _print(text: str) -> None:
    click.echo(text, nl=False)
    sys.stdout.flush()
