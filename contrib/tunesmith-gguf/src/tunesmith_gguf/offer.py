"""Offer the ``gguf`` and ``ollama`` exporters."""

from __future__ import annotations

from tunesmith.offers import ExporterOffer
from tunesmith_gguf.options import TOLERANCES, GgufOptions, OllamaOptions


def find_tolerance(options: GgufOptions) -> float | None:
    """Return the allowed error of a log-probability in nats, or None if weights are rounded."""
    return TOLERANCES.get(options.quantize)


GGUF = ExporterOffer(
    name="gguf",
    summary="A GGUF file for llama.cpp and programs based on it",
    config=GgufOptions,
    build="tunesmith_gguf.exporter:GgufExporter",
    tolerance=find_tolerance,
)
OLLAMA = ExporterOffer(
    name="ollama",
    summary="A GGUF file and a Modelfile, for ollama create",
    config=OllamaOptions,
    build="tunesmith_gguf.ollama:OllamaExporter",
    tolerance=find_tolerance,
)
