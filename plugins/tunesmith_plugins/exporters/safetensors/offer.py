"""Offer the ``safetensors`` exporter, with its options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.offers import ExporterOffer
from tunesmith.options import Options


class SafetensorsOptions(Options):
    """Options of the ``safetensors`` exporter: the dtype of the exported weights."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description=(
            "Number format of the weights. float32 keeps every value exactly. The other formats "
            "halve the size of the folder and round the changes from the merged adapter."
        ),
    )


SAFETENSORS = ExporterOffer(
    name="safetensors",
    summary="a model folder for transformers, vLLM and others, with adapters merged",
    config=SafetensorsOptions,
    build="tunesmith_plugins.exporters.safetensors.exporter:SafetensorsExporter",
    needs=("torch>=2.11", "transformers>=5.17", "safetensors>=0.5"),
    tolerance=lambda options: 1e-4 if options.dtype == "float32" else None,
)
