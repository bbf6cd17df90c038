"""Exporter ``gguf``: a trained model as a GGUF file for llama.cpp, checked in llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ExporterOffer


@hookimpl
def tunesmith_exporters() -> Sequence[ExporterOffer[Any]]:
    """Offer the exporter."""
    from tunesmith_gguf.offer import GGUF

    return [GGUF]
