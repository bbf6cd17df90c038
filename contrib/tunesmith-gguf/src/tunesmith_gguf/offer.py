"""The offers of the exporters ``gguf`` and ``ollama``."""

from __future__ import annotations

from tunesmith.offers import ExporterOffer
from tunesmith_gguf.options import TOLERANCES, GgufOptions, OllamaOptions
from tunesmith_torch.export.contract import Exporter


def build_gguf(options: GgufOptions) -> Exporter:
    """Return the exporter of GGUF files."""
    from tunesmith_gguf.exporter import GgufExporter

    return GgufExporter(options)


def build_ollama(options: OllamaOptions) -> Exporter:
    """Return the exporter for Ollama."""
    from tunesmith_gguf.ollama import OllamaExporter

    return OllamaExporter(options)


def find_tolerance(options: GgufOptions) -> float | None:
    """Return the largest difference of a log-probability, in nats; None if weights are rounded."""
    return TOLERANCES.get(options.quantize)


GGUF = ExporterOffer(
    name="gguf",
    summary="A GGUF file for llama.cpp and the programs that use it",
    config=GgufOptions,
    build=build_gguf,
    tolerance=find_tolerance,
)
OLLAMA = ExporterOffer(
    name="ollama",
    summary="A GGUF file and a Modelfile, for ollama create",
    config=OllamaOptions,
    build=build_ollama,
    tolerance=find_tolerance,
)
