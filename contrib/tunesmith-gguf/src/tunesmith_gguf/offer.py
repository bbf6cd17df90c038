"""The offer of the exporter ``gguf``."""

from __future__ import annotations

from tunesmith.offers import ExporterOffer
from tunesmith_gguf.options import TOLERANCES, GgufOptions
from tunesmith_torch.export.contract import Exporter


def build(options: GgufOptions) -> Exporter:
    """Return the exporter."""
    from tunesmith_gguf.exporter import GgufExporter

    return GgufExporter(options)


GGUF = ExporterOffer(
    name="gguf",
    summary="A GGUF file for llama.cpp and the programs that use it",
    config=GgufOptions,
    build=build,
    tolerance=lambda options: TOLERANCES.get(options.quantize),
)
