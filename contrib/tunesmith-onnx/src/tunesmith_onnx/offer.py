"""Offer the ``onnx`` exporter, with its options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.offers import ExporterOffer
from tunesmith.options import Options


class OnnxOptions(Options):
    """Options of the ``onnx`` exporter: the format of the weights."""

    quantize: Literal["f32", "int8", "int4"] = Field(
        "f32",
        description=(
            "Format of the weights of matrices. f32 changes nothing; int8 and int4 use a scale per "
            "32 weights. Embeddings stay in f32."
        ),
    )


ONNX = ExporterOffer(
    name="onnx",
    summary="An ONNX graph with cached keys and values, for ONNX Runtime",
    config=OnnxOptions,
    build="tunesmith_onnx.exporter:OnnxExporter",
    tolerance=lambda options: 1e-4 if options.quantize == "f32" else None,
)
