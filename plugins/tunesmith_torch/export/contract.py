"""The contract of exporters: write a model for an engine, and open the result in that engine.

Importing it imports no torch, so that the offer of an exporter can name these types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tunesmith.contracts import Generation
from tunesmith.records import Prompt

__all__ = ["AdapterExporter", "Engine", "Exporter", "NotVerifiedError", "ServedExporter"]


class NotVerifiedError(Exception):
    """A check that cannot show anything, with the reason."""


class Engine(Protocol):
    """A model in the engine that serves it, with the template and tokenizer of that engine."""

    def render(self, prompt: Prompt) -> str:
        """Return the text of a prompt, up to where the answer begins."""

    def tokenize(self, text: str) -> Sequence[int]:
        """Return the ids of a rendered prompt, as the engine computes them when it is asked."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Sequence[Generation]:
        """Generate greedy answers, with their token ids; the end token is one of them."""

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of the tokens after each of ``ids[first:]``, [N, V]."""


class Exporter(Protocol):
    """Writes a model folder in the format of an engine."""

    def export(self, model: Path, out: Path) -> None:
        """Write the model below ``out``, an empty folder. The model folder is not changed."""

    def facts(self, out: Path) -> dict[str, Any]:
        """Return what the files say of ``end_ids``, ``rope_theta``, ``tied`` and ``tokens``."""

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load an export into the engine, which is released at the end of the block."""


@runtime_checkable
class AdapterExporter(Protocol):
    """An exporter that writes an adapter as it is, for an engine that adds it to its base model."""

    def check_adapter(self, adapter: Path) -> None:
        """Raise an error if the engine cannot serve an adapter of this kind."""

    def export_adapter(self, base: Path, adapter: Path, out: Path) -> None:
        """Write the adapter below ``out``, an empty folder."""

    def facts(self, out: Path) -> dict[str, Any]:
        """Return what the files say, as :meth:`Exporter.facts` does."""

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the base model and the adapter into the engine, as :meth:`Exporter.open` does."""


@runtime_checkable
class ServedExporter(Protocol):
    """An exporter that knows how its exports are served, and has checks of its own."""

    def own_checks(self, out: Path) -> Iterable[tuple[str, Callable[[], str]]]:
        """Return checks by name, which run before the engine is asked.

        Each returns what it measured, or raises AssertionError or :class:`NotVerifiedError`.
        """

    def serve_command(self, out: Path | None) -> str:
        """Return the command that serves an export as it was checked.

        None: from inside its folder, without the paths of this machine, for others who get it.
        """
