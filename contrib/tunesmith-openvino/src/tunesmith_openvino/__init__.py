"""Exporter ``openvino``: a trained model for OpenVINO GenAI, checked before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ExporterOffer


@hookimpl
def tunesmith_exporters() -> Sequence[ExporterOffer[Any]]:
    """Offer the exporter."""
    from tunesmith_openvino.offer import OPENVINO

    return [OPENVINO]
