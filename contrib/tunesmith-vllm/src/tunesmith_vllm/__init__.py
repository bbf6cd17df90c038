"""Exporter ``vllm``: a folder or an adapter that vLLM serves, checked there before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ExporterOffer


@hookimpl
def tunesmith_exporters() -> Sequence[ExporterOffer[Any]]:
    """Offer the exporter."""
    from tunesmith_vllm.offer import VLLM

    return [VLLM]
