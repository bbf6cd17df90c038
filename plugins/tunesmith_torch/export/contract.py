"""The contract of exporters: write a model for an engine, and open the result in that engine.

This module does not import torch, so exporter offers can name its types.
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
    """Raised by a check that is inconclusive; the message is the reason."""


class Engine(Protocol):
    """A model loaded in the engine that serves it, with the engine's template and tokenizer."""

    def render(self, prompt: Prompt) -> str:
        """Return the rendered text of a prompt, up to the start of the answer."""

    def tokenize(self, text: str) -> Sequence[int]:
        """Return the token ids of a rendered prompt, as the engine computes them when serving."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Sequence[Generation]:
        """Generate greedy answers, with their token ids, including the end token."""

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of the next token after each of ``ids[first:]``, [N, V]."""


class Exporter(Protocol):
    """Writes a model folder in the format of an engine."""

    def export(self, model: Path, out: Path) -> None:
        """Write the model to ``out``, an empty folder, without changing the model folder."""

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts that the exported files contain, to compare with the model folder.

        ``end_ids``, the ids of the end tokens, is required. Optional are ``rope_theta``; ``tied``,
        True if embeddings and output head share weights; and ``tokens``, the id of each added
        token by its text.
        """

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load an export into the engine, which is released at the end of the block."""


@runtime_checkable
class AdapterExporter(Protocol):
    """An exporter that writes an adapter unmerged, for an engine that adds it to the base model."""

    def check_adapter(self, adapter: Path) -> None:
        """Raise an error if the engine cannot serve an adapter of this kind."""

    def export_adapter(self, base: Path, adapter: Path, out: Path) -> None:
        """Write the adapter to ``out``, an empty folder."""

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts that the exported files contain; see :meth:`Exporter.facts`."""

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the base model and the adapter into the engine; see :meth:`Exporter.open`."""


@runtime_checkable
class ServedExporter(Protocol):
    """An exporter with additional checks, which also knows the command that serves its exports."""

    def own_checks(self, out: Path) -> Iterable[tuple[str, Callable[[], str]]]:
        """Return additional checks with their names, which run before the engine's checks.

        A check returns its result as text, or raises AssertionError or :class:`NotVerifiedError`.
        """

    def serve_command(self, out: Path | None) -> str:
        """Return a command that serves the export in ``out`` with the settings used in the checks.

        With None, return a command for use inside the export's folder, without this machine's
        paths.
        """
