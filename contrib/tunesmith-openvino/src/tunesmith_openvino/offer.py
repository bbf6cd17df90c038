"""Offer the ``openvino`` exporter, with its options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.offers import ExporterOffer
from tunesmith.options import Options

TOLERANCES = {"f32": 1e-4, "f16": 0.05}
"""Allowed difference of a log-probability, in nats."""


class OpenvinoOptions(Options):
    """Options of the ``openvino`` exporter: the format of the weights."""

    quantize: Literal["f32", "f16"] = Field(
        "f16",
        description="Format of the weights: f32 changes nothing, f16 halves the folder's size.",
    )


OPENVINO = ExporterOffer(
    name="openvino",
    summary="A graph and its tokenizer for OpenVINO GenAI, in 32 or 16 bits",
    config=OpenvinoOptions,
    build="tunesmith_openvino.exporter:OpenvinoExporter",
    tolerance=lambda options: TOLERANCES[options.quantize],
)
