"""Define the options of the ``mlx`` exporter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.options import Options

TOLERANCES = {"f32": 1e-4, "f16": 0.05}
"""Allowed difference of a log-probability in nats, for formats that barely round."""


class MlxOptions(Options):
    """Options of the ``mlx`` exporter: the format of the weights."""

    quantize: Literal["f32", "f16", "bf16", "int8", "int4"] = Field(
        "f16",
        description=(
            "Format of the weights. f32 changes nothing; f16 and bf16 halve the size of the "
            "folder. int8 and int4 use a scale and an offset per group_size weights, and keep "
            "the rest in bf16."
        ),
    )
    group_size: Literal[32, 64, 128] = Field(
        64,
        description=(
            "Number of weights that share a scale and an offset in int8 and int4. Smaller groups "
            "are more accurate and take more space. Matrices whose rows cannot be divided by it "
            "stay in bf16."
        ),
    )
