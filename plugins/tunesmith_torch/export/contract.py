"""The contract of exporters: write a model for an engine, and open the result in that engine.

Importing it imports no torch, so that the offer of an exporter can name these types.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from tunesmith.contracts import Generation
from tunesmith.records import Prompt


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
