"""Exporters ``gguf`` and ``ollama``: a trained model for llama.cpp or Ollama, checked before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ExporterOffer


@hookimpl
def tunesmith_exporters() -> Sequence[ExporterOffer[Any]]:
    """Offer the exporters."""
    from tunesmith_gguf.offer import GGUF, OLLAMA

    return [GGUF, OLLAMA]
